//! ⚠ What the scheduler asks of the host's, for the thread that it is on: the
//! thread's CPU time, and manners.

use std::time::Duration;

/// Reads the CPU time of the thread that made it, also from other threads.
///
/// CPU time, not elapsed time: where the host has other things to do, a task
/// would be charged for turns that it did not have. A reading takes 0.2 to 0.3 µs.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The clock of this thread.
    pub(super) fn of_this_thread() -> Self {
        let mut clock = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the thread is this one, so it lives; `clock` is written during
        // the call only. If it failed, the clock of the calling thread would stay.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        ThreadClock(clock)
    }

    /// CPU time of the thread; zero once it has ended.
    pub(super) fn read(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is written during the call only; the clock of a thread that has ended is an error.
        unsafe { libc::clock_gettime(self.0, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Has the host run this thread as soon as it wakes up, as is right for one
/// that runs for microseconds at a time.
///
/// Linux (from 6.12) lets a thread that asked for short slices in before one in a longer
/// slice; otherwise this thread would wait for the end of a slice of a worker, some
/// milliseconds, each time that both processors are busy. And timers, which Linux
/// bundles within 50 µs, are exact. Where a kernel refuses, things are slower, not wrong.
pub(super) fn be_prompt() {
    /// The shortest slice that Linux gives, in nanoseconds.
    const SLICE: u64 = 100_000;
    /// `struct sched_attr` as of its first version (Linux 3.14), sched_setattr(2).
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let mut attributes = Attributes::default();
    let size = size_of::<Attributes>();
    // SAFETY: the kernel writes at most `size` bytes of `attributes`, and reads
    // those that its `size` says, during the calls only; 0 is this thread.
    unsafe {
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) == 0 {
            attributes.runtime = SLICE;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
    }
}
