//! Who runs next, how long, and when a task that has used up its cap may go
//! on: pure decisions. Time comes in as a parameter, a task is a number.
//!
//! # Fairness
//!
//! *Start-time fair queuing* (Goyal, Guo, Vin: "A Hierarchical CPU Scheduler for
//! Multimedia Operating Systems", OSDI 1996). Each task has a *virtual time*,
//! which advances by the CPU time that it uses divided by its weight. Of the
//! tasks that wait, the one with the least runs. The virtual time of the whole
//! is that of the task that was last chosen. It need not be known beforehand how
//! long a time slice will be: whatever it was is charged.
//!
//! Four additions:
//!
//! - A task that wakes up keeps its virtual time, but starts at most one slice of its own
//!   behind the last of those that want to run. So it stands before those that always want to
//!   run, unless it has used more than its share; and it saves up no more than that
//!   slice, however long it sleeps.
//! - A time slice is a [`SLICE`] while others wait. It ends sooner for a task that wakes up
//!   behind one that runs, but not before the latter has had a [`GRAIN`].
//! - A task with a large weight that may use one processor of several falls
//!   behind the others without end. What it could not have used it is not owed, beyond a [`LAG`]
//!   (the problem is that of Chandra et al.: "Surplus Fair Scheduling", OSDI 2000).
//!   That much it is, for when the host took the processor away during its time slice.
//! - A task that runs alone is charged as if it were chosen anew after each
//!   slice: whoever wakes up then does not find it an hour ahead.
//!
//! # Costs
//!
//! Every decision takes O(log n) of the tasks that wait or have a deadline, and O(k)
//! of those that run. A blocked task takes an entry in a table, and one more in
//! a set if it has a deadline.

mod budget;
mod slice;
#[cfg(test)]
mod tests;
mod wake;

use super::Share;
use budget::CapBudget;
use slab::Slab;
use slice::TimeSlice;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a task may run while others wait.
pub const SLICE: Duration = Duration::from_millis(2);

/// How long a task runs at least, if it wants to: a change costs some
/// microseconds, and on software KVM some tens.
pub const GRAIN: Duration = Duration::from_micros(200);

/// How long a task that is told to takes to give way at most, unless it has lost its processor.
const YIELD_NANOS: u64 = 100_000;

/// CPU time that a task may be owed that was not waiting meanwhile.
const LAG: Duration = Duration::from_millis(100);

const SLICE_NANOS: u64 = SLICE.as_nanos() as u64;
const GRAIN_NANOS: u64 = GRAIN.as_nanos() as u64;

const LAG_NANOS: u64 = LAG.as_nanos() as u64;

/// Nanoseconds since some start.
pub(super) type Time = u64;

/// Identifies a task of a [`Policy`]; used again after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u32);

/// Nanoseconds times 65,536 divided by weight.
type VirtualTime = u128;

fn scale(used: u64, share: Share) -> VirtualTime {
    (u128::from(used) << 16) / u128::from(share.weight())
}

/// CPU time that advances a virtual time by so much.
fn unscale(advance: VirtualTime, share: Share) -> u64 {
    u64::try_from((advance * u128::from(share.weight())) >> 16).unwrap_or(u64::MAX)
}

/// What a task does after its time slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It could go on.
    Ready,
    /// It waits to be woken, or for this time.
    Blocked(Option<Time>),
    /// It will never run again.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    Blocked,
    /// Wants to run.
    Waiting,
    /// Wants to run, and has used up its cap.
    Throttled,
    Running,
    /// Running, and to be run again even if it blocks.
    Woken,
    /// Running, and gone afterwards.
    Removed,
    Ended,
}

struct TaskEntry<T> {
    virtual_time: VirtualTime,
    /// CPU time of all its time slices.
    used: u64,
    share: Share,
    state: RunState,
    /// It has not wanted to run yet.
    fresh: bool,
    /// It has woken up, and has not run since.
    prompt: bool,
    /// Where it stands in the set of alarms.
    alarm: Option<Time>,
    budget: CapBudget,
    payload: T,
}

/// The tasks of a scheduler, each with something of the caller's.
pub(super) struct Policy<T> {
    tasks: Slab<TaskEntry<T>>,
    waiting: BTreeSet<(VirtualTime, Id)>,
    /// Deadlines of blocked tasks, and ends of the waits of throttled ones.
    alarms: BTreeSet<(Time, Id)>,
    running: Vec<TimeSlice>,
    virtual_time: VirtualTime,
}

impl<T> Policy<T> {
    pub(super) fn new() -> Self {
        Policy {
            tasks: Slab::new(),
            waiting: BTreeSet::new(),
            alarms: BTreeSet::new(),
            running: Vec::new(),
            virtual_time: 0,
        }
    }

    fn entry(&mut self, id: Id) -> &mut TaskEntry<T> {
        &mut self.tasks[id.0 as usize]
    }

    /// A new task, blocked.
    pub(super) fn add(&mut self, share: Share, payload: T, now: Time) -> Id {
        let budget = CapBudget::new(share.cap().unwrap_or(100), now);
        let entry = TaskEntry {
            virtual_time: 0,
            used: 0,
            share,
            state: RunState::Blocked,
            fresh: true,
            prompt: false,
            alarm: None,
            budget,
            payload,
        };
        Id(u32::try_from(self.tasks.insert(entry)).expect("fewer than 2^32 tasks"))
    }

    /// Forgets a task, and gives back what was the caller's. If it runs, that
    /// is to give way at once, and that comes from [`stop`](Self::stop).
    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        match self.entry(id).state {
            RunState::Running | RunState::Woken | RunState::Removed => {
                self.entry(id).state = RunState::Removed;
                self.running.iter_mut().filter(|slice| slice.id == id).for_each(|slice| slice.budget_end = 0);
                return None;
            }
            RunState::Waiting => {
                let key = (self.entry(id).virtual_time, id);
                self.waiting.remove(&key);
            }
            RunState::Blocked | RunState::Throttled | RunState::Ended => self.disarm(id),
        }
        Some(self.tasks.remove(id.0 as usize).payload)
    }

    /// What the caller keeps with a task.
    pub(super) fn payload(&mut self, id: Id) -> &mut T {
        &mut self.entry(id).payload
    }

    /// CPU time of a task's time slices so far, without one that it has now.
    pub(super) fn used(&self, id: Id) -> Duration {
        Duration::from_nanos(self.tasks[id.0 as usize].used)
    }

    /// Gives a task another share, from now on.
    pub(super) fn set_share(&mut self, id: Id, share: Share, now: Time) {
        let entry = self.entry(id);
        if entry.share.cap() != share.cap() {
            entry.budget = CapBudget::new(share.cap().unwrap_or(100), now);
        }
        entry.share = share;
        let state = entry.state;
        let end = self.budget_end(id, now);
        if let Some(slice) = self.running.iter_mut().find(|slice| slice.id == id) {
            slice.budget_end = end;
        }
        if state == RunState::Throttled {
            self.disarm(id);
            self.start(id, now);
        }
    }

    /// Makes a task run (again) soon, unless it has ended.
    pub(super) fn wake(&mut self, id: Id, now: Time) {
        match self.entry(id).state {
            RunState::Blocked => {
                self.disarm(id);
                self.start(id, now);
            }
            RunState::Running => self.entry(id).state = RunState::Woken,
            _ => {}
        }
    }

    /// Puts a task in line, or has it wait until its cap allows that.
    fn queue(&mut self, id: Id, now: Time) -> bool {
        let entry = self.entry(id);
        if let Some(cap) = entry.share.cap()
            && entry.budget.available(cap, now) <= 0
        {
            entry.state = RunState::Throttled;
            let until = entry.budget.refilled(cap);
            self.arm(id, until);
            return false;
        }
        entry.state = RunState::Waiting;
        let key = (entry.virtual_time, id);
        self.waiting.insert(key);
        true
    }

    /// Chooses the next task to run; its time slice begins now.
    pub(super) fn pick(&mut self, now: Time) -> Option<Id> {
        let (virtual_time, id) = self.waiting.pop_first()?;
        self.virtual_time = self.virtual_time.max(virtual_time);
        let entry = self.entry(id);
        (entry.state, entry.prompt) = (RunState::Running, false);
        let budget_end = self.budget_end(id, now);
        self.running.push(TimeSlice {
            id,
            since: now,
            slice_end: now + SLICE_NANOS,
            budget_end,
            asked: None,
        });
        self.hurry_again(now);
        Some(id)
    }

    fn budget_end(&mut self, id: Id, now: Time) -> Time {
        let entry = self.entry(id);
        let Some(cap) = entry.share.cap() else { return Time::MAX };
        let available = entry.budget.available(cap, now);
        now + u64::try_from(available).unwrap_or(0).max(GRAIN_NANOS)
    }

    /// A time slice has ended, after so many nanoseconds of CPU time. Returns what was
    /// the caller's if the task is gone.
    pub(super) fn stop(&mut self, id: Id, used: u64, after: After, now: Time) -> Option<T> {
        self.running.retain(|slice| slice.id != id);
        let entry = self.entry(id);
        entry.used += used;
        // A time slice is never free: nobody can come back for ever.
        entry.virtual_time += scale(used.max(1000), entry.share);
        entry.budget.spend(used, now);
        match (after, entry.state) {
            (_, RunState::Removed) => return Some(self.tasks.remove(id.0 as usize).payload),
            (After::Ended, _) => entry.state = RunState::Ended,
            (After::Blocked(deadline), RunState::Running) => {
                entry.state = RunState::Blocked;
                if let Some(deadline) = deadline {
                    self.arm(id, deadline);
                }
            }
            (After::Ready | After::Blocked(_), _) => {
                let least = self.least(id);
                let entry = self.entry(id);
                entry.virtual_time = entry.virtual_time.max(least);
                self.queue(id, now);
            }
        }
        None
    }

    /// Others have worked for a task for so many nanoseconds: as if it had run, of its time and of its cap.
    pub(super) fn charge(&mut self, id: Id, used: u64, now: Time) {
        let entry = self.entry(id);
        let before = entry.virtual_time;
        entry.virtual_time += scale(used, entry.share);
        entry.budget.spend(used, now);
        let after = entry.virtual_time;
        if self.waiting.remove(&(before, id)) {
            self.waiting.insert((after, id));
        }
    }

    /// Where a task that has just run may be at least: whatever time slice of
    /// another it waited for, and [`LAG`] of its own time besides.
    fn least(&self, id: Id) -> VirtualTime {
        let share = |id: Id| self.tasks[id.0 as usize].share;
        let waited =
            self.waiting.first().map(|&(at, first)| at.saturating_sub(scale(SLICE_NANOS, share(first))));
        let stalled = self.virtual_time.saturating_sub(scale(LAG_NANOS, share(id)));
        waited.map_or(stalled, |waited| waited.min(stalled))
    }

    /// Puts those in line whose deadline has come, or whose cap allows it again.
    pub(super) fn tick(&mut self, now: Time) {
        while let Some(&(at, id)) = self.alarms.first()
            && at <= now
        {
            self.disarm(id);
            self.start(id, now);
        }
    }

    /// The running tasks that are to give way now, each once. `free` processors
    /// are about to choose a task.
    pub(super) fn overdue(&mut self, free: usize, now: Time) -> Vec<Id> {
        let crowded = self.waiting.len() > free;
        if crowded {
            self.hurry_again(now);
        }
        let ends = |slice: &&mut TimeSlice| slice.asked.is_none() && slice.end(crowded) <= now;
        self.running.iter_mut().filter(ends).map(|slice| (slice.asked = Some(now), slice.id).1).collect()
    }

    /// Has the time slice of the task end that has had most: there is a processor less.
    pub(super) fn end_one(&mut self, now: Time) {
        let tasks = &self.tasks;
        let going_on = self.running.iter_mut().filter(|slice| slice.asked.is_none());
        if let Some(slice) = going_on.max_by_key(|slice| tasks[slice.id.0 as usize].virtual_time) {
            slice.budget_end = now;
        }
    }

    /// When [`tick`](Self::tick) or [`overdue`](Self::overdue) will next have something to do.
    pub(super) fn next_event(&self, free: usize, now: Time) -> Option<Time> {
        let crowded = self.waiting.len() > free;
        let slices = self.running.iter().filter_map(|slice| match slice.asked {
            None => Some(slice.end(crowded)),
            Some(asked) => Some(asked + YIELD_NANOS).filter(|&at| crowded && at > now),
        });
        let alarm = self.alarms.first().map(|&(at, _)| at);
        slices.chain(alarm).filter(|&at| at != Time::MAX).min()
    }

    /// Number of tasks that run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Number of tasks in line.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of deadlines and of tasks that wait for their cap.
    pub(super) fn alarms(&self) -> usize {
        self.alarms.len()
    }

    fn arm(&mut self, id: Id, at: Time) {
        self.entry(id).alarm = Some(at);
        self.alarms.insert((at, id));
    }

    fn disarm(&mut self, id: Id) {
        if let Some(at) = self.entry(id).alarm.take() {
            self.alarms.remove(&(at, id));
        }
    }
}
