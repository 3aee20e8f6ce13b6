//! Limits log lines that every request may cause to one a second, which counts the others.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Least time between two lines.
const PERIOD: Duration = Duration::from_secs(1);

/// Decides when to write such a line.
#[derive(Default)]
pub(super) struct Throttle(Mutex<ThrottleState>);

#[derive(Default)]
struct ThrottleState {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Whether to write one now, and how many were not written since the last one.
    pub(super) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("no panic while held");
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_counts_the_others() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let at = |milliseconds| throttle.pass(start + Duration::from_millis(milliseconds));
        assert_eq!((at(0), at(1), at(999)), (Some(0), None, None));
        assert_eq!((at(1000), at(1500), at(2100)), (Some(2), None, Some(1)));
    }
}
