//! What other threads do with a guest's process.

use super::handle::Process;
use super::page::Alert;
use crate::platform::Kick;
use hv_stub::{KICK, RESET};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The kick state of one virtual CPU, and its process.
pub(super) struct ProcessKicker {
    requested: AtomicBool,
    running: AtomicBool,
    process: Mutex<Process>,
    /// Nanoseconds of processor time that the processes before this one have used. Changes with `process` alone.
    earlier: AtomicU64,
    /// Nanoseconds of processor time that all processes have used, when that was last read.
    used: AtomicU64,
    alert: Alert,
    /// The process was sent a kick: its signal could interrupt anything later. Changes with `process` locked.
    signalled: AtomicBool,
    /// The process is parked, and must not be sent a kick. Likewise.
    parked: AtomicBool,
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
            earlier: AtomicU64::new(0),
            used: AtomicU64::new(0),
            alert,
            signalled: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            slept: AtomicBool::new(false),
            charged: AtomicU64::new(0),
        }
    }

    pub(super) fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("no panic while held")
    }

    /// Ends the process. What it has used stays known.
    pub(super) fn end(&self) {
        let mut process = self.process();
        self.note_used(&process);
        process.end();
    }

    /// Parks a process that has no control and was never kicked, if `fall_asleep` does. Returns whether it is parked.
    pub(super) fn park(&self, fall_asleep: impl FnOnce() -> bool) -> bool {
        let _process = self.process();
        let parked = !self.signalled.load(Ordering::SeqCst) && fall_asleep();
        self.parked.store(parked, Ordering::SeqCst);
        parked
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::SeqCst)
    }

    /// Whether the parked process still is: `is_asleep` says so. If not, it will not be parked again.
    pub(super) fn stays_parked(&self, is_asleep: impl FnOnce() -> bool) -> bool {
        let process = self.process();
        let asleep = is_asleep();
        if !asleep {
            process.kill();
            // As if it had been kicked.
            self.signalled.store(true, Ordering::SeqCst);
            self.parked.store(false, Ordering::SeqCst);
        }
        asleep
    }

    /// Begins another guest in the parked process, if `give` has found that it has been parked all the time and has given it
    /// control. If not, ends the process and returns false.
    pub(super) fn begin_anew(&self, give: impl FnOnce() -> bool) -> bool {
        let process = self.process();
        self.parked.store(false, Ordering::SeqCst);
        let given = give();
        if !given {
            process.kill();
            return false;
        }
        process.signal(RESET);
        // A kick that found it parked.
        if self.is_requested() {
            self.signalled.store(true, Ordering::SeqCst);
            process.signal(KICK);
        }
        true
    }

    /// Another process runs the guest, after the [end](Self::end) of this one.
    pub(super) fn replace(&self, process: Process) {
        let mut current = self.process();
        self.earlier.store(self.used.load(Ordering::SeqCst), Ordering::SeqCst);
        self.signalled.store(false, Ordering::SeqCst);
        *current = process;
    }

    fn note_used(&self, process: &Process) {
        let total = self.earlier.load(Ordering::SeqCst) + process.used().as_nanos() as u64;
        self.used.fetch_max(total, Ordering::SeqCst);
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
        // Before hv's thread is woken, which looks at it.
        let found_asleep = is_running() && self.alert.is_asleep() && !self.slept.swap(true, Ordering::SeqCst);
        // One signal for all kicks that are not answered yet. A signal more would interrupt the handler of the one before; on a busy host, where the
        // process runs for moments only, it would then never come to the end of one, or to that of its stack.
        let is_first = !self.requested.swap(true, Ordering::SeqCst);
        // If only one of them slept, the guest has said that its run is over: hv's thread is awake, and waits for a processor.
        if found_asleep && self.alert.alert() < 2 {
            self.slept.store(false, Ordering::SeqCst);
        }
        if is_first && is_running() {
            let process = self.process();
            if is_running() && !self.is_parked() {
                self.signalled.store(true, Ordering::SeqCst);
                process.signal(KICK);
            }
            drop(process);
            self.alert.alert();
        }
    }

    fn used_apart(&self) -> Duration {
        // Whoever has the lock may wait for the process. Callers of this must not wait, and what was read last is right then.
        if let Ok(process) = self.process.try_lock() {
            self.note_used(&process);
        }
        Duration::from_nanos(self.used.load(Ordering::SeqCst))
    }

    fn slept(&self) -> Duration {
        Duration::from_nanos(self.charged.load(Ordering::SeqCst))
    }
}
