//! A budget for the memory of all guests of a process.
//!
//! Guests may have more memory in all than the host has: each is promised a part of its memory, and gets more while there is some. The
//! budget refuses guests whose promise it cannot keep. While guests run, the I/O thread compares what is in use with the budget, and
//! acts in this order:
//!
//! 1. Pages that guests have freed go back to the host at any time, see [`free_map`](hv_abi::free_map).
//! 2. When memory becomes tight, guests that use more than they were promised are asked to give up what they can do without.
//! 3. When more than the budget is in use for a tenth of a second, the guest with the most memory beyond its promise is ended, one in
//!    each tenth of a second.
//!
//! So the kernel need not end the whole process for lack of memory, if the budget leaves it some room: for a tenth of a second guests can
//! use more memory than there is in the budget.

mod policy;

use policy::{Level, Use, worst};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Time from one look to the next, while there is enough memory and while there is not.
const LOOK: Duration = Duration::from_millis(50);
const CLOSE_LOOK: Duration = Duration::from_millis(10);

/// How long the budget may be exceeded: guests that were asked for memory need some time.
const GRACE: Duration = Duration::from_millis(100);

/// Why a guest is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{asked} KiB of memory cannot be promised to another guest: of the budget of {budget} KiB, {promised} KiB are promised to others"
)]
pub struct BudgetError {
    /// What the guest was to be promised, in KiB.
    pub asked: u64,
    /// What others were promised, in KiB.
    pub promised: u64,
    /// The budget, in KiB.
    pub budget: u64,
}

/// A guest, as the budget sees it. No method may block.
pub(crate) trait Consumer: Send + Sync {
    /// Bytes of host memory that are this guest's alone.
    fn used(&self) -> u64;

    /// Bytes of this guest that are in files in memory, which the memory of this process does not count.
    fn in_files(&self) -> u64;

    /// The template that this guest is a clone of: a number that identifies it, and its bytes.
    fn template(&self) -> Option<(usize, u64)>;

    /// Gives back some of what the guest has freed.
    fn reclaim(&self);

    /// Asks the guest to use at most so many bytes, or releases it from that.
    fn squeeze(&self, target: Option<u64>);

    /// Ends the guest for lack of memory.
    fn end(&self);
}

/// The budget of an engine. Without a limit it promises everything.
#[derive(Default)]
pub(crate) struct Budget {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    limit: Option<u64>,
    promised: u64,
    members: BTreeMap<u64, Member>,
    next: u64,
}

struct Member {
    promised: u64,
    consumer: Option<Weak<dyn Consumer>>,
}

/// Memory of an engine's budget that was [promised](crate::Engine::promise_memory) for something else than a guest, until this is dropped.
pub struct MemoryPromise(#[expect(dead_code, reason = "it is there to be dropped")] pub(crate) Promise);

/// The promise to a guest. It ends when this is dropped.
pub(crate) struct Promise {
    budget: Arc<Budget>,
    number: u64,
}

impl Budget {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Promises so many bytes to a guest that is about to start.
    pub(crate) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise, BudgetError> {
        let state = &mut *self.state();
        let promised = state.promised.saturating_add(bytes);
        if let Some(limit) = state.limit
            && promised > limit
        {
            return Err(BudgetError {
                asked: bytes >> 10,
                promised: state.promised >> 10,
                budget: limit >> 10,
            });
        }
        state.promised = promised;
        let number = state.next;
        state.next += 1;
        state.members.insert(number, Member { promised: bytes, consumer: None });
        Ok(Promise { budget: self.clone(), number })
    }

    /// The limit, and how much of it is promised.
    pub(crate) fn standing(&self) -> Option<(u64, u64)> {
        let state = self.state();
        Some((state.limit?, state.promised))
    }

    /// Sets the limit. Returns what keeps it from now on, unless that exists already.
    pub(crate) fn limit(self: &Arc<Self>, bytes: u64) -> io::Result<Option<Keeper>> {
        let statm = statm()?;
        let first = self.state().limit.replace(bytes).is_none();
        let keeper = Keeper { budget: Arc::downgrade(self), statm, level: Level::Calm, over: None };
        Ok(first.then_some(keeper))
    }
}

impl Promise {
    /// The guest runs: what it uses counts from now on.
    pub(crate) fn bind(&self, consumer: Weak<dyn Consumer>) {
        if let Some(member) = self.budget.state().members.get_mut(&self.number) {
            member.consumer = Some(consumer);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let state = &mut *self.budget.state();
        if let Some(member) = state.members.remove(&self.number) {
            state.promised -= member.promised;
        }
    }
}

/// The kernel's count of this process' pages, opened once: in its jail, a process cannot.
pub(crate) fn statm() -> io::Result<&'static File> {
    static STATM: OnceLock<File> = OnceLock::new();
    match STATM.get() {
        Some(file) => Ok(file),
        None => File::open("/proc/self/statm").map(|file| STATM.get_or_init(|| file)),
    }
}

/// Keeps a budget. Somebody has to call it.
pub(crate) struct Keeper {
    budget: Weak<Budget>,
    /// The kernel's count of this process' pages.
    statm: &'static File,
    level: Level,
    /// Since when the budget is exceeded, or a guest was ended for that.
    over: Option<Instant>,
}

impl Keeper {
    /// Bytes of this process that are not in files: the memory of guests, and hv's own.
    fn anonymous(&self) -> u64 {
        let mut text = [0; 128];
        let len = self.statm.read_at(&mut text, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..len]);
        // Documentation/filesystems/proc.rst: size, resident, shared, and others; in pages.
        let mut pages = text.split(' ').skip(1).map(|field| field.parse().unwrap_or(0));
        let (resident, shared): (u64, u64) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared) * hv_abi::PAGE_SIZE
    }

    /// Bytes in use by all guests.
    fn used(&self, consumers: &[(u64, Arc<dyn Consumer>)]) -> u64 {
        let templates: HashMap<_, _> = consumers.iter().filter_map(|(_, guest)| guest.template()).collect();
        let files: u64 = consumers.iter().map(|(_, guest)| guest.in_files()).sum();
        self.anonymous() + files + templates.values().sum::<u64>()
    }

    /// Compares what is in use with the budget, and acts. Returns when to look again; `None` if there is no budget any more.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Instant> {
        let budget = self.budget.upgrade()?;
        let (limit, consumers) = {
            let state = budget.state();
            let of = |member: &Member| Some((member.promised, member.consumer.as_ref()?.upgrade()?));
            (state.limit?, state.members.values().filter_map(of).collect::<Vec<_>>())
        };
        let before = self.level;
        self.level = Level::of(self.used(&consumers), limit, before);
        if self.level == Level::Calm {
            self.over = None;
            if before != Level::Calm {
                consumers.iter().for_each(|(_, guest)| guest.squeeze(None));
            }
            return Some(now + LOOK);
        }
        let uses: Vec<_> = consumers
            .iter()
            .map(|(promised, guest)| Use { promised: *promised, used: guest.used() })
            .collect();
        if self.level != before {
            for ((_, guest), each) in consumers.iter().zip(&uses) {
                guest.squeeze(each.target(self.level));
            }
        }
        for ((_, guest), each) in consumers.iter().zip(&uses) {
            if each.target(self.level).is_some() {
                guest.reclaim();
            }
        }
        if self.level != Level::Over {
            self.over = None;
        } else if now >= *self.over.get_or_insert(now) + GRACE {
            self.over = Some(now);
            if let Some(worst) = worst(&uses) {
                consumers[worst].1.end();
            }
        }
        Some(now + CLOSE_LOOK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_kept() {
        let budget = Arc::new(Budget::default());
        let unlimited = budget.promise(u64::MAX).unwrap();
        drop(unlimited);
        budget.state().limit = Some(100 << 10);
        let first = budget.promise(60 << 10).unwrap();
        let refused = budget.promise(41 << 10).map(drop).unwrap_err();
        assert_eq!(refused, BudgetError { asked: 41, promised: 60, budget: 100 });
        let second = budget.promise(40 << 10).unwrap();
        drop(first);
        let third = budget.promise(60 << 10).unwrap();
        assert!(budget.promise(1).is_err());
        drop((second, third));
        let state = budget.state();
        assert_eq!((state.promised, state.members.len()), (0, 0));
    }

    #[test]
    fn the_memory_of_this_process_is_read() {
        let keeper = Keeper { budget: Weak::new(), statm: statm().unwrap(), level: Level::Calm, over: None };
        // Other tests of this process take and free memory meanwhile.
        let is_seen = || {
            let before = keeper.anonymous();
            let block = std::hint::black_box(vec![1_u8; 64 << 20]);
            let after = keeper.anonymous();
            drop(block);
            (before + (50 << 20)..before + (80 << 20)).contains(&after)
        };
        assert!((0..100).any(|_| is_seen()));
    }
}
