//! The end of a guest whose console's reader is slow: the rest is written while other guests run.

use super::end::End;
use crate::device::console::Console;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a guest prints, and how it has ended while that is still being written.
pub(super) struct Drain {
    console: Arc<Console>,
    draining: Mutex<Option<Draining>>,
    /// Nobody waits any more for the reader of the console.
    abandoned: AtomicBool,
}

/// How a guest has ended that has not been told to anybody yet.
struct Draining {
    end: End,
    /// Whether the I/O thread was asked to go on with the console.
    handed_over: bool,
}

impl Drain {
    /// That of a guest with this console, which has not ended.
    pub(super) fn new(console: Arc<Console>) -> Self {
        Drain { console, draining: Mutex::default(), abandoned: AtomicBool::new(false) }
    }

    /// The guest has ended like this. Returns whether that is the first that is heard of it: only that counts.
    pub(super) fn begin(&self, end: End) -> bool {
        let draining = &mut *self.draining.lock().expect("no panic while held");
        let first = draining.is_none();
        draining.get_or_insert(Draining { end, handed_over: false });
        first
    }

    /// Writes what the guest has printed. Returns how it has ended once that is done, or nobody waits for it any
    /// more; else when to try again. No thread waits for the reader. `hand_over` has the I/O thread go on with the console.
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

    /// When to look again. The I/O thread wakes the guest when the rest is written, unless the output cannot tell it, or is
    /// one that several guests write to: a descriptor is watched for one of them only.
    fn look_again(&self) -> Duration {
        Duration::from_millis(if self.console.tells() { 100 } else { 1 })
    }

    /// Writes what a guest has printed that is saved, unless nobody waits for the reader any more.
    pub(super) fn finish(&self) {
        self.console.finish(&mut || !self.is_abandoned());
    }

    /// From now on nobody waits for the reader.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }
}
