//! The scheduler: tasks, the threads that run them, and timers.
//!
//! A task runs until it has a reason to stop, and holds a thread only while it runs. A blocked task is an entry in a table.
//!
//! ```text
//!            wake            run                  Ready
//!  Blocked ───────► Waiting ──────► Running ─────────────► Waiting
//!     ▲                               │  │ wake
//!     │            Blocked            │  ▼
//!     └───────────────────────────────┘ Woken ── Blocked ──► Waiting
//! ```
//!
//! `Woken` keeps a wake-up that comes after a task has decided to block and before it is marked as blocked.
//!
//! `policy` makes the decisions: virtual time, weights, caps, slices. This module carries them out: one lock around the
//! policy, and threads that run the chosen tasks and park when there are none. One thread always watches for the next
//! deadline or end of a slice: an idle thread, or else the *ticker*, a thread that is made when all others are busy for
//! the first time. It costs a guest that is alone nothing.

mod core;
mod group;
mod policy;
mod share;
#[cfg(test)]
mod tests;
mod ticker;

pub use group::Group;
pub use policy::{GRAIN, SLICE};
pub use share::{DEFAULT_WEIGHT, MAX_CAP, Quota, Share, ShareError};

use self::core::{Calls, Core, Idle};
use hv_host::cpu_clock::CpuClock;
use policy::{After, Id, Policy, ROOT, Time};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use ticker::Ticker;

/// Why a task stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It could go on.
    Ready,
    /// It wants to run.
    Blocked(Option<Instant>),
    /// It waits for a wake-up, or for this time.
    Ended,
}

/// Something that runs in time slices.
pub trait Task: Send + Sync {
    /// Runs until there is a reason to stop.
    fn run(&self) -> Next;

    /// Makes the current [`run`](Self::run), or else the next, return [`Next::Ready`] soon. Called from another thread.
    fn preempt(&self);

    /// Processor time that processes have used that do the task's work, apart from the thread that calls
    /// [`run`](Self::run): the sum over all that there were. Called with the scheduler locked: it never waits.
    fn used_apart(&self) -> Duration {
        Duration::ZERO
    }

    /// Total elapsed time in which the task slept during its time slices, and so kept its thread from other tasks. It is
    /// charged as if the task had used its processor.
    fn slept(&self) -> Duration {
        Duration::ZERO
    }
}

/// A task's entry in a scheduler. Dropping it removes the task: at once, or after its current time slice.
pub struct Entity {
    id: Id,
    shared: Arc<SharedScheduler>,
}

/// What the policy keeps for each task.
struct TaskSlot {
    /// `None` after the task has ended.
    task: Option<Arc<dyn Task>>,
    /// `None` while the task does not run.
    slice: Option<Slice>,
    /// How much of that it has been charged for. What it uses between time slices, which it should not, the next time slice is charged for.
    charged: Beside,
}

/// What a task has cost beside its thread.
#[derive(Clone, Copy, Default)]
struct Beside {
    /// See [`Task::used_apart`].
    used_apart: Duration,
    /// See [`Task::slept`]. It counts for whose turn it is, and is no CPU time.
    slept: Duration,
}

impl TaskSlot {
    fn new(task: Arc<dyn Task>) -> Self {
        TaskSlot { task: Some(task), slice: None, charged: Beside::default() }
    }
}

impl TaskSlot {
    /// What the task has used apart and slept by now.
    fn beside(&self) -> Beside {
        let of_task = |task: &Arc<dyn Task>| Beside { used_apart: task.used_apart(), slept: task.slept() };
        self.task.as_ref().map_or(self.charged, of_task)
    }

    /// How much CPU time the task has used apart and has not been charged for yet.
    fn uncharged(&self) -> Duration {
        self.beside().used_apart.saturating_sub(self.charged.used_apart)
    }

    /// What the task has used apart and slept and has not been charged for yet: it is charged now.
    fn take_uncharged(&mut self) -> Duration {
        let beside = self.beside();
        let before = std::mem::replace(&mut self.charged, beside);
        beside.used_apart.saturating_sub(before.used_apart) + beside.slept.saturating_sub(before.slept)
    }
}

/// The current time slice of a task.
#[derive(Clone, Copy)]
struct Slice {
    thread: CpuClock,
    /// The thread's clock when the time slice began.
    begin: Duration,
}

struct SharedScheduler {
    core: Mutex<Core>,
    start: Instant,
    /// Whether all threads are running a task.
    crowded: Arc<AtomicBool>,
}

impl SharedScheduler {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("no panic while held")
    }

    fn time(&self, at: Instant) -> Time {
        at.saturating_duration_since(self.start).as_nanos() as Time
    }

    fn now(&self) -> Time {
        self.time(Instant::now())
    }

    /// Changes something from outside [`Scheduler::work`].
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut Core, Time) -> R) -> R {
        let now = self.now();
        let mut core = self.core();
        let result = change(&mut core, now);
        let calls = core.settle(self, now);
        drop(core);
        calls.make();
        result
    }
}

impl Drop for SharedScheduler {
    fn drop(&mut self) {
        self.core.get_mut().expect("no panic while held").ticker.end();
    }
}

impl Entity {
    /// Makes the task run (again) soon, unless it has ended.
    pub fn wake(&self) {
        self.shared.change(|core, now| core.policy.wake(self.id, now));
    }

    /// Charges the task for work that others have done for it, against its share and its cap. It is not part of its CPU time.
    pub fn charge(&self, time: Duration) {
        self.shared.change(|core, now| core.policy.charge(self.id, time.as_nanos() as u64, now));
    }

    /// Gives the task another share, from now on.
    pub fn set_share(&self, share: Share) {
        self.shared.change(|core, now| core.policy.set_share(self.id, share, now));
    }

    /// CPU time that the task has used, including the current time slice.
    pub fn cpu_time(&self) -> Duration {
        let mut core = self.shared.core();
        // A running task cannot stop while the lock is held, so its thread lives.
        let slot = core.policy.payload(self.id);
        let running =
            slot.slice.map_or(Duration::ZERO, |slice| slice.thread.read() - slice.begin + slot.uncharged());
        let slept = slot.charged.slept;
        core.policy.used(self.id).saturating_sub(slept) + running
    }
}

impl Drop for Entity {
    fn drop(&mut self) {
        // The task is dropped without the lock: that may take some time.
        drop(self.shared.change(|core, _| core.policy.remove(self.id)));
    }
}

/// A set of tasks, and the policy that decides which of them run.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<SharedScheduler>,
}

impl Default for Scheduler {
    fn default() -> Self {
        let core = Core {
            policy: Policy::new(),
            idle: Vec::new(),
            free: 0,
            workers: 0,
            spared: false,
            notifications: 0,
            ticker: Ticker::default(),
        };
        let crowded = Arc::default();
        Scheduler {
            shared: Arc::new(SharedScheduler { core: Mutex::new(core), start: Instant::now(), crowded }),
        }
    }
}

impl Scheduler {
    /// Adds a task, blocked until its first [`wake`](Entity::wake).
    pub fn add(&self, task: Arc<dyn Task>, share: Share) -> Arc<Entity> {
        self.add_in(None, task, share)
    }

    /// Adds a task in a group of this scheduler, or in none.
    pub fn add_in(&self, group: Option<&Group>, task: Arc<dyn Task>, share: Share) -> Arc<Entity> {
        let (slot, group) = (TaskSlot::new(task), group.map_or(ROOT, |group| group.inner.node));
        let id = self.shared.core().policy.add(group, share, slot, self.shared.now());
        Arc::new(Entity { id, shared: self.shared.clone() })
    }

    /// Adds a task that has a common share with another task of this scheduler.
    pub fn add_beside(&self, other: &Entity, task: Arc<dyn Task>) -> Arc<Entity> {
        let id = self.shared.core().policy.add_beside(other.id, TaskSlot::new(task));
        Arc::new(Entity { id, shared: self.shared.clone() })
    }

    /// A new group. Its members get its share together.
    pub fn group(&self, share: Share) -> Group {
        Group::new(&self.shared, ROOT, share)
    }

    /// Whether this is a group of this scheduler.
    pub fn has(&self, group: &Group) -> bool {
        Arc::ptr_eq(&self.shared, &group.inner.shared)
    }

    /// The flag that says whether all of several threads run a task, or are about to.
    pub fn crowded(&self) -> Arc<AtomicBool> {
        self.shared.crowded.clone()
    }

    /// Makes threads in [`work`](Self::work) check their `done` again.
    pub fn notify(&self) {
        let mut calls = Calls::default();
        self.shared.core().notify(&mut calls);
        calls.make();
    }

    /// Whether tasks leave one of several processors free.
    pub fn spare(&self, spare: bool) {
        self.shared.change(|core, now| {
            core.spared = spare;
            if core.policy.running() > core.most() {
                core.policy.end_one(now);
            }
        });
    }

    /// [Notifies](Self::notify) once this time has come, unless the returned entity was dropped before.
    pub fn notify_at(&self, at: Instant) -> Arc<Entity> {
        let entity = self.add(Arc::new(Alarm(at)), Share::default());
        entity.wake();
        entity
    }

    /// Runs ready tasks on this thread until `done` returns true. `done` is called at the beginning, whenever a task has
    /// ended, and when [notified](Self::notify).
    pub fn work(&self, done: &dyn Fn() -> bool) {
        let (shared, this) = (&self.shared, std::thread::current());
        let clock = CpuClock::of_this_thread();
        // A time slice begins where the previous one ended: a task pays for the time that choosing it took.
        let mut begin = clock.read();
        let mut seen = None;
        let mut core = shared.core();
        core.workers += 1;
        'work: loop {
            // Also a notification that comes during the check is seen: this thread is not idle yet, so that nobody unparks it.
            while seen != Some(core.notifications) {
                seen = Some(core.notifications);
                drop(core);
                let done = done();
                core = shared.core();
                if done {
                    break 'work;
                }
            }
            let now = shared.now();
            core.policy.tick(now);
            if let Some(id) = core.choose(now) {
                let slot = core.policy.payload(id);
                let task = slot.task.clone().expect("what has ended is not chosen");
                slot.slice = Some(Slice { thread: clock, begin });
                let calls = core.settle(shared, now);
                drop(core);
                calls.make();
                let next = task.run();
                drop(task);
                let end = clock.read();
                let gone;
                (core, gone) = self.stop(id, end, next);
                begin = end;
                if gone.is_some() {
                    drop(core);
                    drop(gone);
                    begin = clock.read();
                    core = shared.core();
                }
            } else {
                let watches = core.unwatched(now);
                core.idle.push(Idle { thread: this.clone(), watches });
                let calls = core.settle(shared, now);
                drop(core);
                calls.make();
                park_until(watches.map(|at| shared.start + Duration::from_nanos(at)));
                begin = clock.read();
                core = shared.core();
                match core.idle.iter().position(|idle| idle.thread.id() == this.id()) {
                    Some(at) => drop(core.idle.remove(at)),
                    None => core.free -= 1,
                }
            }
        }
        core.workers -= 1;
        // The other threads take over what this thread watched.
        let calls = core.settle(shared, shared.now());
        drop(core);
        calls.make();
    }

    /// Ends a time slice at this value of the thread's clock. Returns the task if it is not needed any more.
    fn stop(&self, id: Id, end: Duration, next: Next) -> (MutexGuard<'_, Core>, Option<Arc<dyn Task>>) {
        let now = self.shared.now();
        let after = match next {
            Next::Ready => After::Ready,
            Next::Blocked(deadline) => After::Blocked(deadline.map(|at| self.shared.time(at))),
            Next::Ended => After::Ended,
        };
        let mut core = self.shared.core();
        let slot = core.policy.payload(id);
        let slice = slot.slice.take().expect("it has one");
        let used = end - slice.begin + slot.take_uncharged();
        let mut task = None;
        if next == Next::Ended {
            task = core.policy.payload(id).task.take();
            let mut calls = Calls::default();
            core.notify(&mut calls);
            calls.make();
        }
        let removed = core.policy.stop(id, used.as_nanos() as u64, after, now);
        (core, task.or(removed.and_then(|slot| slot.task)))
    }

    /// Number of armed timers.
    pub fn timers(&self) -> usize {
        self.shared.core().policy.alarms()
    }
}

/// A task that ends at a given time. Its end notifies.
struct Alarm(Instant);

impl Task for Alarm {
    fn run(&self) -> Next {
        if Instant::now() < self.0 { Next::Blocked(Some(self.0)) } else { Next::Ended }
    }

    fn preempt(&self) {}
}

/// Parks until unparked, or until this time. May return spuriously.
fn park_until(at: Option<Instant>) {
    match at {
        Some(at) => std::thread::park_timeout(at.saturating_duration_since(Instant::now())),
        None => std::thread::park(),
    }
}
