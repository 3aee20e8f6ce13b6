//! ⚠ Threads that run for microseconds at a time and are waited for: what they ask of the host's scheduler.

/// Has the host run this thread as soon as it wakes up, as is right for one
/// that runs for microseconds at a time.
///
/// Linux (from 6.12) lets a thread that asked for short slices in before one in a longer
/// slice; otherwise this thread would wait for the end of a slice of a worker, some
/// milliseconds, each time that both processors are busy. And timers, which Linux
/// bundles within 50 µs, are exact. Where a kernel refuses, things are slower, not wrong.
pub(crate) fn be_prompt() {
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
