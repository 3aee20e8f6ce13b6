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
//! Tasks can be of one *guest*, as its virtual CPUs are: they have one virtual time, one weight and one cap
//! together, however many of them run at the same time. Guests can be in *groups*, and groups in others, as that paper has
//! it: each group has a run queue of its own with the virtual times of its members, and a virtual time, a weight, a cap and a quota
//! among its rivals in the group above. To choose a task is to choose in each group on the way down from the root. So a group gets its
//! share however many guests it has, and what a group leaves is its rivals'.
//!
//! *Caps* and *quotas* are budgets of CPU time for each period. A guest or a group without any is out of the run queue above it
//! until the next period, with all that waits below.
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
//! Every decision takes O(log n) of the tasks that wait or have a deadline, and O(k) of the running ones, for each group above
//! the task. A blocked task takes an entry in a table, and an entry in a set if it has a deadline.

mod budget;
mod limit;
mod node;
mod queue;
mod slice;
#[cfg(test)]
mod tests;
mod wake;

use super::Share;
use node::{Node, Nodes};
pub(super) use node::{NodeId, ROOT};
use queue::Key;
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
    Running,
    /// Running; runs again even if it blocks.
    Woken,
    /// Running; removed after its time slice.
    Removed,
    Ended,
}

struct TaskEntry<T> {
    /// Its guest.
    node: NodeId,
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
    nodes: Nodes,
    /// Counts arrivals in the run queues.
    queued: u64,
    /// Deadlines of blocked tasks.
    alarms: BTreeSet<(Time, Id)>,
    /// The times at which throttled guests and groups may run again.
    refills: BTreeSet<(Time, NodeId)>,
    running: Vec<TimeSlice>,
}

impl<T> Policy<T> {
    pub(super) fn new() -> Self {
        Policy {
            tasks: Slab::new(),
            nodes: Nodes::new(),
            queued: 0,
            alarms: BTreeSet::new(),
            refills: BTreeSet::new(),
            running: Vec::new(),
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
            RunState::Waiting => self.dequeue(id),
            RunState::Blocked | RunState::Ended => self.disarm(id),
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

    /// Gives a task's guest another share, from now on.
    pub(super) fn set_share(&mut self, id: Id, share: Share, now: Time) {
        self.set_node_share(self.node_of(id), share, now);
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

    /// Chooses the next task to run; its time slice begins now.
    pub(super) fn pick(&mut self, now: Time) -> Option<Id> {
        let id = self.take_first()?;
        let entry = self.entry(id);
        (entry.state, entry.prompt) = (RunState::Running, false);
        self.begin_slice(id);
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

    /// A time slice has ended after so many nanoseconds of CPU time. Returns the payload if the task was removed.
    pub(super) fn stop(&mut self, id: Id, used: u64, after: After, now: Time) -> Option<T> {
        self.running.retain(|slice| slice.id != id);
        // A time slice is never free: otherwise a task could run again and again without being charged.
        self.end_slice(id, used.max(1000), now);
        let entry = self.entry(id);
        entry.used += used;
        let (node, state) = (entry.node, entry.state);
        match (after, state) {
            (_, RunState::Removed) => {}
            (After::Ended, _) => entry.state = RunState::Ended,
            (After::Blocked(deadline), RunState::Running) => {
                entry.state = RunState::Blocked;
                if let Some(deadline) = deadline {
                    self.arm(id, deadline);
                }
            }
            (After::Ready | After::Blocked(_), _) => {
                self.catch_up(node);
                self.enqueue(id);
            }
        }
        self.limit(node, now);
        (state == RunState::Removed).then(|| self.forget(id))
    }

    /// Others have worked for a task for so many nanoseconds. Its virtual time and its cap are charged as if it had run.
    pub(super) fn charge(&mut self, id: Id, used: u64, now: Time) {
        self.spend(id, used, now);
        self.limit(self.node_of(id), now);
    }

    /// A task of this guest has just run, and wants to run on. The guest, and each group above it, are credited for a time slice of a rival that
    /// they waited for, and for at most [`LAG`] of their own time.
    fn catch_up(&mut self, node: NodeId) {
        let mut at = Some(node);
        while let Some(node) = at {
            let it = &self.nodes[node];
            let Node { queue, clock, .. } = &self.nodes[it.parent];
            let waited = queue.first().map(|&(at, _, first)| {
                at.saturating_sub(scale(SLICE_NANOS, self.nodes[self.owner(first)].share))
            });
            let stalled = clock.saturating_sub(scale(LAG_NANOS, it.share));
            let least = waited.map_or(stalled, |waited| waited.min(stalled));
            let to = it.virtual_time.max(least);
            self.move_to(node, to);
            at = self.above(node);
        }
    }

    /// Puts tasks in the run queue whose deadline has come, or whose budget allows them to run again.
    pub(super) fn tick(&mut self, now: Time) {
        while let Some(&(at, node)) = self.refills.first()
            && at <= now
        {
            self.release(node, now);
        }
        while let Some(&(at, id)) = self.alarms.first()
            && at <= now
        {
            self.disarm(id);
            self.start(id, now);
        }
    }

    /// The running tasks that have to give way now. Each is returned once. `free` processors are about to choose a task.
    pub(super) fn overdue(&mut self, free: usize, now: Time) -> Vec<Id> {
        let crowded = self.waiting() > free;
        if crowded {
            self.hurry_again(now);
        }
        let ends = |slice: &&mut TimeSlice| slice.asked.is_none() && slice.end(crowded) <= now;
        self.running.iter_mut().filter(ends).map(|slice| (slice.asked = Some(now), slice.id).1).collect()
    }

    /// Ends the time slice of the running task with the largest virtual time: there is one processor fewer.
    pub(super) fn end_one(&mut self, now: Time) {
        let going_on = self.running.iter().enumerate().filter(|(_, slice)| slice.asked.is_none());
        let furthest = going_on.reduce(|one, other| {
            let (first, second) = self.rivals(one.1.id, other.1.id);
            let used = |node: NodeId| self.nodes[node].virtual_time;
            if used(first) > used(second) { one } else { other }
        });
        if let Some((at, _)) = furthest {
            self.running[at].budget_end = now;
        }
    }

    /// When [`tick`](Self::tick) or [`overdue`](Self::overdue) will next have something to do.
    pub(super) fn next_event(&self, free: usize, now: Time) -> Option<Time> {
        let crowded = self.waiting() > free;
        let slices = self.running.iter().filter_map(|slice| match slice.asked {
            None => Some(slice.end(crowded)),
            Some(asked) => Some(asked + YIELD_NANOS).filter(|&at| crowded && at > now),
        });
        let alarm = self.alarms.first().map(|&(at, _)| at);
        let refill = self.refills.first().map(|&(at, _)| at);
        slices.chain(alarm).chain(refill).filter(|&at| at != Time::MAX).min()
    }

    /// Number of running tasks.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Number of deadlines, and of guests and groups that wait for their budgets.
    pub(super) fn alarms(&self) -> usize {
        self.alarms.len() + self.refills.len()
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
