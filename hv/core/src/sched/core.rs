//! What the lock of a scheduler protects: the policy, and the idle threads.

use super::policy::{Id, Policy, Time};
use super::ticker::Ticker;
use super::{SharedScheduler, Task, TaskSlot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Thread;

/// An idle thread in [`Scheduler::work`].
pub(super) struct Idle {
    pub(super) thread: Thread,
    /// When it will check by itself.
    pub(super) watches: Option<Time>,
}

pub(super) struct Core {
    pub(super) policy: Policy<TaskSlot>,
    /// The last one is woken next: its caches are the warmest.
    pub(super) idle: Vec<Idle>,
    /// Threads that were idle and are about to choose a task.
    pub(super) free: usize,
    /// Threads in [`Scheduler::work`].
    pub(super) workers: usize,
    /// One thread fewer than there are may run tasks.
    pub(super) spared: bool,
    /// Counts the requests to check end conditions again.
    pub(super) notifications: u64,
    pub(super) ticker: Ticker,
}

/// Calls that are made once the lock is released.
#[derive(Default)]
pub(super) struct Calls {
    unpark: Vec<Thread>,
    preempt: Vec<Arc<dyn Task>>,
}

impl Calls {
    pub(super) fn make(self) {
        self.unpark.iter().for_each(Thread::unpark);
        self.preempt.iter().for_each(|task| task.preempt());
    }
}

impl Core {
    /// Makes sure that threads run the tasks in the run queue, that time slices end when they should, and that a thread
    /// watches for the next event.
    pub(super) fn settle(&mut self, shared: &Arc<SharedScheduler>, now: Time) -> Calls {
        let mut calls = self.dispatch(now);
        shared.crowded.store(self.idle.is_empty() && self.workers > 1, Ordering::Relaxed);
        if let Some(at) = self.assign(&mut calls, now) {
            calls.unpark.extend(self.ticker.watch(at, shared));
        }
        calls
    }

    pub(super) fn dispatch(&mut self, now: Time) -> Calls {
        let mut calls = Calls::default();
        while self.policy.waiting() > self.free
            && self.policy.running() + self.free < self.most()
            && let Some(idle) = self.idle.pop()
        {
            self.free += 1;
            calls.unpark.push(idle.thread);
        }
        for id in self.policy.overdue(self.free, now) {
            calls.preempt.extend(self.policy.payload(id).task.clone());
        }
        calls
    }

    /// How many tasks may run at the same time.
    pub(super) fn most(&self) -> usize {
        if self.spared && self.workers > 1 { self.workers - 1 } else { self.workers }
    }

    /// The task that a thread without one has to run now.
    pub(super) fn choose(&mut self, now: Time) -> Option<Id> {
        if self.policy.running() < self.most() { self.policy.pick(now) } else { None }
    }

    /// The time of the next event, if no idle thread watches for it.
    pub(super) fn unwatched(&self, now: Time) -> Option<Time> {
        // Without a thread in `work`, nothing could be done then.
        let at = if self.workers > 0 { self.policy.next_event(self.free, now)? } else { return None };
        let watched = self.idle.iter().any(|idle| idle.watches.is_some_and(|watches| watches <= at));
        (!watched).then_some(at)
    }

    /// Makes an idle thread watch for the next event. Returns its time if the ticker has to watch.
    pub(super) fn assign(&mut self, calls: &mut Calls, now: Time) -> Option<Time> {
        let at = self.unwatched(now)?;
        let Some(idle) = self.idle.last_mut() else { return Some(at) };
        idle.watches = Some(at);
        calls.unpark.push(idle.thread.clone());
        None
    }

    pub(super) fn notify(&mut self, calls: &mut Calls) {
        self.notifications += 1;
        calls.unpark.extend(self.idle.iter().map(|idle| idle.thread.clone()));
    }
}
