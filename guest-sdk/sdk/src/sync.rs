//! ⚠ Locks for data that several virtual CPUs use.
//!
//! If another virtual CPU holds a lock, this one polls for a short time and then blocks until the lock is free. So a
//! holder whose processor the host has given to something else does not cost the others CPU time.
//!
//! Handlers of [upcalls](crate::event::upcall) must not take a lock: the code that they have interrupted may hold it.
#![allow(unsafe_code, reason = "the raw lock behind `lock_api`")]

mod once;
mod rw_lock;

pub use once::OnceLock;
pub use rw_lock::RawRwLock;

use crate::cpu_set::CpuSet;
use crate::{event, per_cpu};
use core::hint::spin_loop;
use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicU32, Ordering};
use hv_abi::EventPort;

/// Data that one virtual CPU at a time uses.
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;

/// The guard of [`Mutex::lock`](lock_api::Mutex::lock).
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;

/// Data that many virtual CPUs read at a time, or one changes. One that waits to change it keeps others from beginning to
/// read: who reads must not begin to read once more.
pub type RwLock<T> = lock_api::RwLock<RawRwLock, T>;

/// The guard of [`RwLock::read`](lock_api::RwLock::read).
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRwLock, T>;

/// The guard of [`RwLock::write`](lock_api::RwLock::write).
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRwLock, T>;

/// A lock that its holder may take again: one virtual CPU at a time uses the data.
pub type ReentrantMutex<T> = lock_api::ReentrantMutex<RawMutex, CurrentCpu, T>;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and other virtual CPUs may have blocked for it.
const AWAITED: u32 = 2;

/// How often a lock is polled before this virtual CPU blocks: some microseconds, about the cost of blocking.
const LOOKS: u32 = 1000;

/// The lock without the data.
#[derive(Debug)]
pub struct RawMutex {
    state: AtomicU32,
    /// The virtual CPUs that block.
    waiting: CpuSet,
}

// SAFETY: only the exchange of `FREE` for something else takes the lock, and only its holder makes it `FREE` again.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(clippy::declare_interior_mutable_const, reason = "as the trait wants it")]
    const INIT: RawMutex = RawMutex { state: AtomicU32::new(FREE), waiting: CpuSet::new() };

    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        if !self.try_lock() {
            self.lock_later();
        }
    }

    fn try_lock(&self) -> bool {
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    unsafe fn unlock(&self) {
        if self.state.swap(FREE, Ordering::SeqCst) == AWAITED
            && let Some(cpu) = self.waiting.take_one()
        {
            event::notify_cpu(cpu);
        }
    }
}

impl RawMutex {
    #[cold]
    fn lock_later(&self) {
        for _ in 0..LOOKS {
            spin_loop();
            if self.state.load(Ordering::Relaxed) == FREE && lock_api::RawMutex::try_lock(self) {
                return;
            }
        }
        let me = per_cpu::current();
        loop {
            // An unlock after the exchange sees `AWAITED` and notifies this virtual CPU or one that waited before it.
            // That one does the same at its unlock, since a virtual CPU that has waited takes the lock with `AWAITED`.
            self.waiting.insert(me);
            if self.state.swap(AWAITED, Ordering::SeqCst) == FREE {
                self.waiting.remove(me);
                return;
            }
            // This may also take notifications for the executor. That is harmless: the executor checks its own flags before it waits.
            event::wait_only(own_port(), None);
        }
    }
}

/// The port that notifies this virtual CPU.
fn own_port() -> EventPort {
    EventPort::of_vcpu(per_cpu::current() as u32).expect("it is a virtual CPU's number")
}

/// Distinguishes virtual CPUs.
#[derive(Debug)]
pub struct CurrentCpu;

// SAFETY: code that runs at the same time runs on different virtual CPUs, which have different numbers. Code does not
// move to another virtual CPU while it has a guard, which is not `Send`.
unsafe impl lock_api::GetThreadId for CurrentCpu {
    const INIT: CurrentCpu = CurrentCpu;

    fn nonzero_thread_id(&self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(per_cpu::current())
    }
}
