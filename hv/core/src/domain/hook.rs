//! What a program does with the guests that it has started when they have done some work.

use super::Outcome;

/// Hears of what a guest does, on the thread that runs it. Functions are made of this.
pub trait Hook: Send + Sync {
    /// Whether the guest is to be paused when it has done its work, before [`done`](Self::done).
    fn pauses_when_done(&self) -> bool;
    /// The guest has done the work that a device gave it, and is paused if it is to be.
    fn done(&self);
    /// The guest has ended.
    fn ended(&self, outcome: &Outcome);
}
