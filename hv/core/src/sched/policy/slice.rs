//! The time slice of a task that is running.

use super::{Id, Time, YIELD_NANOS};

/// A task that is running.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeSlice {
    pub(super) id: Id,
    pub(super) since: Time,
    /// When it ends if others wait.
    pub(super) slice_end: Time,
    /// When it ends in any case: its cap.
    pub(super) budget_end: Time,
    /// When the task was asked to give way.
    pub(super) asked: Option<Time>,
}

impl TimeSlice {
    pub(super) fn end(&self, crowded: bool) -> Time {
        if crowded { self.slice_end.min(self.budget_end) } else { self.budget_end }
    }

    /// Whether it is about to end if others wait. A task that was asked and does not give way has lost its processor to
    /// something outside hv.
    pub(super) fn is_ending(&self, now: Time) -> bool {
        self.asked.map_or(self.slice_end <= now, |asked| now < asked + YIELD_NANOS)
    }
}
