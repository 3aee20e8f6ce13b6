//! ⚠ Clocks of processor time.
#![allow(unsafe_code, reason = "clocks of the CPU time of threads and processes")]

use std::time::Duration;

/// Reads the CPU time of a thread or of a process, from any thread.
///
/// CPU time, not elapsed time: where the host has other things to do, a guest
/// would be charged for time slices that it did not have. A reading takes 0.2 to 0.3 µs.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// The clock of this thread.
    pub fn of_this_thread() -> Self {
        let mut clock = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: the thread is this one, so it lives; `clock` is written during
        // the call only. If it failed, the clock of the calling thread would stay.
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        CpuClock(clock)
    }

    /// The clock of a process, or `None` if there is none of this number.
    pub fn of_process(pid: i32) -> Option<Self> {
        let mut clock = 0;
        // SAFETY: `clock` is written during the call only.
        let error = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
        (error == 0).then_some(CpuClock(clock))
    }

    /// The clock that limits go by (RLIMIT_CPU): the processor time of the same process as the kernel counts it at
    /// its ticks. It can be seconds ahead of the exact one, for a process that tends to run when the tick comes.
    pub fn of_limits(self) -> Self {
        // Which of a process' clocks it is stands in the two lowest bits (CPUCLOCK_PROF is 0, and CPUCLOCK_SCHED, which
        // the C library names, is 2; include/linux/posix-timers_types.h).
        CpuClock(self.0 & !3)
    }

    /// CPU time used so far; zero once the thread or process has ended.
    #[inline]
    pub fn read(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is written during the call only; the clock of what has ended is an error.
        unsafe { libc::clock_gettime(self.0, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_an_exact_clock_and_one_that_limits_go_by() {
        let exact = CpuClock::of_process(std::process::id() as i32).unwrap();
        let begin = exact.read();
        while exact.read() < begin + Duration::from_millis(50) {}
        let counted = exact.of_limits();
        let mut usage = libc::tms { tms_utime: 0, tms_stime: 0, tms_cutime: 0, tms_cstime: 0 };
        // SAFETY: `usage` is written during the calls only.
        let ticks = unsafe {
            libc::times(&mut usage);
            libc::sysconf(libc::_SC_CLK_TCK)
        };
        // times(2) uses the same count, in ticks that are rounded down.
        let told = Duration::from_millis(((usage.tms_utime + usage.tms_stime) * 1000 / ticks) as u64);
        let read = counted.read();
        assert!(read + Duration::from_millis(30) >= told && read > Duration::ZERO, "{read:?}, {told:?}");
    }
}
