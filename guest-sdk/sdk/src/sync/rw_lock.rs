//! ⚠ The lock that many may have for reading, or one for writing.
#![allow(unsafe_code, reason = "the raw lock behind `lock_api`")]

use super::{LOOKS, own_port};
use crate::cpu_set::CpuSet;
use crate::{event, per_cpu};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};

/// It is held for writing.
const WRITER: u32 = 1 << 31;
/// A virtual CPU may have blocked to write: nobody else begins to read, so that writers get their turn.
const WRITER_WAITS: u32 = 1 << 30;
/// Virtual CPUs may have blocked.
const AWAITED: u32 = 1 << 29;
/// The other bits are the number of those that hold it for reading.
const READERS: u32 = AWAITED - 1;

/// The lock without the data.
#[derive(Debug)]
pub struct RawRwLock {
    state: AtomicU32,
    /// The virtual CPUs that block.
    waiting: CpuSet,
}

// SAFETY: it is taken for writing only if nobody holds it, and for reading only if nobody holds it for writing. Only its
// holders change these bits back.
unsafe impl lock_api::RawRwLock for RawRwLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "as the trait wants it")]
    const INIT: RawRwLock = RawRwLock { state: AtomicU32::new(0), waiting: CpuSet::new() };

    type GuardMarker = lock_api::GuardNoSend;

    fn lock_shared(&self) {
        if !self.try_lock_shared() {
            self.lock_later(AWAITED, Self::try_lock_shared);
        }
    }

    fn try_lock_shared(&self) -> bool {
        let more = |state| {
            let free = state & (WRITER | WRITER_WAITS) == 0 && state & READERS < READERS;
            free.then_some(state + 1)
        };
        self.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more).is_ok()
    }

    unsafe fn unlock_shared(&self) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & READERS == 1 && before & AWAITED != 0 {
            self.wake_all();
        }
    }

    fn lock_exclusive(&self) {
        if !self.try_lock_exclusive() {
            self.lock_later(AWAITED | WRITER_WAITS, Self::try_lock_exclusive);
        }
    }

    fn try_lock_exclusive(&self) -> bool {
        let free = |state| (state & (WRITER | READERS) == 0).then_some(state | WRITER);
        self.state.fetch_update(Ordering::SeqCst, Ordering::Relaxed, free).is_ok()
    }

    unsafe fn unlock_exclusive(&self) {
        if self.state.fetch_and(!WRITER, Ordering::SeqCst) & AWAITED != 0 {
            self.wake_all();
        }
    }
}

impl RawRwLock {
    /// Polls, then blocks until `try_lock` succeeds. `flags` say that somebody waits.
    #[cold]
    fn lock_later(&self, flags: u32, try_lock: impl Fn(&Self) -> bool) {
        use lock_api::RawRwLock as _;
        for _ in 0..LOOKS {
            spin_loop();
            if !self.is_locked_exclusive() && try_lock(self) {
                return;
            }
        }
        let me = per_cpu::current();
        loop {
            // If the lock is held after this exchange, its last holder sees the flag and notifies all members of the set.
            // If another virtual CPU has cleared the flag since, it notifies all members after that. A reader that is kept
            // out by a writer who waits is notified when that one unlocks: it takes the lock before it sleeps, or there
            // is a holder.
            self.waiting.insert(me);
            self.state.fetch_or(flags, Ordering::SeqCst);
            if try_lock(self) {
                self.waiting.remove(me);
                return;
            }
            event::wait_only(own_port(), None);
        }
    }

    #[cold]
    fn wake_all(&self) {
        self.state.fetch_and(!(AWAITED | WRITER_WAITS), Ordering::SeqCst);
        while let Some(cpu) = self.waiting.take_one() {
            event::notify_cpu(cpu);
        }
    }
}
