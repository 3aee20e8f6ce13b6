//! Tasks that wake up: their position in the run queue, and which time slice ends for them.

use super::{GRAIN_NANOS, Id, Policy, SLICE_NANOS, Time, TimeSlice, VirtualTime, scale, unscale};

impl<T> Policy<T> {
    /// Puts a task that did not want to run, or was not allowed to, in the run queue.
    pub(super) fn start(&mut self, id: Id, now: Time) {
        if self.waiting.is_empty() {
            // No other task wanted the time that the running ones have used.
            let reached = self.running.iter().map(|slice| {
                let (share, virtual_time) = self.standing(slice.id);
                let whole = now.saturating_sub(slice.since) / SLICE_NANOS * SLICE_NANOS;
                virtual_time + scale(whole, share)
            });
            self.virtual_time = reached.fold(self.virtual_time, VirtualTime::max);
        }
        let last = self.last(now);
        let group = self.group_of(id);
        let earliest = match std::mem::replace(&mut group.fresh, false) {
            // Behind the last. Otherwise new tasks that come and go would always run before those that stay.
            true => last + 1,
            false => last.saturating_sub(scale(SLICE_NANOS, group.share)),
        };
        let virtual_time = group.virtual_time.max(earliest);
        self.move_to(id, virtual_time);
        self.entry(id).prompt = true;
        if self.queue(id, now) {
            self.hurry(id, now);
        }
    }

    /// The least virtual time of the tasks that want to run.
    fn last(&self, now: Time) -> VirtualTime {
        let running = self.running.iter().map(|slice| {
            let (share, virtual_time) = self.standing(slice.id);
            virtual_time + scale(now.saturating_sub(slice.since), share)
        });
        let waiting = self.waiting.first().map(|&(at, ..)| at);
        running.chain(waiting).min().unwrap_or(self.virtual_time)
    }

    /// Makes sure that a task that woke up need not wait for the end of a slice of a task that has used more.
    fn hurry(&mut self, id: Id, now: Time) {
        let (_, own) = self.standing(id);
        let ending = self.running.iter().filter(|slice| slice.is_ending(now)).count();
        // Time slices that end soon are for the tasks before it in the run queue.
        if self.waiting.range(..self.key(id)).take(ending).count() < ending {
            return;
        }
        let (tasks, groups) = (&self.tasks, &self.groups);
        let group = |slice: &TimeSlice| &groups[tasks[slice.id.0 as usize].group];
        let reached = |slice: &TimeSlice| {
            let used = now.saturating_sub(slice.since).max(GRAIN_NANOS);
            group(slice).virtual_time + scale(used, group(slice).share)
        };
        let going_on = self.running.iter_mut().filter(|slice| slice.asked.is_none() && slice.slice_end > now);
        if let Some(slice) = going_on.max_by_key(|slice| reached(slice))
            && let ahead = unscale(own.saturating_sub(group(slice).virtual_time), group(slice).share)
        {
            slice.slice_end = slice.slice_end.min(slice.since + ahead.max(GRAIN_NANOS));
        }
    }

    /// Another task got the time slice that should have ended for a task that woke up, or that time slice does not end.
    /// Then another time slice has to end for it.
    pub(super) fn hurry_again(&mut self, now: Time) {
        if let Some(&(.., id)) = self.waiting.first()
            && self.entry(id).prompt
        {
            self.hurry(id, now);
        }
    }
}
