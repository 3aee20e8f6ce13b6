//! ⚠ Interrupting a virtual CPU that is in `KVM_RUN`.
//!
//! A kick is a request flag plus a signal to the thread that runs the CPU. The signal handler sets `immediate_exit` of
//! the CPU that its thread is running. This closes the gap between checking the flag and entering the kernel: the signal
//! either interrupts `KVM_RUN` or keeps it from starting.
#![allow(unsafe_code, reason = "a signal handler, and the signal to a thread of hv")]

use crate::platform::Kick;
use kvm_bindings::kvm_run;
use std::cell::Cell;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

thread_local! {
    /// The `kvm_run` page of the CPU that this thread is running, or null.
    static RUNNING: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
    static THREAD: i32 = thread_id();
}

fn thread_id() -> i32 {
    // SAFETY: no arguments, no failure.
    unsafe { libc::gettid() }
}

/// The signal of kicks. This process uses real-time signals for nothing else.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn handler(_: libc::c_int) {
    let run = RUNNING.get();
    if !run.is_null() {
        // SAFETY: `RUNNING` is non-null only while this very thread is inside
        // `running`, whose caller keeps the page mapped. Only this thread's
        // handler and the code that it interrupted write the byte.
        unsafe { ptr::write_volatile(&raw mut (*run).immediate_exit, 1) };
    }
}

/// Installs the handler, once per process.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: an all-zero sigaction is valid; the handler only touches a
        // const-initialised thread-local and one byte, which is async-signal-safe.
        // Without SA_RESTART, so that KVM_RUN returns EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            libc::sigaction(signal(), &action, ptr::null_mut());
        }
    });
}

/// The kick state of one virtual CPU.
#[derive(Default)]
pub(super) struct KvmKicker {
    requested: AtomicBool,
    /// The thread that is running the CPU, or 0.
    thread: AtomicI32,
}

impl KvmKicker {
    /// Runs `enter` with kicks directed at this thread. `enter` returns `None` when it is interrupted. If a kick is
    /// pending already, returns `None` at once. In both cases the kick is used up.
    pub(super) fn running<T>(&self, run: *mut kvm_run, enter: impl FnOnce() -> Option<T>) -> Option<T> {
        RUNNING.set(run);
        self.thread.store(THREAD.with(|&t| t), Ordering::SeqCst);
        let waiting = self.requested.swap(false, Ordering::SeqCst);
        let result = if waiting { None } else { enter() };
        if result.is_none() {
            // This answers all kicks up to here. The next run is not for them.
            self.requested.store(false, Ordering::SeqCst);
        }
        self.thread.store(0, Ordering::SeqCst);
        RUNNING.set(ptr::null_mut());
        result
    }
}

impl Kick for KvmKicker {
    fn kick(&self) {
        self.requested.store(true, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: no memory is passed. A thread that has left `running`
            // meanwhile runs a handler that finds nothing to do; one that has
            // ended makes the call fail, which is fine.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }
}
