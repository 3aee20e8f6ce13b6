//! The run queues: one of each group. A task that waits is in that of its guest's group, under the virtual time of its
//! guest. A group in which tasks wait is in that of the group above.

use super::{Id, NodeId, Policy, ROOT, RunState, VirtualTime};
use std::collections::BTreeSet;

/// What is in a run queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Task(Id),
    Group(NodeId),
}

/// A position in a run queue. Tasks of one guest have the same virtual time; of them, the one that has waited longest
/// comes first.
pub(super) type Key = (VirtualTime, u64, Item);

impl<T> Policy<T> {
    /// Puts a task in the run queue. If it is its guest's, or a group's, whose budget is used up, it stays outside.
    pub(super) fn enqueue(&mut self, id: Id) {
        self.queued += 1;
        let queued = self.queued;
        let entry = self.entry(id);
        (entry.state, entry.queued) = (RunState::Waiting, queued);
        let node = entry.node;
        if self.nodes[node].throttled.is_none() {
            let key = self.key(id);
            let parent = self.nodes[node].parent;
            self.nodes[parent].queue.insert(key);
        }
        self.more_waiting(node, 1);
    }

    /// Takes a task out of the run queue.
    pub(super) fn dequeue(&mut self, id: Id) {
        let (key, node) = (self.key(id), self.node_of(id));
        let parent = self.nodes[node].parent;
        self.nodes[parent].queue.remove(&key);
        self.fewer_waiting(node, 1);
    }

    /// The key of a task in the run queue of its guest's group, if it is there.
    pub(super) fn key(&self, id: Id) -> Key {
        let entry = &self.tasks[id.0 as usize];
        (self.nodes[entry.node].virtual_time, entry.queued, Item::Task(id))
    }

    fn key_of_group(&self, group: NodeId) -> Key {
        let it = &self.nodes[group];
        (it.virtual_time, it.queued, Item::Group(group))
    }

    /// The node that an item of a run queue belongs to.
    pub(super) fn owner(&self, item: Item) -> NodeId {
        match item {
            Item::Task(id) => self.node_of(id),
            Item::Group(group) => group,
        }
    }

    /// So many more tasks wait below a node. Groups that had none join the run queues above them.
    pub(super) fn more_waiting(&mut self, mut node: NodeId, count: usize) {
        if count == 0 {
            return;
        }
        loop {
            let it = &mut self.nodes[node];
            let before = it.waiting;
            it.waiting += count;
            if node == ROOT || it.throttled.is_some() {
                return;
            }
            let parent = it.parent;
            if before == 0 && it.is_group() {
                self.queued += 1;
                it.queued = self.queued;
                let key = self.key_of_group(node);
                self.nodes[parent].queue.insert(key);
            }
            node = parent;
        }
    }

    /// So many fewer tasks wait below a node. Groups that have none leave the run queues above them.
    pub(super) fn fewer_waiting(&mut self, mut node: NodeId, count: usize) {
        if count == 0 {
            return;
        }
        loop {
            let it = &mut self.nodes[node];
            it.waiting -= count;
            if node == ROOT || it.throttled.is_some() {
                return;
            }
            let (parent, gone) = (it.parent, it.waiting == 0 && it.is_group());
            if gone {
                let key = self.key_of_group(node);
                self.nodes[parent].queue.remove(&key);
            }
            node = parent;
        }
    }

    /// Puts what waits of a node in its group's run queue.
    pub(super) fn join(&mut self, node: NodeId) {
        self.each_key(node, |queue, key| queue.insert(key));
    }

    /// Takes what waits of a node out of its group's run queue.
    pub(super) fn leave(&mut self, node: NodeId) {
        self.each_key(node, |queue, key| queue.remove(&key));
    }

    fn each_key(&mut self, node: NodeId, change: impl Fn(&mut BTreeSet<Key>, Key) -> bool) {
        let it = &self.nodes[node];
        let parent = it.parent;
        if it.waiting == 0 {
            return;
        }
        if it.is_group() {
            let key = self.key_of_group(node);
            change(&mut self.nodes[parent].queue, key);
            return;
        }
        for at in 0..self.nodes[node].tasks.len() {
            let id = self.nodes[node].tasks[at];
            if self.entry(id).state == RunState::Waiting {
                let key = self.key(id);
                change(&mut self.nodes[parent].queue, key);
            }
        }
    }

    /// Sets the virtual time of a node, and moves what waits of it.
    pub(super) fn move_to(&mut self, node: NodeId, to: VirtualTime) {
        let it = &mut self.nodes[node];
        if it.virtual_time == to {
            return;
        }
        if it.waiting == 0 || it.throttled.is_some() {
            it.virtual_time = to;
            return;
        }
        self.leave(node);
        self.nodes[node].virtual_time = to;
        self.join(node);
    }

    /// Takes the task that comes next out of the run queue.
    pub(super) fn take_first(&mut self) -> Option<Id> {
        let mut group = ROOT;
        loop {
            let it = &mut self.nodes[group];
            let &(virtual_time, _, item) = it.queue.first()?;
            it.clock = it.clock.max(virtual_time);
            match item {
                Item::Group(below) => group = below,
                Item::Task(id) => {
                    it.queue.pop_first();
                    self.fewer_waiting(self.node_of(id), 1);
                    return Some(id);
                }
            }
        }
    }

    /// The task of a group, or of a guest, that comes next.
    pub(super) fn first_below(&self, node: NodeId) -> Option<Id> {
        let mut node = node;
        loop {
            let it = &self.nodes[node];
            if !it.is_group() {
                let waiting =
                    it.tasks.iter().filter(|id| self.tasks[id.0 as usize].state == RunState::Waiting);
                return waiting.min_by_key(|id| self.tasks[id.0 as usize].queued).copied();
            }
            match it.queue.first()? {
                (.., Item::Task(id)) => return Some(*id),
                (.., Item::Group(group)) => node = *group,
            }
        }
    }

    /// Whether a task that waits is in the run queue: no budget is used up that it needs.
    pub(super) fn is_queued(&self, id: Id) -> bool {
        self.path(self.node_of(id)).all(|node| self.nodes[node].throttled.is_none())
    }

    /// How many tasks come before one that is in the run queue, if they are fewer than `most`.
    pub(super) fn before(&self, id: Id, most: usize) -> usize {
        let (mut key, mut group) = (self.key(id), self.nodes[self.node_of(id)].parent);
        let mut count = 0;
        loop {
            for (.., item) in self.nodes[group].queue.range(..key) {
                if count >= most {
                    return count;
                }
                count += match item {
                    Item::Task(_) => 1,
                    Item::Group(group) => self.nodes[*group].waiting,
                };
            }
            if group == ROOT {
                return count;
            }
            (key, group) = (self.key_of_group(group), self.nodes[group].parent);
        }
    }

    /// Number of tasks in the run queue.
    pub(in crate::sched) fn waiting(&self) -> usize {
        self.nodes[ROOT].waiting
    }
}
