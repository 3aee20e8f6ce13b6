//! Tasks whose cap or quota is used up, or that of a group above them: they wait outside of the run queue.

use super::budget::Budget;
use super::{GRAIN_NANOS, Id, Node, NodeId, Policy, Share, Time};

impl Node {
    /// Its budgets, but for those that its tasks cannot exceed anyway.
    fn budgets(&mut self) -> impl Iterator<Item = &mut Budget> {
        let tasks = if self.is_group() { usize::MAX } else { self.tasks.len() };
        self.budgets.iter_mut().filter(move |budget| budget.binds(tasks))
    }

    /// When it will have CPU time again, if it has none.
    fn exhausted(&mut self, now: Time) -> Option<Time> {
        let empty =
            self.budgets().filter_map(|budget| (budget.available(now) <= 0).then(|| budget.refilled()));
        empty.max()
    }
}

impl<T> Policy<T> {
    /// Has what waits below a node, or below the groups above it, wait until they have CPU time again.
    pub(super) fn limit(&mut self, node: NodeId, now: Time) {
        let mut at = Some(node);
        while let Some(node) = at {
            let it = &mut self.nodes[node];
            if it.waiting > 0
                && it.throttled.is_none()
                && let Some(until) = it.exhausted(now)
            {
                self.throttle(node, until);
            }
            at = self.above(node);
        }
    }

    fn throttle(&mut self, node: NodeId, until: Time) {
        self.leave(node);
        let Node { parent, waiting, .. } = self.nodes[node];
        self.fewer_waiting(parent, waiting);
        self.nodes[node].throttled = Some(until);
        self.refills.insert((until, node));
    }

    /// A throttled node has CPU time again, or another budget.
    pub(super) fn release(&mut self, node: NodeId, now: Time) {
        let it = &mut self.nodes[node];
        let until = it.exhausted(now);
        let Node { parent, waiting, running, .. } = *it;
        let before = it.throttled.expect("it is throttled");
        self.refills.remove(&(before, node));
        if let Some(until) = until {
            it.throttled = Some(until);
            self.refills.insert((until, node));
            return;
        }
        if running == 0 {
            self.rejoin(node, now);
        }
        self.nodes[node].throttled = None;
        self.join(node);
        self.more_waiting(parent, waiting);
        if let Some(id) = self.first_below(node)
            && self.is_queued(id)
        {
            self.entry(id).prompt = true;
            self.hurry(id, now);
        }
    }

    pub(super) fn forget_refill(&mut self, node: NodeId) {
        if let Some(until) = self.nodes[node].throttled.take() {
            self.refills.remove(&(until, node));
        }
    }

    /// When a time slice that begins now ends at the latest, or one that goes on.
    pub(super) fn budget_end(&mut self, id: Id, now: Time) -> Time {
        let mut end = Time::MAX;
        let mut at = Some(self.node_of(id));
        while let Some(node) = at {
            let it = &mut self.nodes[node];
            // Those that run at the same time use up a budget together.
            let running = it.running.max(1) as u64;
            for budget in it.budgets() {
                let available = u64::try_from(budget.available(now)).unwrap_or(0) / running;
                end = end.min(now + available.max(GRAIN_NANOS));
            }
            at = self.above(node);
        }
        end
    }

    /// Gives a node another share, from now on.
    pub(in crate::sched) fn set_node_share(&mut self, node: NodeId, share: Share, now: Time) {
        let it = &mut self.nodes[node];
        if (it.share.cap(), it.share.quota()) != (share.cap(), share.quota()) {
            it.budgets = Budget::of(share, now);
        }
        it.share = share;
        for at in 0..self.running.len() {
            let id = self.running[at].id;
            if self.path(self.node_of(id)).any(|above| above == node) {
                self.running[at].budget_end = self.budget_end(id, now);
            }
        }
        if self.nodes[node].throttled.is_some() {
            self.release(node, now);
        }
    }
}
