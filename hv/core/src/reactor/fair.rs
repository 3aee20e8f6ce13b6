//! Selects the source that the I/O thread serves next. Pure decisions: a time is a number of nanoseconds, owners and sources are numbers.
//!
//! *Start-time fair queuing*, as for the processors ([`sched`](crate::sched)): each owner (a guest) has a virtual time,
//! which advances by the time that the thread spends on its sources. Of the owners with ready sources, the one with the
//! least virtual time is served next. So an owner that keeps the thread busy is deferred as soon as another owner that
//! has used less has a ready source; that one waits for one call at most. Unused time is not saved up: an owner that was
//! idle is at most [`CREDIT`] ahead of those that were busy meanwhile.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// How far an owner that was idle may be ahead of the others, in nanoseconds: the time of one call.
const CREDIT: u64 = 100_000;

/// The least that a call is charged, so that calls without work are not free.
const LEAST: u64 = 500;

/// The account of an owner.
#[derive(Default)]
struct Account {
    virtual_time: u64,
    /// Number of its sources.
    sources: usize,
    /// Its ready sources, in order of arrival.
    ready: VecDeque<u32>,
    /// Time, in nanoseconds, that its payer has not been charged for yet.
    owed: u64,
}

/// Owners, and their ready sources.
#[derive(Default)]
pub(super) struct FairQueue {
    accounts: HashMap<u64, Account>,
    ready: BTreeSet<(u64, u64)>,
    /// Virtual time of the owner that was served last.
    virtual_time: u64,
}

impl FairQueue {
    /// An owner has one more source.
    pub(super) fn join(&mut self, owner: u64) {
        self.accounts.entry(owner).or_default().sources += 1;
    }

    /// One of an owner's sources is gone. It is not in the queue.
    pub(super) fn leave(&mut self, owner: u64) {
        let Some(account) = self.accounts.get_mut(&owner) else { return };
        account.sources -= 1;
        if account.sources == 0 {
            self.ready.remove(&(account.virtual_time, owner));
            self.accounts.remove(&owner);
        }
    }

    /// A source that is not in the queue becomes ready.
    pub(super) fn push(&mut self, owner: u64, source: u32) {
        let Some(account) = self.accounts.get_mut(&owner) else { return };
        account.ready.push_back(source);
        if account.ready.len() == 1 {
            account.virtual_time = account.virtual_time.max(self.virtual_time.saturating_sub(CREDIT));
            self.ready.insert((account.virtual_time, owner));
        }
    }

    /// Takes the next source out of the queue. Its owner has to be [charged](Self::charge) before anything else.
    pub(super) fn next(&mut self) -> Option<(u64, u32)> {
        let (virtual_time, owner) = self.ready.pop_first()?;
        self.virtual_time = self.virtual_time.max(virtual_time);
        let source = self.accounts.get_mut(&owner)?.ready.pop_front()?;
        Some((owner, source))
    }

    /// The thread has spent so much time for an owner. Returns the total that the owner's payer still has to be charged,
    /// once it is large enough to be worth a call.
    pub(super) fn charge(&mut self, owner: u64, time: u64) -> Option<u64> {
        const WORTH: u64 = 200_000;
        let account = self.accounts.get_mut(&owner)?;
        self.ready.remove(&(account.virtual_time, owner));
        account.virtual_time += time.max(LEAST);
        if !account.ready.is_empty() {
            self.ready.insert((account.virtual_time, owner));
        }
        account.owed += time;
        (account.owed >= WORTH).then(|| std::mem::take(&mut account.owed))
    }

    /// Whether no owner has a ready source.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that serves sources, each of which takes a fixed time per call.
    struct Simulated {
        queue: FairQueue,
        now: u64,
        /// Time that was spent for each owner.
        spent: HashMap<u64, u64>,
    }

    impl Simulated {
        /// Owners with so many sources each, numbered `owner * 100 + n`.
        fn new(owners: &[(u64, usize)]) -> Self {
            let mut queue = FairQueue::default();
            for &(owner, sources) in owners {
                (0..sources).for_each(|_| queue.join(owner));
            }
            Simulated { queue, now: 0, spent: HashMap::new() }
        }

        /// Serves one source for this long. Returns which one.
        fn serve(&mut self, time: impl Fn(u64) -> u64) -> u32 {
            let (owner, source) = self.queue.next().expect("somebody is ready");
            self.now += time(owner);
            self.queue.charge(owner, time(owner));
            *self.spent.entry(owner).or_default() += time(owner);
            source
        }
    }

    #[test]
    fn who_always_wants_to_be_served_has_the_same_time_as_others_however_many_sources_it_has() {
        let mut thread = Simulated::new(&[(1, 1), (2, 8)]);
        thread.queue.push(1, 100);
        (0..8).for_each(|n| thread.queue.push(2, 200 + n));
        while thread.now < 100_000_000 {
            let source = thread.serve(|owner| if owner == 1 { 20_000 } else { 100_000 });
            thread.queue.push(u64::from(source / 100), source);
        }
        let (one, two) = (thread.spent[&1], thread.spent[&2]);
        assert!(one.abs_diff(two) <= 200_000, "{one} {two}");
    }

    #[test]
    fn a_neighbour_waits_for_one_call_however_many_are_busy() {
        let busy: Vec<_> = (2..50).map(|owner| (owner, 3)).collect();
        let mut thread = Simulated::new(&[&[(1, 1)][..], &busy].concat());
        for &(owner, sources) in &busy {
            (0..sources).for_each(|n| thread.queue.push(owner, owner as u32 * 100 + n as u32));
        }
        let mut waited = Vec::new();
        for round in 0..3000 {
            let busy = thread.serve(|_| 100_000);
            thread.queue.push(u64::from(busy / 100), busy);
            // 20 µs of 3 ms: less than a 49th.
            if round % 30 == 0 {
                thread.queue.push(1, 100);
                let before = thread.now;
                loop {
                    let source = thread.serve(|owner| if owner == 1 { 20_000 } else { 100_000 });
                    if source == 100 {
                        break;
                    }
                    thread.queue.push(u64::from(source / 100), source);
                }
                waited.push(thread.now - before);
            }
        }
        // At first no owner has been served yet.
        assert!(waited[5..].iter().all(|&waited| waited == 20_000), "{waited:?}");
    }

    #[test]
    fn nobody_saves_up() {
        let mut thread = Simulated::new(&[(1, 1), (2, 1)]);
        for _ in 0..1000 {
            thread.queue.push(2, 200);
            thread.serve(|_| 100_000);
        }
        // The first owner was idle for long, and then keeps the thread busy: it gets no more than its credit in advance.
        thread.queue.push(1, 100);
        thread.queue.push(2, 200);
        let first: Vec<_> = (0..8)
            .map(|_| {
                let source = thread.serve(|_| 50_000);
                thread.queue.push(u64::from(source / 100), source);
                source
            })
            .collect();
        assert!(first.iter().filter(|&&source| source == 100).count() <= 6, "{first:?}");
        assert!(first.contains(&200), "{first:?}");
    }

    #[test]
    fn what_is_gone_is_not_served_and_everything_is_charged() {
        let mut thread = Simulated::new(&[(1, 1), (2, 1)]);
        thread.queue.push(2, 200);
        assert_eq!(thread.queue.next(), Some((2, 200)));
        assert_eq!(thread.queue.charge(2, 150_000), None);
        assert_eq!(thread.queue.charge(2, 60_000), Some(210_000));
        thread.queue.leave(2);
        assert_eq!(thread.queue.charge(2, 1_000_000), None);
        assert!(thread.queue.is_empty());
        thread.queue.push(2, 200);
        assert!(thread.queue.is_empty(), "it is not there any more");
        thread.queue.push(1, 100);
        assert!(!thread.queue.is_empty());
    }
}
