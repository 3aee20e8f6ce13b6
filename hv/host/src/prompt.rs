//! ⚠ Priorities of threads that run for microseconds at a time, and that others wait for.
#![allow(unsafe_code, reason = "slice, priority and timer slack of threads that others wait for")]

use crate::cpu_clock::CpuClock;
use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The shortest slice that Linux gives, in nanoseconds.
const SLICE: u64 = 100_000;
/// The niceness of these threads, if the host allows it and hv was not started with another.
const NICE: i32 = -10;
/// SCHED_FLAG_RESET_ON_FORK: threads that this one makes are ordinary ones.
const RESET_ON_FORK: u64 = 1;

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

impl Attributes {
    /// The attributes of an ordinary thread that asks for short slices.
    fn ordinary(nice: i32) -> Self {
        Attributes { flags: RESET_ON_FORK, nice, runtime: SLICE, ..Attributes::default() }
    }

    /// The attributes of a thread that runs before all ordinary ones.
    fn first() -> Self {
        let policy = libc::SCHED_FIFO as u32;
        Attributes { flags: RESET_ON_FORK, policy, priority: 1, ..Attributes::default() }
    }

    /// Sets the attributes of this thread. Returns whether the host allows that.
    fn set(mut self) -> bool {
        self.size = size_of::<Self>() as u32;
        // SAFETY: the kernel reads as many bytes as `size` says, during the call only; 0 is this thread.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const self, 0) == 0 }
    }
}

/// The niceness that hv was started with. Asked for before there is a jail, which does not allow that.
pub fn niceness() -> i32 {
    static NICENESS: OnceLock<i32> = OnceLock::new();
    // SAFETY: the call takes no memory; 0 is this process. What cannot be found out is -1, which is as good as 0.
    *NICENESS.get_or_init(|| unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
}

/// The attributes of a prompt thread without real-time priority, as far as the host allows them. If hv was
/// started with another niceness than 0, that one is kept.
fn be_ordinary() {
    let own = niceness();
    let preferred = if own > 0 { own } else { own.min(NICE) };
    // A lower niceness needs a privilege (CAP_SYS_NICE, or RLIMIT_NICE).
    let _ = Attributes::ordinary(preferred).set() || Attributes::ordinary(own).set();
}

/// Has the host run this thread as soon as it wakes up, as is right for one
/// that runs for microseconds at a time.
///
/// Linux (from 6.12) lets a thread that asked for short slices in before one in a longer
/// slice; otherwise this thread would wait for the end of a slice of a worker, some
/// milliseconds, each time that both processors are busy. And timers, which Linux
/// bundles within 50 µs, are exact. Where a kernel refuses, things are slower, not wrong.
pub fn be_prompt() {
    be_ordinary();
    // SAFETY: sets the slack of this thread's timers, nothing else.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
}

/// Has this thread, which is [prompt](be_prompt), run before all ordinary ones of the host, or not any more.
///
/// That is for as long as it has little to do. Short slices alone do not suffice: Linux does not choose a
/// thread that has just run before others have run for as long; if another thread wakes up in between, it
/// then waits for the clock's next tick, up to 4 ms. Where hv lacks the privilege (CAP_SYS_NICE, or
/// RLIMIT_RTPRIO), it stays as it is.
pub fn be_first(first: bool) {
    match first && niceness() <= 0 {
        true => drop(Attributes::first().set()),
        false => be_ordinary(),
    }
}

/// The interval over which the load of a thread is measured.
const WINDOW: Duration = Duration::from_millis(4);

/// The part of the time in which a thread may work and still come first: one in so many.
///
/// With more, two servers on two processors leave their own workers and clients too little: each byte that a worker
/// passes on wakes the thread that comes first, which takes the worker's processor for that one byte. Bodies of
/// 20 MiB to and fro, on two servers at once, took 2 to 28 s with two thirds, and 1.4 to 5 s with this.
const MOST_LOAD: u32 = 4;

/// A thread that comes [first](be_first) for as long as it works less than one part in [`MOST_LOAD`] of the time.
struct LoadWatch {
    begin: Instant,
    clock: CpuClock,
    /// CPU time at the beginning of the interval.
    used: Duration,
    first: bool,
}

thread_local! {
    static LOAD_WATCH: RefCell<Option<LoadWatch>> = const { RefCell::new(None) };
}

/// Has this thread, which is [prompt](be_prompt), come [first](be_first) while it has little to do, as it is to
/// [look](look_at_load) itself now and then.
pub fn be_first_while_light() {
    be_first(true);
    let clock = CpuClock::of_this_thread();
    let light = LoadWatch { begin: Instant::now(), clock, used: clock.read(), first: true };
    LOAD_WATCH.set(Some(light));
}

/// Measures the recent load of this thread, if it is [watched](be_first_while_light), and sets its priority.
pub fn look_at_load() {
    LOAD_WATCH.with_borrow_mut(|light| {
        let Some(light) = light else { return };
        let now = Instant::now();
        let window = now - light.begin;
        if window < WINDOW {
            return;
        }
        let used = light.clock.read();
        let first = (used - light.used) * MOST_LOAD < window;
        if first != light.first {
            be_first(first);
        }
        (light.begin, light.used, light.first) = (now, used, first);
    });
}

/// Lowers the priority of this thread: its work may take long, and others come first.
pub fn be_background() {
    const MORE: i32 = 10;
    const MOST: i32 = 19;
    let _ = Attributes { nice: (niceness() + MORE).min(MOST), ..Attributes::default() }.set();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: the call takes no memory; 0 is this thread.
        unsafe { libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK }
    }

    #[test]
    fn a_thread_comes_first_until_it_has_much_to_do() {
        let thread = std::thread::spawn(|| {
            be_prompt();
            assert_eq!(policy(), libc::SCHED_OTHER);
            be_first_while_light();
            if policy() != libc::SCHED_FIFO {
                return false;
            }
            let until = Instant::now() + Duration::from_secs(10);
            while policy() == libc::SCHED_FIFO && Instant::now() < until {
                look_at_load();
            }
            assert_eq!(policy(), libc::SCHED_OTHER, "it works all the time");
            while policy() != libc::SCHED_FIFO && Instant::now() < until {
                std::thread::sleep(WINDOW);
                look_at_load();
            }
            assert_eq!(policy(), libc::SCHED_FIFO, "it sleeps");
            true
        });
        if !thread.join().unwrap() {
            hv_skip::skip("needs the right to real-time priority");
        }
    }
}
