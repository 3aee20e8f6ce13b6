//! Groups of tasks with one common share: the virtual CPUs of a guest.

use super::budget::CapBudget;
use super::{Id, Key, Policy, RunState, Share, TaskEntry, Time, VirtualTime, scale};

/// Tasks with a common share. What one uses moves all of them back in the run queue.
pub(super) struct Group {
    pub(super) virtual_time: VirtualTime,
    pub(super) share: Share,
    /// None of them has wanted to run yet.
    pub(super) fresh: bool,
    pub(super) budget: CapBudget,
    pub(super) members: Vec<Id>,
}

impl Group {
    pub(super) fn new(share: Share, now: Time) -> Self {
        let budget = CapBudget::new(share.cap().unwrap_or(100), now);
        Group { virtual_time: 0, share, fresh: true, budget, members: Vec::new() }
    }

    /// Its cap, unless its tasks cannot use more than that anyway.
    pub(super) fn cap(&self) -> Option<u32> {
        self.share.cap().filter(|&cap| cap as usize / 100 < self.members.len())
    }
}

impl<T> Policy<T> {
    /// A new task with a share of its own, blocked.
    pub(in crate::sched) fn add(&mut self, share: Share, payload: T, now: Time) -> Id {
        let group = self.groups.insert(Group::new(share, now));
        self.add_to(group, payload)
    }

    /// A new task in the group of another one, blocked.
    pub(in crate::sched) fn add_beside(&mut self, other: Id, payload: T) -> Id {
        self.add_to(self.tasks[other.0 as usize].group, payload)
    }

    fn add_to(&mut self, group: usize, payload: T) -> Id {
        let entry = TaskEntry {
            group,
            used: 0,
            state: RunState::Blocked,
            prompt: false,
            queued: 0,
            alarm: None,
            payload,
        };
        let id = Id(u32::try_from(self.tasks.insert(entry)).expect("fewer than 2^32 tasks"));
        self.groups[group].members.push(id);
        id
    }

    /// Removes a task from the tables of tasks and groups.
    pub(super) fn forget(&mut self, id: Id) -> T {
        let TaskEntry { group, payload, .. } = self.tasks.remove(id.0 as usize);
        let members = &mut self.groups[group].members;
        members.retain(|member| *member != id);
        if members.is_empty() {
            self.groups.remove(group);
        }
        payload
    }

    pub(super) fn group_of(&mut self, id: Id) -> &mut Group {
        let group = self.tasks[id.0 as usize].group;
        &mut self.groups[group]
    }

    /// The share and the virtual time of a task.
    pub(super) fn standing(&self, id: Id) -> (Share, VirtualTime) {
        let group = &self.groups[self.tasks[id.0 as usize].group];
        (group.share, group.virtual_time)
    }

    /// The key of a task in the run queue, if it is there.
    pub(super) fn key(&self, id: Id) -> Key {
        let entry = &self.tasks[id.0 as usize];
        (self.groups[entry.group].virtual_time, entry.queued, id)
    }

    /// A task has used so much CPU time: its whole group moves back.
    pub(super) fn advance(&mut self, id: Id, used: u64) {
        let (share, virtual_time) = self.standing(id);
        self.move_to(id, virtual_time + scale(used, share));
    }

    /// Sets the virtual time of a task's group, and moves those of its tasks that are in the run queue.
    pub(super) fn move_to(&mut self, id: Id, to: VirtualTime) {
        let group = &mut self.groups[self.tasks[id.0 as usize].group];
        let before = std::mem::replace(&mut group.virtual_time, to);
        if before == to {
            return;
        }
        for &member in &group.members {
            if self.tasks[member.0 as usize].state == RunState::Waiting {
                let queued = self.tasks[member.0 as usize].queued;
                self.waiting.remove(&(before, queued, member));
                self.waiting.insert((to, queued, member));
            }
        }
    }
}
