//! The end of a guest whose console's reader is slow: the rest is written while other guests run.

use super::Domain;
use super::end::End;
use crate::device::console::Console;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How a guest has ended that has not been told to anybody yet.
pub(super) struct Draining {
    end: End,
    /// Whether the I/O thread was asked to go on with the console.
    handed_over: bool,
}

impl Draining {
    pub(super) fn new(end: End) -> Self {
        Draining { end, handed_over: false }
    }
}

/// When to look again. The I/O thread wakes the guest when the rest is written, unless the output cannot tell it, or is
/// one that several guests write to: a descriptor is watched for one of them only.
fn look_again(console: &Console) -> Duration {
    Duration::from_millis(if console.tells() { 100 } else { 1 })
}

impl Domain {
    /// Writes what the guest has printed. Returns how it has ended once that is done, or nobody waits for it any
    /// more; else when to try again. No thread waits for the reader.
    pub(super) fn drain(&self) -> Result<End, Instant> {
        let mut place = self.draining.lock().expect("no panic while held");
        let mut draining = place.take().expect("the guest has ended");
        if self.console.drain() || self.abandoned.load(Ordering::SeqCst) {
            return Ok(draining.end);
        }
        if !std::mem::replace(&mut draining.handed_over, true) {
            self.hand_console_over();
        }
        *place = Some(draining);
        Err(Instant::now() + look_again(&self.console))
    }
}
