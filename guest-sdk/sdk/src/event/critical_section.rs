//! ⚠ The critical section of the `critical-section` crate, which `embassy_sync` and others enter.
#![allow(unsafe_code, reason = "the critical section, which keeps handlers and other virtual CPUs out")]

use super::upcall;
use crate::cpu_set::CpuSet;
use crate::{hypercall, per_cpu};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering, compiler_fence};
use hv_abi::EventPort;

/// Masks [upcalls](upcall), and excludes other virtual CPUs.
struct Section;

critical_section::set_impl!(Section);

/// The number of the virtual CPU that is in the section, plus 1. 0 if none is.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// The virtual CPUs that the owner has to wake when it leaves. Only the owner uses this. To wake one is an exit, in which Linux may give
/// the owner's processor to the one that wakes up: that one would then spin for the section until the owner runs again, milliseconds later.
static DEFERRED: CpuSet = CpuSet::new();
/// How often its owner has entered it again. Only the owner uses this.
static NESTED: AtomicUsize = AtomicUsize::new(0);

/// Has a virtual CPU, whose event is pending, woken at the end of the section that this virtual CPU is in. Returns false if it is in none.
pub(super) fn defer(cpu: usize) -> bool {
    let inside = per_cpu::several() && OWNER.load(Ordering::Relaxed) == per_cpu::current() + 1;
    if inside {
        DEFERRED.insert(cpu);
    }
    inside
}

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
                0 => {
                    let deferred = DEFERRED.take_all();
                    OWNER.store(0, Ordering::Release);
                    deferred.filter_map(|cpu| EventPort::of_vcpu(cpu as u32)).for_each(hypercall::event_send);
                }
                nested => NESTED.store(nested - 1, Ordering::Relaxed),
            }
        }
        compiler_fence(Ordering::SeqCst);
        upcall::leave(unmask);
    }
}
