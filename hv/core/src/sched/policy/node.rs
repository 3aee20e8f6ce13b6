//! What has a share: guests, and groups of guests and of groups.

use super::budget::Budget;
use super::{
    Id, Key, Policy, RunState, SLICE_NANOS, Share, TaskEntry, Time, VirtualTime, YIELD_NANOS, scale,
};
use slab::Slab;
use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

/// Identifies a node of a [`Policy`]. Reused after its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sched) struct NodeId(u32);

/// The group of all that is in no other group.
pub(in crate::sched) const ROOT: NodeId = NodeId(0);

/// A guest, whose tasks are its virtual CPUs, or a group, whose members are guests and groups. What one of its tasks
/// uses moves the whole node back in the run queue of the group that it is in.
pub(super) struct Node {
    pub(super) parent: NodeId,
    /// Number of groups above it.
    pub(super) depth: u32,
    pub(super) virtual_time: VirtualTime,
    pub(super) share: Share,
    /// None of its tasks has wanted to run yet.
    pub(super) fresh: bool,
    pub(super) budgets: Vec<Budget>,
    /// Its budgets are used up until then.
    pub(super) throttled: Option<Time>,
    /// Tasks that wait for a processor and for no budget below this node.
    pub(super) waiting: usize,
    /// Tasks that run.
    pub(super) running: usize,
    /// Of a guest.
    pub(super) tasks: Vec<Id>,
    /// The number of a group's arrival in the run queue.
    pub(super) queued: u64,
    /// The run queue of a group: tasks of the guests in it, and groups.
    pub(super) queue: BTreeSet<Key>,
    /// The virtual time of a group's run queue.
    pub(super) clock: VirtualTime,
    /// Number of nodes in a group.
    members: usize,
    /// A group that may get members.
    held: bool,
}

impl Node {
    fn new(parent: NodeId, depth: u32, share: Share, now: Time) -> Self {
        Node {
            parent,
            depth,
            virtual_time: 0,
            share,
            fresh: true,
            budgets: Budget::of(share, now),
            throttled: None,
            waiting: 0,
            running: 0,
            tasks: Vec::new(),
            queued: 0,
            queue: BTreeSet::new(),
            clock: 0,
            members: 0,
            held: false,
        }
    }

    pub(super) fn is_group(&self) -> bool {
        self.tasks.is_empty()
    }

    /// What its virtual time is ahead of what it has used, for each time slice that goes on: a whole one, to the moment
    /// when the task gives way.
    pub(super) fn advance(&self) -> VirtualTime {
        if self.is_group() { scale(SLICE_NANOS + YIELD_NANOS, self.share) } else { 0 }
    }
}

/// All nodes.
pub(super) struct Nodes(Slab<Node>);

impl Nodes {
    /// The [root](ROOT) alone.
    pub(super) fn new() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(ROOT, 0, Share::default(), 0));
        Nodes(nodes)
    }

    fn add(&mut self, parent: NodeId, share: Share, now: Time) -> NodeId {
        let depth = self[parent].depth + 1;
        self[parent].members += 1;
        NodeId(
            u32::try_from(self.0.insert(Node::new(parent, depth, share, now)))
                .expect("fewer than 2^32 nodes"),
        )
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Index<NodeId> for Nodes {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.0[id.0 as usize]
    }
}

impl IndexMut<NodeId> for Nodes {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.0[id.0 as usize]
    }
}

impl<T> Policy<T> {
    /// A new task with a share of its own, in a group, blocked.
    pub(in crate::sched) fn add(&mut self, group: NodeId, share: Share, payload: T, now: Time) -> Id {
        let node = self.nodes.add(group, share, now);
        self.add_to(node, payload)
    }

    /// A new task that shares with another one, blocked.
    pub(in crate::sched) fn add_beside(&mut self, other: Id, payload: T) -> Id {
        self.add_to(self.node_of(other), payload)
    }

    fn add_to(&mut self, node: NodeId, payload: T) -> Id {
        let entry = TaskEntry {
            node,
            used: 0,
            state: RunState::Blocked,
            prompt: false,
            queued: 0,
            alarm: None,
            payload,
        };
        let id = Id(u32::try_from(self.tasks.insert(entry)).expect("fewer than 2^32 tasks"));
        self.nodes[node].tasks.push(id);
        id
    }

    /// A new group in another one. It lives as long as it is [held](Self::drop_group) or has members.
    pub(in crate::sched) fn add_group(&mut self, parent: NodeId, share: Share, now: Time) -> NodeId {
        let group = self.nodes.add(parent, share, now);
        self.nodes[group].held = true;
        group
    }

    /// A group gets no more members.
    pub(in crate::sched) fn drop_group(&mut self, group: NodeId) {
        self.nodes[group].held = false;
        self.prune(group);
    }

    /// Removes a task from the tables of tasks and nodes.
    pub(super) fn forget(&mut self, id: Id) -> T {
        let TaskEntry { node, payload, .. } = self.tasks.remove(id.0 as usize);
        self.nodes[node].tasks.retain(|task| *task != id);
        self.prune(node);
        payload
    }

    /// Removes a node that nothing needs, and groups above it that nothing needs then.
    fn prune(&mut self, mut node: NodeId) {
        while node != ROOT {
            let Node { parent, members, held, ref tasks, .. } = self.nodes[node];
            if members > 0 || held || !tasks.is_empty() {
                return;
            }
            self.forget_refill(node);
            self.nodes.0.remove(node.0 as usize);
            self.nodes[parent].members -= 1;
            node = parent;
        }
    }

    /// The guest of a task.
    pub(super) fn node_of(&self, id: Id) -> NodeId {
        self.tasks[id.0 as usize].node
    }

    /// The group that a node is in, unless it is the root.
    pub(super) fn above(&self, node: NodeId) -> Option<NodeId> {
        Some(self.nodes[node].parent).filter(|parent| *parent != ROOT)
    }

    /// A node and the groups above it, without the root.
    pub(super) fn path(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(node), |node| self.above(*node))
    }

    /// The member of a group that a task belongs to, if it does.
    pub(super) fn member_of(&self, group: NodeId, id: Id) -> Option<NodeId> {
        let depth = self.nodes[group].depth + 1;
        let member = self.path(self.node_of(id)).find(|node| self.nodes[*node].depth == depth)?;
        (self.nodes[member].parent == group).then_some(member)
    }

    /// For two tasks, the nodes above them that are in the same group: these compete with each other. They are the same if
    /// the tasks are of one guest.
    pub(super) fn rivals(&self, one: Id, other: Id) -> (NodeId, NodeId) {
        let (mut one, mut other) = (self.node_of(one), self.node_of(other));
        while one != other && self.nodes[one].parent != self.nodes[other].parent {
            let (first, second) = (&self.nodes[one], &self.nodes[other]);
            let (up, down) = (first.depth >= second.depth, second.depth >= first.depth);
            let (first, second) = (first.parent, second.parent);
            if up {
                one = first;
            }
            if down {
                other = second;
            }
        }
        (one, other)
    }

    /// Others have worked so long for a task: what it belongs to moves back.
    pub(super) fn spend(&mut self, id: Id, used: u64, now: Time) {
        self.each_above(id, |node| {
            node.budgets.iter_mut().for_each(|budget| budget.spend(used, now));
            node.virtual_time + scale(used, node.share)
        });
    }

    /// A time slice begins. The groups above pay for it in advance: a processor that is free at the same time then is their
    /// rivals', if they have used less.
    pub(super) fn begin_slice(&mut self, id: Id) {
        self.each_above(id, |node| {
            node.running += 1;
            node.virtual_time + node.advance()
        });
    }

    /// A time slice has ended, in which so much CPU time was used.
    pub(super) fn end_slice(&mut self, id: Id, used: u64, now: Time) {
        self.each_above(id, |node| {
            node.running -= 1;
            node.budgets.iter_mut().for_each(|budget| budget.spend(used, now));
            node.virtual_time.saturating_sub(node.advance()) + scale(used, node.share)
        });
    }

    /// Changes a task's guest, and the groups above it, and moves them to new virtual times.
    fn each_above(&mut self, id: Id, change: impl Fn(&mut Node) -> VirtualTime) {
        let mut at = Some(self.node_of(id));
        while let Some(node) = at {
            let to = change(&mut self.nodes[node]);
            self.move_to(node, to);
            at = self.above(node);
        }
    }
}
