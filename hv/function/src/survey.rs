//! Which machines' memory is measured again, so that asking for figures costs the same with ten guests and with
//! thousands: to measure one walks its page tables.

use std::time::{Duration, Instant};

/// Most machines that are measured in a [`PERIOD`].
const MACHINES: usize = 64;

/// How often machines are measured, however often the figures are read.
const PERIOD: Duration = Duration::from_millis(100);

/// The state of the measuring rounds. Pure.
#[derive(Default)]
pub(super) struct Survey {
    /// When machines were measured last.
    last: Option<Instant>,
    /// The number of the one that was measured last.
    number: u64,
}

impl Survey {
    /// The machines that are to be measured now: of these (sorted), those that are next.
    pub(super) fn next(&mut self, machines: &[u64], now: Instant) -> Vec<u64> {
        if machines.is_empty() || self.last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            return Vec::new();
        }
        self.last = Some(now);
        let first = machines.partition_point(|&number| number <= self.number);
        let (before, behind) = machines.split_at(first);
        let next: Vec<_> = behind.iter().chain(before).take(MACHINES).copied().collect();
        self.number = next.last().copied().unwrap_or_default();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_and_no_more_than_a_few_at_a_time() {
        let (mut survey, start) = (Survey::default(), Instant::now());
        let machines: Vec<u64> = (1..=150).collect();
        assert!(survey.next(&[], start).is_empty());
        assert_eq!(survey.next(&machines, start), (1..=64).collect::<Vec<_>>());
        assert!(survey.next(&machines, start + PERIOD / 2).is_empty(), "too early");
        assert_eq!(survey.next(&machines, start + PERIOD), (65..=128).collect::<Vec<_>>());
        let rest: Vec<_> = (129..=150).chain(1..=42).collect();
        assert_eq!(survey.next(&machines, start + 2 * PERIOD), rest);
        assert_eq!(survey.next(&[7], start + 3 * PERIOD), [7], "one that is there is measured once");
    }
}
