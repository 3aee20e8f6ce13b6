//! Time: a monotonic clock that never leaves the guest, the wall clock, and sleep.
#![forbid(unsafe_code)]

pub use crate::clock::{Instant, now_nanos, wall_nanos};
pub use core::time::Duration;

use crate::event;

/// Waits without using the processor. In async code use [`embassy_time::Timer`]: this function blocks every task.
pub fn sleep(duration: Duration) {
    let deadline = Instant::now() + duration;
    // No device raises this event, so only the deadline ends the wait.
    event::wait_only(hv_abi::event::NONE, Some(deadline));
}
