//! Which task runs next, for how long, and when a task that has used up its cap may continue. Pure decisions: time is a
//! parameter, a task is a number.
//!
//! # Fairness
//!
//! *Start-time fair queuing* (Goyal, Guo, Vin: "A Hierarchical CPU Scheduler for Multimedia Operating Systems", OSDI
//! 1996). Each task has a *virtual time*, which advances by the CPU time that it uses divided by its weight. Of the
//! waiting tasks, the one with the least virtual time runs. The virtual time of the scheduler is that of the task that
//! was last chosen. The length of a time slice need not be known in advance: a task is charged for what it has used.
//!
//! Tasks can be in a *group*, as the virtual CPUs of a guest are: they have one virtual time, one weight and one cap
//! together, however many of them run at the same time.
//!
//! Four additions:
//!
//! - A task that wakes up keeps its virtual time, but starts at most one slice of its own behind the least virtual time
//!   of those that want to run. So it comes before tasks that always want to run, unless it has used more than its share.
//!   It saves up no more than that slice, however long it sleeps.
//! - A time slice is a [`SLICE`] while others wait. It ends sooner for a task that wakes up with a smaller virtual time
//!   than the running one, but not before the running one has had a [`GRAIN`].
//! - The virtual time of a task with a large weight falls behind without limit if the task can use only one processor of
//!   several. It is not owed the time that it could not have used, beyond a [`LAG`] (the problem is that of Chandra et
//!   al.: "Surplus Fair Scheduling", OSDI 2000). It is owed up to a [`LAG`], since the host may have taken the processor
//!   away during its time slice.
//! - A task that runs alone is charged as if it were chosen anew after each slice. So it is not hours ahead of a task that wakes up then.
//!
//! # Costs
//!
//! Every decision takes O(log n) of the tasks that wait or have a deadline, and O(k) of the running ones. A blocked task
//! takes an entry in a table, and an entry in a set if it has a deadline.

mod budget;
mod group;
mod slice;
#[cfg(test)]
mod tests;
mod wake;

use super::Share;
use budget::CapBudget;
use group::Group;
use slab::Slab;
use slice::TimeSlice;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a task may run while others wait.
pub const SLICE: Duration = Duration::from_millis(2);

/// How long a task runs at least, if it wants to. A switch costs some microseconds, on software KVM some tens.
pub const GRAIN: Duration = Duration::from_micros(200);

/// How long a task that was asked to give way takes at most, unless it has lost its processor.
const YIELD_NANOS: u64 = 100_000;

/// CPU time that a task may be owed although it was not waiting meanwhile.
const LAG: Duration = Duration::from_millis(100);

const SLICE_NANOS: u64 = SLICE.as_nanos() as u64;
const GRAIN_NANOS: u64 = GRAIN.as_nanos() as u64;

const LAG_NANOS: u64 = LAG.as_nanos() as u64;

/// Nanoseconds since a fixed start.
pub(super) type Time = u64;

/// Identifies a task of a [`Policy`]. Reused after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u32);

/// Nanoseconds times 65,536 divided by weight.
type VirtualTime = u128;

/// The position of a task in the run queue. Tasks of one group have the same virtual time; of them, the one that has
/// waited longest comes first.
type Key = (VirtualTime, u64, Id);

fn scale(used: u64, share: Share) -> VirtualTime {
    (u128::from(used) << 16) / u128::from(share.weight())
}

/// CPU time that advances a virtual time by this much.
fn unscale(advance: VirtualTime, share: Share) -> u64 {
    u64::try_from((advance * u128::from(share.weight())) >> 16).unwrap_or(u64::MAX)
}

/// What a task does after its time slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It wants to run.
    Ready,
    /// It waits for a wake-up, or for this time.
    Blocked(Option<Time>),
    /// It will never run again.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    Blocked,
    /// Wants to run.
    Waiting,
    /// Wants to run, but has used up its cap.
    Throttled,
    Running,
    /// Running; runs again even if it blocks.
    Woken,
    /// Running; removed after its time slice.
    Removed,
    Ended,
}

struct TaskEntry<T> {
    /// The key of its group.
    group: usize,
    /// CPU time of all its time slices.
    used: u64,
    state: RunState,
    /// It has woken up and has not run since.
    prompt: bool,
    /// The number of its arrival in the run queue.
    queued: u64,
    /// Its time in the set of alarms.
    alarm: Option<Time>,
    payload: T,
}

/// The tasks of a scheduler. Each has a payload of the caller's.
pub(super) struct Policy<T> {
    tasks: Slab<TaskEntry<T>>,
    groups: Slab<Group>,
    waiting: BTreeSet<Key>,
    /// Counts arrivals in the run queue.
    queued: u64,
    /// Deadlines of blocked tasks, and the times at which throttled tasks may run again.
    alarms: BTreeSet<(Time, Id)>,
    running: Vec<TimeSlice>,
    virtual_time: VirtualTime,
}

impl<T> Policy<T> {
    pub(super) fn new() -> Self {
        Policy {
            tasks: Slab::new(),
            groups: Slab::new(),
            waiting: BTreeSet::new(),
            queued: 0,
            alarms: BTreeSet::new(),
            running: Vec::new(),
            virtual_time: 0,
        }
    }

    fn entry(&mut self, id: Id) -> &mut TaskEntry<T> {
        &mut self.tasks[id.0 as usize]
    }

    /// Removes a task and returns its payload. If the task runs, it has to give way at once, and [`stop`](Self::stop) returns the payload.
    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        match self.entry(id).state {
            RunState::Running | RunState::Woken | RunState::Removed => {
                self.entry(id).state = RunState::Removed;
                self.running.iter_mut().filter(|slice| slice.id == id).for_each(|slice| slice.budget_end = 0);
                return None;
            }
            RunState::Waiting => {
                let key = self.key(id);
                self.waiting.remove(&key);
            }
            RunState::Blocked | RunState::Throttled | RunState::Ended => self.disarm(id),
        }
        Some(self.forget(id))
    }

    /// The payload of a task.
    pub(super) fn payload(&mut self, id: Id) -> &mut T {
        &mut self.entry(id).payload
    }

    /// CPU time of a task's time slices so far, without the current one.
    pub(super) fn used(&self, id: Id) -> Duration {
        Duration::from_nanos(self.tasks[id.0 as usize].used)
    }

    /// Gives a task's group another share, from now on. Other tasks of the group that wait for their cap check at their
    /// alarm whether they may run.
    pub(super) fn set_share(&mut self, id: Id, share: Share, now: Time) {
        let group = self.group_of(id);
        if group.share.cap() != share.cap() {
            group.budget = CapBudget::new(share.cap().unwrap_or(100), now);
        }
        group.share = share;
        let state = self.entry(id).state;
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

    /// Puts a task in the run queue, or makes it wait until its cap allows it to run.
    fn queue(&mut self, id: Id, now: Time) -> bool {
        let group = self.group_of(id);
        if let Some(cap) = group.cap()
            && group.budget.available(cap, now) <= 0
        {
            let until = group.budget.refilled(cap);
            self.entry(id).state = RunState::Throttled;
            self.arm(id, until);
            return false;
        }
        self.queued += 1;
        let queued = self.queued;
        let entry = self.entry(id);
        (entry.state, entry.queued) = (RunState::Waiting, queued);
        let key = self.key(id);
        self.waiting.insert(key);
        true
    }

    /// Chooses the next task to run; its time slice begins now.
    pub(super) fn pick(&mut self, now: Time) -> Option<Id> {
        let (virtual_time, _, id) = self.waiting.pop_first()?;
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
        let group = self.tasks[id.0 as usize].group;
        let beside = self.running.iter().filter(|slice| slice.id != id);
        let beside = beside.filter(|slice| self.tasks[slice.id.0 as usize].group == group).count();
        let group = &mut self.groups[group];
        let Some(cap) = group.cap() else { return Time::MAX };
        // Tasks of the group that run at the same time use up the budget together.
        let available = u64::try_from(group.budget.available(cap, now)).unwrap_or(0) / (beside as u64 + 1);
        now + available.max(GRAIN_NANOS)
    }

    /// A time slice has ended after so many nanoseconds of CPU time. Returns the payload if the task was removed.
    pub(super) fn stop(&mut self, id: Id, used: u64, after: After, now: Time) -> Option<T> {
        self.running.retain(|slice| slice.id != id);
        // A time slice is never free: otherwise a task could run again and again without being charged.
        self.advance(id, used.max(1000));
        self.group_of(id).budget.spend(used, now);
        let entry = self.entry(id);
        entry.used += used;
        match (after, entry.state) {
            (_, RunState::Removed) => return Some(self.forget(id)),
            (After::Ended, _) => entry.state = RunState::Ended,
            (After::Blocked(deadline), RunState::Running) => {
                entry.state = RunState::Blocked;
                if let Some(deadline) = deadline {
                    self.arm(id, deadline);
                }
            }
            (After::Ready | After::Blocked(_), _) => {
                let (_, virtual_time) = self.standing(id);
                self.move_to(id, virtual_time.max(self.least(id)));
                self.queue(id, now);
            }
        }
        None
    }

    /// Others have worked for a task for so many nanoseconds. Its virtual time and its cap are charged as if it had run.
    pub(super) fn charge(&mut self, id: Id, used: u64, now: Time) {
        self.advance(id, used);
        self.group_of(id).budget.spend(used, now);
    }

    /// The least virtual time of a task that has just run. It is credited for a time slice of another task that it waited
    /// for, and for at most [`LAG`] of its own time.
    fn least(&self, id: Id) -> VirtualTime {
        let share = |id: Id| self.standing(id).0;
        let waited =
            self.waiting.first().map(|&(at, _, first)| at.saturating_sub(scale(SLICE_NANOS, share(first))));
        let stalled = self.virtual_time.saturating_sub(scale(LAG_NANOS, share(id)));
        waited.map_or(stalled, |waited| waited.min(stalled))
    }

    /// Puts tasks in the run queue whose deadline has come, or whose cap allows them to run again.
    pub(super) fn tick(&mut self, now: Time) {
        while let Some(&(at, id)) = self.alarms.first()
            && at <= now
        {
            self.disarm(id);
            self.start(id, now);
        }
    }

    /// The running tasks that have to give way now. Each is returned once. `free` processors are about to choose a task.
    pub(super) fn overdue(&mut self, free: usize, now: Time) -> Vec<Id> {
        let crowded = self.waiting.len() > free;
        if crowded {
            self.hurry_again(now);
        }
        let ends = |slice: &&mut TimeSlice| slice.asked.is_none() && slice.end(crowded) <= now;
        self.running.iter_mut().filter(ends).map(|slice| (slice.asked = Some(now), slice.id).1).collect()
    }

    /// Ends the time slice of the running task with the largest virtual time: there is one processor fewer.
    pub(super) fn end_one(&mut self, now: Time) {
        let (tasks, groups) = (&self.tasks, &self.groups);
        let going_on = self.running.iter_mut().filter(|slice| slice.asked.is_none());
        let used = |slice: &TimeSlice| groups[tasks[slice.id.0 as usize].group].virtual_time;
        if let Some(slice) = going_on.max_by_key(|slice| used(slice)) {
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

    /// Number of running tasks.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Number of tasks in the run queue.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of deadlines, and of tasks that wait for their cap.
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
