//! What other threads do with a guest's process.

use super::shared::KICK;
use super::zygote::Process;
use crate::cpu_clock::CpuClock;
use crate::platform::Kick;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// The kick state of one virtual CPU, and the process that is it.
pub(super) struct Kicker {
    requested: AtomicBool,
    running: AtomicBool,
    process: Mutex<Process>,
}

impl Kicker {
    pub(super) fn new(process: Process) -> Self {
        Kicker {
            requested: AtomicBool::new(false),
            running: AtomicBool::new(false),
            process: Mutex::new(process),
        }
    }

    pub(super) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("no panic while held")
    }

    /// Runs `enter` with kicks sent to the process, unless one is waiting
    /// already: then returns `None` at once, and the kick is used up.
    pub(super) fn running<T>(&self, enter: impl FnOnce() -> T) -> Option<T> {
        self.running.store(true, Ordering::SeqCst);
        let result = (!self.requested.swap(false, Ordering::SeqCst)).then(enter);
        self.running.store(false, Ordering::SeqCst);
        result
    }

    /// Whether a kick waits for an answer.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// The guest has given way.
    pub(super) fn answered(&self) {
        self.requested.store(false, Ordering::SeqCst);
    }
}

impl Kick for Kicker {
    fn kick(&self) {
        self.requested.store(true, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) {
            self.process().signal(KICK);
        }
    }

    fn clock(&self) -> Option<CpuClock> {
        self.process().clock()
    }
}
