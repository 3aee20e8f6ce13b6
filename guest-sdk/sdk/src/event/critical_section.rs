//! ⚠ The critical section of the `critical-section` crate, which `embassy_sync` and others enter.
#![allow(unsafe_code, reason = "the critical section, which keeps handlers and other virtual CPUs out")]

use super::upcall;
use crate::per_cpu;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

/// Masks [upcalls](upcall), and excludes other virtual CPUs.
struct Section;

critical_section::set_impl!(Section);

/// The number of the virtual CPU that is in the section, plus 1. 0 if none is.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// How often its owner has entered it again. Only the owner uses this.
static NESTED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: between `acquire` and `release` no other code of the guest can be in a section: upcalls of this virtual CPU and
// all other virtual CPUs wait for the owner to leave. While there is only one virtual CPU, no other one can enter. The
// first section that others can enter begins after that has changed, since `set_several` is not called within one. The
// fences and orderings keep accesses inside.
unsafe impl critical_section::Impl for Section {
    unsafe fn acquire() -> bool {
        let unmask = upcall::enter();
        compiler_fence(Ordering::SeqCst);
        if per_cpu::several() {
            let me = per_cpu::current() + 1;
            if OWNER.load(Ordering::Relaxed) == me {
                NESTED.store(NESTED.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            } else {
                while OWNER.compare_exchange_weak(0, me, Ordering::Acquire, Ordering::Relaxed).is_err() {
                    spin_loop();
                }
            }
        }
        unmask
    }

    unsafe fn release(unmask: bool) {
        if per_cpu::several() {
            match NESTED.load(Ordering::Relaxed) {
                0 => OWNER.store(0, Ordering::Release),
                nested => NESTED.store(nested - 1, Ordering::Relaxed),
            }
        }
        compiler_fence(Ordering::SeqCst);
        upcall::leave(unmask);
    }
}
