//! What other threads do with a guest's process.

use super::handle::Process;
use super::page::Alert;
use crate::platform::Kick;
use hv_host::cpu_clock::CpuClock;
use hv_stub::KICK;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The kick state of one virtual CPU, and its process.
pub(super) struct ProcessKicker {
    requested: AtomicBool,
    running: AtomicBool,
    process: Mutex<Process>,
    alert: Alert,
    /// A kick found the guest asleep although it had not reported the end of its run.
    slept: AtomicBool,
    /// Nanoseconds that the guest is charged for: see [`Kick::slept`].
    charged: AtomicU64,
}

impl ProcessKicker {
    pub(super) fn new(process: Process, alert: Alert) -> Self {
        ProcessKicker {
            requested: AtomicBool::new(false),
            running: AtomicBool::new(false),
            process: Mutex::new(process),
            alert,
            slept: AtomicBool::new(false),
            charged: AtomicU64::new(0),
        }
    }

    pub(super) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("no panic while held")
    }

    /// Runs `enter` with kicks sent to the process. If a kick is pending already, returns `None` at once, and the kick is used up.
    pub(super) fn running<T>(&self, enter: impl FnOnce() -> T) -> Option<T> {
        self.running.store(true, Ordering::SeqCst);
        let kicked = self.requested.swap(false, Ordering::SeqCst);
        if kicked {
            self.slept.store(false, Ordering::SeqCst);
        }
        let result = (!kicked).then(enter);
        self.running.store(false, Ordering::SeqCst);
        result
    }

    /// Whether a kick has not been answered yet.
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Whether a kick has not been answered yet and found the guest asleep.
    pub(super) fn has_slept(&self) -> bool {
        self.is_requested() && self.slept.load(Ordering::SeqCst)
    }

    /// Charges the guest for a time in which it kept hv's thread waiting.
    pub(super) fn charge(&self, time: Duration) {
        self.charged.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    /// The guest has returned control.
    pub(super) fn answered(&self) {
        self.requested.store(false, Ordering::SeqCst);
        self.slept.store(false, Ordering::SeqCst);
    }
}

impl Kick for ProcessKicker {
    fn kick(&self) {
        let is_running = || self.running.load(Ordering::SeqCst);
        if is_running() && self.alert.is_asleep() {
            self.slept.store(true, Ordering::SeqCst);
        }
        self.requested.store(true, Ordering::SeqCst);
        if is_running() {
            self.process().signal(KICK);
            self.alert.alert();
        }
    }

    fn clock(&self) -> Option<CpuClock> {
        self.process().clock()
    }

    fn slept(&self) -> Duration {
        Duration::from_nanos(self.charged.load(Ordering::SeqCst))
    }
}
