//! Tasks that wake up: their position in the run queue, and which time slice ends for them.

use super::{
    GRAIN_NANOS, Id, Node, NodeId, Policy, ROOT, SLICE_NANOS, Time, TimeSlice, VirtualTime, scale, unscale,
};

impl<T> Policy<T> {
    /// Puts a task that did not want to run in the run queue.
    pub(super) fn start(&mut self, id: Id, now: Time) {
        let node = self.node_of(id);
        let Node { waiting, running, .. } = self.nodes[node];
        // Beside others of its guest that want to run, it has their virtual time.
        if waiting + running == 0 {
            self.rejoin(node, now);
        }
        self.entry(id).prompt = true;
        self.enqueue(id);
        self.limit(node, now);
        if self.is_queued(id) {
            self.hurry(id, now);
        }
    }

    /// A node, nothing of which was in the run queue, comes back. So do the groups above it of which that is true.
    pub(super) fn rejoin(&mut self, node: NodeId, now: Time) {
        let mut at = Some(node);
        while let Some(node) = at {
            self.rejoin_one(node, now);
            at =
                self.above(node).filter(|group| self.nodes[*group].waiting + self.nodes[*group].running == 0);
        }
    }

    fn rejoin_one(&mut self, node: NodeId, now: Time) {
        let group = self.nodes[node].parent;
        if self.nodes[group].queue.is_empty() {
            // No other task wanted the time that the running ones have used.
            let reached = self.running_in(group).map(|(slice, member)| {
                let whole = now.saturating_sub(slice.since) / SLICE_NANOS * SLICE_NANOS;
                self.began(member) + scale(whole, self.nodes[member].share)
            });
            let clock = reached.fold(self.nodes[group].clock, VirtualTime::max);
            self.nodes[group].clock = clock;
        }
        let last = self.last(group, now);
        let it = &mut self.nodes[node];
        let earliest = match std::mem::replace(&mut it.fresh, false) {
            // Behind the last. Otherwise new tasks that come and go would always run before those that stay.
            true => last + 1,
            false => last.saturating_sub(scale(SLICE_NANOS, it.share)),
        };
        let to = it.virtual_time.max(earliest);
        self.move_to(node, to);
    }

    /// The running tasks of a group, with the members that they belong to.
    fn running_in(&self, group: NodeId) -> impl Iterator<Item = (&TimeSlice, NodeId)> {
        self.running.iter().filter_map(move |slice| Some((slice, self.member_of(group, slice.id)?)))
    }

    /// The least virtual time of the members of a group that want to run.
    fn last(&self, group: NodeId, now: Time) -> VirtualTime {
        let running = self.running_in(group).map(|(slice, member)| self.reached(slice, member, now, 0));
        let waiting = self.nodes[group].queue.first().map(|&(at, ..)| at);
        running.chain(waiting).min().unwrap_or(self.nodes[group].clock)
    }

    /// The virtual time of a member of a group with what a time slice has used so far, or will have used at least.
    fn reached(&self, slice: &TimeSlice, member: NodeId, now: Time, least: u64) -> VirtualTime {
        self.began(member) + scale(now.saturating_sub(slice.since).max(least), self.nodes[member].share)
    }

    /// The virtual time at which the time slice of a member of a group began.
    fn began(&self, member: NodeId) -> VirtualTime {
        let it = &self.nodes[member];
        it.virtual_time.saturating_sub(it.advance())
    }

    /// Makes sure that a task that woke up need not wait for the end of a slice of a task that has used more.
    pub(super) fn hurry(&mut self, id: Id, now: Time) {
        let ending = self.running.iter().filter(|slice| slice.is_ending(now)).count();
        // Time slices that end soon are for the tasks before it in the run queue.
        if self.before(id, ending) < ending {
            return;
        }
        let going_on = |slice: &&TimeSlice| slice.asked.is_none() && slice.slice_end > now;
        let furthest = self.running.iter().filter(going_on).reduce(|one, other| {
            let (first, second) = self.rivals(one.id, other.id);
            let reached = |slice, node| self.reached(slice, node, now, GRAIN_NANOS);
            if reached(one, first) > reached(other, second) { one } else { other }
        });
        let Some(&TimeSlice { id: other, since, .. }) = furthest else { return };
        let (own, other_node) = self.rivals(id, other);
        let ahead = self.nodes[own].virtual_time.saturating_sub(self.began(other_node));
        let ahead = unscale(ahead, self.nodes[other_node].share);
        let end = since + ahead.max(GRAIN_NANOS);
        self.running
            .iter_mut()
            .filter(|slice| slice.id == other)
            .for_each(|slice| slice.slice_end = slice.slice_end.min(end));
    }

    /// Another task got the time slice that should have ended for a task that woke up, or that time slice does not end.
    /// Then another time slice has to end for it.
    pub(super) fn hurry_again(&mut self, now: Time) {
        if let Some(id) = self.first_below(ROOT)
            && self.entry(id).prompt
        {
            self.hurry(id, now);
        }
    }
}
