//! When a function gets another layout: all its guests resume from one template at one random address, so a
//! client that can crash them again and again learns about that address. After some crashes the function is
//! booted anew, at another.
#![forbid(unsafe_code)]

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Crashes with one layout after which there is to be another.
const CRASHES: u32 = 16;

/// The shortest time between two layouts: booting a function costs the host time.
const AT_LEAST: Duration = Duration::from_secs(10);

/// Counts the crashes of guests with one layout.
#[derive(Debug)]
pub(super) struct Layout(Mutex<LayoutState>);

#[derive(Debug)]
struct LayoutState {
    since: Instant,
    crashes: u32,
    /// Another one is being made.
    asked: bool,
}

impl Layout {
    /// A layout that is used from now on.
    pub(super) fn new(now: Instant) -> Self {
        Layout(Mutex::new(LayoutState { since: now, crashes: 0, asked: false }))
    }

    /// A guest with this layout has crashed. Returns true once another layout is due, and then not again
    /// until [`keep`](Self::keep).
    pub(super) fn crashed(&self, now: Instant) -> bool {
        let mut state = self.0.lock().expect("no panic while held");
        state.crashes = state.crashes.saturating_add(1);
        let due = !state.asked
            && state.crashes >= CRASHES
            && now.saturating_duration_since(state.since) >= AT_LEAST;
        state.asked |= due;
        due
    }

    /// Another layout could not be made: this one is kept for another period.
    pub(super) fn keep(&self, now: Instant) {
        *self.0.lock().expect("no panic while held") = LayoutState { since: now, crashes: 0, asked: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_crashes_ask_for_another_layout_once() {
        let start = Instant::now();
        let layout = Layout::new(start);
        let later = start + AT_LEAST;
        for _ in 1..CRASHES {
            assert!(!layout.crashed(later));
        }
        assert!(layout.crashed(later));
        assert!(!layout.crashed(later + AT_LEAST), "it has been asked for");
    }

    #[test]
    fn a_storm_of_crashes_asks_no_more_often_than_the_time_allows() {
        let start = Instant::now();
        let layout = Layout::new(start);
        for _ in 0..10 * CRASHES {
            assert!(!layout.crashed(start));
        }
        assert!(layout.crashed(start + AT_LEAST));
        layout.keep(start + AT_LEAST);
        for _ in 0..10 * CRASHES {
            assert!(!layout.crashed(start + AT_LEAST));
        }
        assert!(layout.crashed(start + 2 * AT_LEAST));
    }
}
