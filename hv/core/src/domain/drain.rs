//! The end of a guest whose console has a slow reader: the rest of the output is written while other guests run.

use super::end::End;
use crate::device::console::Console;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a guest has printed, and how it ended while that is still being written.
pub(super) struct Drain {
    console: Arc<Console>,
    draining: Mutex<Option<Draining>>,
    /// Output that the reader of the console does not take is dropped.
    abandoned: AtomicBool,
}

/// How a guest has ended, before the outcome is published.
struct Draining {
    end: End,
    /// Whether the I/O thread was asked to continue with the console.
    handed_over: bool,
}

impl Drain {
    /// The drain of a guest with this console, which has not ended.
    pub(super) fn new(console: Arc<Console>) -> Self {
        Drain { console, draining: Mutex::default(), abandoned: AtomicBool::new(false) }
    }

    /// Records how the guest has ended. Returns whether this is the first record: only the first one counts.
    pub(super) fn begin(&self, end: End) -> bool {
        let draining = &mut *self.draining.lock().expect("no panic while held");
        let first = draining.is_none();
        draining.get_or_insert(Draining { end, handed_over: false });
        first
    }

    /// Writes what the guest has printed. Returns how the guest has ended once all of it is written, or the drain was
    /// abandoned; otherwise the time of the next attempt. No thread blocks on the reader. `hand_over` makes the I/O
    /// thread continue with the console.
    pub(super) fn poll(&self, hand_over: impl FnOnce()) -> Result<End, Instant> {
        let mut place = self.draining.lock().expect("no panic while held");
        let mut draining = place.take().expect("the guest has ended");
        if self.console.drain() || self.is_abandoned() {
            return Ok(draining.end);
        }
        if !std::mem::replace(&mut draining.handed_over, true) {
            hand_over();
        }
        *place = Some(draining);
        Err(Instant::now() + self.look_again())
    }

    /// When to look again. The I/O thread wakes the guest when the rest is written. Exceptions are an output that cannot
    /// signal this, and an output that several guests write to: a descriptor is watched for only one of them.
    fn look_again(&self) -> Duration {
        Duration::from_millis(if self.console.tells() { 100 } else { 1 })
    }

    /// Writes what a guest that is being saved has printed, unless the drain was abandoned.
    pub(super) fn finish(&self) {
        self.console.finish(&mut || !self.is_abandoned());
    }

    /// From now on the reader is not waited for.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
}
