//! From facts to findings.

mod capacity;
mod isolation;
mod platforms;
mod speed;

use super::{Facts, Finding, Report, State};
use std::time::Duration;

/// What a host with these facts offers.
pub fn assess(facts: &Facts) -> Report {
    let platform = match (&facts.kvm.hypercall, &facts.process.hypercall) {
        (Ok(_), _) => Some("kvm"),
        (Err(_), Ok(_)) => Some("process"),
        (Err(_), Err(_)) => None,
    };
    let findings = vec![
        platforms::kvm(facts),
        platforms::process(facts),
        platforms::auto(facts, platform),
        isolation::seccomp(facts),
        isolation::namespaces(facts),
        isolation::landlock(facts),
        speed::io_uring(facts),
        isolation::tap(facts),
        capacity::files(facts),
        capacity::processes(facts),
        capacity::mappings(facts),
        capacity::memory(facts),
        capacity::overcommit(facts),
        capacity::equal_pages(facts),
        speed::huge_pages(facts),
        speed::pagemap_scan(facts),
        speed::clock(facts),
        speed::random(facts),
    ];
    Report { can_run: platform.is_some(), platform, findings }
}

impl Finding {
    fn new(name: &'static str, state: State, found: impl Into<String>, means: impl Into<String>) -> Finding {
        Finding {
            name,
            state,
            found: found.into(),
            means: means.into(),
            remedy: None,
            figures: Default::default(),
        }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }

    fn figure(mut self, name: &'static str, value: u64) -> Finding {
        self.figures.insert(name, value);
        self
    }
}

/// A time in microseconds with two digits or more.
fn micros(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1e3;
    if micros < 10.0 { format!("{micros:.2} µs") } else { format!("{micros:.0} µs") }
}

/// A size in GiB, or in MiB if it is small.
fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib >= 1.0 { format!("{gib:.1} GiB") } else { format!("{} MiB", bytes >> 20) }
}

#[cfg(test)]
mod tests;
