//! Tasks that wake up: where they stand in line, and whose time slice ends for them.

use super::{GRAIN_NANOS, Id, Policy, SLICE_NANOS, Time, TimeSlice, VirtualTime, scale, unscale};

impl<T> Policy<T> {
    /// A task that did not want to run, or was not allowed to, gets in line.
    pub(super) fn start(&mut self, id: Id, now: Time) {
        if self.waiting.is_empty() {
            // Nobody else wanted what those that run have had.
            let tasks = &self.tasks;
            let reached = self.running.iter().map(|slice| {
                let entry = &tasks[slice.id.0 as usize];
                let whole = now.saturating_sub(slice.since) / SLICE_NANOS * SLICE_NANOS;
                entry.virtual_time + scale(whole, entry.share)
            });
            self.virtual_time = reached.fold(self.virtual_time, VirtualTime::max);
        }
        let last = self.last(now);
        let entry = self.entry(id);
        let earliest = match std::mem::replace(&mut entry.fresh, false) {
            // Behind the last: of tasks that come and go, each would stand before those that stay otherwise.
            true => last + 1,
            false => last.saturating_sub(scale(SLICE_NANOS, entry.share)),
        };
        entry.virtual_time = entry.virtual_time.max(earliest);
        entry.prompt = true;
        if self.queue(id, now) {
            self.hurry(id, now);
        }
    }

    /// Where the task stands that has had least of those that want to run.
    fn last(&self, now: Time) -> VirtualTime {
        let running = self.running.iter().map(|slice| {
            let entry = &self.tasks[slice.id.0 as usize];
            entry.virtual_time + scale(now.saturating_sub(slice.since), entry.share)
        });
        let waiting = self.waiting.first().map(|&(at, _)| at);
        running.chain(waiting).min().unwrap_or(self.virtual_time)
    }

    /// Sees to it that a task that woke up need not wait for the end of a slice
    /// of one that is ahead of it.
    fn hurry(&mut self, id: Id, now: Time) {
        let own = self.entry(id).virtual_time;
        let ending = self.running.iter().filter(|slice| slice.is_ending(now)).count();
        // Turns that end soon are for those that stand before it.
        if self.waiting.range(..(own, id)).take(ending).count() < ending {
            return;
        }
        let tasks = &self.tasks;
        let reached = |slice: &TimeSlice| {
            let entry = &tasks[slice.id.0 as usize];
            entry.virtual_time + scale(now.saturating_sub(slice.since).max(GRAIN_NANOS), entry.share)
        };
        let going_on = self.running.iter_mut().filter(|slice| slice.asked.is_none() && slice.slice_end > now);
        if let Some(slice) = going_on.max_by_key(|slice| reached(slice))
            && let entry = &tasks[slice.id.0 as usize]
            && let ahead = unscale(own.saturating_sub(entry.virtual_time), entry.share)
        {
            slice.slice_end = slice.slice_end.min(slice.since + ahead.max(GRAIN_NANOS));
        }
    }

    /// Another task got the time slice that was meant for one that woke up, or that time slice does not end: the next
    /// one is to end for it.
    pub(super) fn hurry_again(&mut self, now: Time) {
        if let Some(&(_, id)) = self.waiting.first()
            && self.entry(id).prompt
        {
            self.hurry(id, now);
        }
    }
}
