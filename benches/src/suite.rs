//! Which measurements of a bench are wanted, and which have failed.
//!
//! A bench obeys what Criterion's benches obey: `--list` names everything and runs nothing, names that are given choose, and
//! without `--bench` (as `cargo test --benches` has it) everything is done once, to see that it works.

use crate::pair::{self, Ratio};
use criterion::Criterion;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Options of Criterion that are followed by a value, which is no name.
const WITH_VALUE: [&str; 18] = [
    "--baseline",
    "--baseline-lenient",
    "--color",
    "--colour",
    "--confidence-level",
    "--format",
    "--load-baseline",
    "--measurement-time",
    "--noise-threshold",
    "--nresamples",
    "--output-format",
    "--plotting-backend",
    "--profile-time",
    "--sample-size",
    "--save-baseline",
    "--significance-level",
    "--warm-up-time",
    "-b",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Measure,
    /// Do everything once.
    Test,
    List,
}

/// The measurements of a bench.
#[derive(Debug)]
pub struct Suite {
    mode: Mode,
    filters: Vec<String>,
    failed: AtomicBool,
}

impl Suite {
    /// What the command line says.
    pub fn of_arguments() -> Suite {
        Suite::of(std::env::args().skip(1))
    }

    fn of(arguments: impl Iterator<Item = String>) -> Suite {
        let (mut mode, mut filters, mut bench) = (Mode::Measure, Vec::new(), false);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--list" => mode = Mode::List,
                "--test" if mode != Mode::List => mode = Mode::Test,
                "--bench" => bench = true,
                option if WITH_VALUE.contains(&option) => drop(arguments.next()),
                option if option.starts_with('-') => {}
                _ => filters.push(argument),
            }
        }
        if !bench && mode == Mode::Measure {
            mode = Mode::Test;
        }
        Suite { mode, filters, failed: AtomicBool::new(false) }
    }

    /// Whether the measurement of this name is to be made. If everything is to be listed, it is, and is not.
    pub fn wants(&self, name: &str) -> bool {
        let chosen =
            self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()));
        if chosen && self.mode == Mode::List {
            println!("{name}: benchmark");
        }
        chosen && self.mode != Mode::List
    }

    /// Names these measurements, if they are to be listed: then nothing has to be set up.
    pub fn lists(&self, names: impl IntoIterator<Item = String>) -> bool {
        let lists = self.mode == Mode::List;
        for name in names.into_iter().filter(|_| lists) {
            self.wants(&name);
        }
        lists
    }

    /// How often something is to be done that is done `times` otherwise.
    pub fn times(&self, times: usize) -> usize {
        if self.mode == Mode::Measure { times } else { 1 }
    }

    /// Makes a measurement if it is wanted. One that panics has failed, and the others go on.
    pub fn run(&self, name: &str, measure: impl FnOnce()) {
        if self.wants(name) && catch_unwind(AssertUnwindSafe(measure)).is_err() {
            println!("failed: {name}");
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Times two ways of doing the same, in turn, and has the result printed.
    pub fn pair(
        &self,
        name: &str,
        rounds: usize,
        floor: impl FnMut() -> Duration,
        ours: impl FnMut() -> Duration,
        print: impl FnOnce(&Ratio),
    ) {
        self.run(name, || print(&pair::compare(self.times(rounds), floor, ours)));
    }

    /// Has Criterion measure what belongs to this bench, too; it reads the command line itself.
    pub fn criterion(&self, measure: impl FnOnce(&mut Criterion)) {
        let mut criterion = Criterion::default().configure_from_args();
        if catch_unwind(AssertUnwindSafe(|| measure(&mut criterion))).is_err() {
            println!("failed: a measurement of Criterion");
            self.failed.store(true, Ordering::Relaxed);
        }
        if self.mode == Mode::Measure {
            criterion.final_summary();
        }
    }

    /// What the process ends with: an error if a measurement has failed.
    pub fn end(self) -> ExitCode {
        if self.failed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(arguments: &[&str]) -> Suite {
        Suite::of(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn names_choose_and_values_of_options_are_none() {
        let all = suite(&["--bench"]);
        assert!(all.wants("doorbell") && all.times(40) == 40);
        let some = suite(&["--sample-size", "10", "bell", "--bench"]);
        assert!(some.wants("doorbell") && !some.wants("hypercall 10"));
    }

    #[test]
    fn what_is_listed_is_not_run() {
        let list = suite(&["--bench", "--list"]);
        list.run("doorbell", || panic!("it is run"));
        assert!(!list.wants("doorbell") && !list.failed.load(Ordering::Relaxed));
    }

    #[test]
    fn without_cargo_bench_everything_is_done_once() {
        for arguments in [&["--test"][..], &[]] {
            let once = suite(arguments);
            assert!(once.wants("doorbell") && once.times(40) == 1);
        }
    }

    #[test]
    fn one_that_fails_is_told_and_the_others_go_on() {
        let suite = suite(&["--bench"]);
        suite.run("it fails", || panic!("as it should here"));
        let ran = std::cell::Cell::new(false);
        suite.run("it does not", || ran.set(true));
        assert!(suite.failed.load(Ordering::Relaxed) && ran.get());
    }
}
