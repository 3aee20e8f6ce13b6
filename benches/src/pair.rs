//! Two ways of doing a thing, timed in turn, by the rules of `hv bench` (`docs/measuring.md`).
//!
//! Machines are noisy and drift: a ratio of two runs that stand side by side, taken many times, says more than two averages.

use hv_stats::interval::FEWEST;
use hv_stats::stop::Rounds;
use hv_stats::verdict::EFFECT;
use hv_stats::{Estimate, Verdict, order};
use std::time::Duration;

/// The seed of orders and intervals.
const SEED: u64 = 1;

/// From so many rounds on, both are done twice in each, in opposite orders; below, they take long.
const MIRRORED: usize = 20;

/// What rounds came to.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The floor, in seconds.
    pub floor: Estimate,
    /// The measured way, in seconds.
    pub ours: Estimate,
    /// The rounds' ratios, ours to the floor.
    pub ratio: Estimate,
}

/// Times `floor` and `ours` in turn, `rounds` times after a warm-up, or up to twice as often if the interval of their ratio is wide.
/// With a single round, once and without a warm-up.
pub fn compare(
    rounds: usize,
    mut floor: impl FnMut() -> Duration,
    mut ours: impl FnMut() -> Duration,
) -> Ratio {
    if rounds > 1 {
        for _ in 0..rounds.div_ceil(10) {
            floor();
            ours();
        }
    }
    // One round is a trial; otherwise there are enough for an interval.
    let least = if rounds == 1 { 1 } else { rounds.max(FEWEST) };
    let rounds = Rounds { least: least as u32, most: if least == 1 { 1 } else { 2 * least as u32 } };
    let mut rng = fastrand::Rng::with_seed(SEED);
    let (mut floors, mut all, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut ratio = Estimate::of([], SEED);
    while rounds.go_on(ratios.len() as u32, [&ratio]) {
        let order = if least >= MIRRORED { order::mirrored(2, &mut rng) } else { order::once(2, &mut rng) };
        let (mut of_floor, mut of_ours) = (Duration::ZERO, Duration::ZERO);
        for turn in &order {
            match turn {
                0 => of_floor += floor(),
                _ => of_ours += ours(),
            }
        }
        let turns = order.len() as f64 / 2.0;
        floors.push(of_floor.as_secs_f64() / turns);
        all.push(of_ours.as_secs_f64() / turns);
        ratios.push(of_ours.as_secs_f64() / of_floor.as_secs_f64().max(1e-12));
        ratio = Estimate::of(ratios.iter().copied(), SEED);
    }
    Ratio { floor: Estimate::of(floors, SEED), ours: Estimate::of(all, SEED), ratio }
}

/// An estimate in words: median, 95 % interval, and of how many rounds.
pub fn words(estimate: &Estimate) -> String {
    let interval = estimate.interval.map(|[low, high]| format!(" ({low:.3} to {high:.3})"));
    format!("{:.3}{}, n = {}", estimate.median, interval.unwrap_or_default(), estimate.n)
}

impl Ratio {
    /// Prints one line of the table in `docs/performance.md`.
    pub fn print(&self, what: &str, reach: &str) {
        self.print_as("ratio", what, &self.ratio, reach);
    }

    /// Prints the same for things whose speed is compared: more is better.
    pub fn print_speed(&self, what: &str, reach: &str) {
        self.print_as("speed", what, &self.ratio.inverse(), reach);
    }

    fn print_as(&self, kind: &str, what: &str, ratio: &Estimate, reach: &str) {
        println!(
            "{kind}: {what} | floor {:.2} µs | hv {:.2} µs | {} | {} | reach {reach}",
            self.floor.median * 1e6,
            self.ours.median * 1e6,
            words(ratio),
            Verdict::of(&self.ratio, EFFECT).words(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_take_turns_and_their_ratio_is_known() {
        let calls = std::cell::RefCell::new(Vec::new());
        let call = |which: usize, micros: u64| {
            calls.borrow_mut().push(which);
            Duration::from_micros(micros)
        };
        let ratio = compare(20, || call(0, 100), || call(1, 150));
        assert!((ratio.ratio.median - 1.5).abs() < 1e-9 && ratio.ratio.n == 20, "{:?}", ratio.ratio);
        assert_eq!(Verdict::of(&ratio.ratio, EFFECT), Verdict::Slower);
        // Two of each to warm up, then A B B A or B A A B.
        for round in calls.borrow()[4..].chunks(4) {
            assert!(round[0] == round[3] && round[1] == round[2] && round[0] != round[1], "{round:?}");
        }
        assert_eq!(compare(1, || call(0, 100), || call(1, 150)).ratio.n, 1);
        // As few as are asked for have no interval, so that there are more.
        assert_eq!(compare(3, || call(0, 100), || call(1, 150)).ratio.n, 6);
    }
}
