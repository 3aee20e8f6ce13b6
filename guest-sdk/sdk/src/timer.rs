//! The driver behind [`embassy_time`]: its clock, and the queue of timers.
//!
//! A tick is a nanosecond of the guest's clock. Embassy's own queues either hold a fixed number of timers or serve only
//! embassy's tasks. This queue takes any number of timers with any wakers (also those of `block_on` and of combinators).
//! Each operation takes `O(log n)`.

use crate::clock::{Instant, now_nanos};
use crate::per_cpu::{PerCpu, per_cpu};
use crate::tasks;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;
use embassy_time_driver::{Driver, TICK_HZ};
use spin::Mutex;

const _: () = assert!(TICK_HZ == 1_000_000_000, "a tick is a nanosecond");

/// Distinguishes wakers: two with the same key wake the same thing.
type Key = (usize, usize);

fn key(waker: &Waker) -> Key {
    (waker.data().addr(), core::ptr::from_ref(waker.vtable()).addr())
}

/// Every waker has at most one timer, its earliest one: a future that is woken too early schedules again.
struct TimerQueue {
    timers: BTreeMap<Key, (u64, Waker)>,
    order: BTreeSet<(u64, Key)>,
}

/// Each virtual CPU has the timers of the tasks that it polls.
static QUEUE: PerCpu<Mutex<TimerQueue>> =
    per_cpu!(Mutex::new(TimerQueue { timers: BTreeMap::new(), order: BTreeSet::new() }));

/// The time of the earliest timer; `u64::MAX` without one. Lets [`expire`] return without locking the queue.
static NEXT: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(u64::MAX));

impl TimerQueue {
    fn schedule(&mut self, at: u64, waker: &Waker) {
        let key = key(waker);
        match self.timers.get_mut(&key) {
            Some((before, _)) if *before <= at => return,
            Some((before, _)) => {
                self.order.remove(&(*before, key));
                *before = at;
            }
            None => {
                self.timers.insert(key, (at, waker.clone()));
            }
        }
        self.order.insert((at, key));
        NEXT.own().fetch_min(at, Ordering::Relaxed);
    }

    /// Takes a timer whose time has come, or returns the time of the next one.
    fn pop(&mut self, now: u64) -> Result<Waker, u64> {
        let Some(&(at, key)) = self.order.first() else { return Err(u64::MAX) };
        if at > now {
            return Err(at);
        }
        self.order.pop_first();
        self.timers.remove(&key).map(|(_, waker)| waker).ok_or(at)
    }
}

struct Clock;

impl Driver for Clock {
    fn now(&self) -> u64 {
        now_nanos()
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        tasks::waits_for_time(at);
        QUEUE.own().lock().schedule(at, waker);
    }
}

embassy_time_driver::time_driver_impl!(static DRIVER: Clock = Clock);

/// Takes the timers of this virtual CPU, which is about to stop, for another one to [adopt].
pub(crate) fn disown() -> Vec<(u64, Waker)> {
    let mut queue = QUEUE.own().lock();
    NEXT.own().store(u64::MAX, Ordering::Relaxed);
    queue.order.clear();
    core::mem::take(&mut queue.timers).into_values().collect()
}

/// Takes over the timers that another virtual CPU has [disowned](disown).
pub(crate) fn adopt(timers: Vec<(u64, Waker)>) {
    let mut queue = QUEUE.own().lock();
    timers.iter().for_each(|(at, waker)| queue.schedule(*at, waker));
}

/// Wakes the timers whose time has come. Returns when to call this again.
pub(crate) fn expire() -> Option<Instant> {
    let mut next = NEXT.own().load(Ordering::Relaxed);
    if next == u64::MAX {
        return None;
    }
    let now = now_nanos();
    if next <= now {
        loop {
            // Not locked while waking: a waker may schedule another timer.
            let popped = QUEUE.own().lock().pop(now);
            match popped {
                Ok(waker) => waker.wake(),
                Err(at) => {
                    next = at;
                    break;
                }
            }
        }
        NEXT.own().store(next, Ordering::Relaxed);
    }
    (next != u64::MAX).then(|| Instant::from_nanos(next))
}
