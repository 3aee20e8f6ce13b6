//! Called for guests when they have done some work, by the program that started them.

use super::Outcome;

/// Is told what a guest does, on the thread that runs it. Functions are built on this.
pub trait Hook: Send + Sync {
    /// Whether the guest is to be paused when it has done its work, before [`done`](Self::done).
    fn pauses_when_done(&self) -> bool;
    /// The guest has done the work that a device gave it. It is paused if [`pauses_when_done`](Self::pauses_when_done) says so.
    fn done(&self);
    /// The guest has ended.
    fn ended(&self, outcome: &Outcome);
}
