//! ⚠ The critical section of the `critical-section` crate, which `embassy_sync` and others enter.
#![allow(unsafe_code, reason = "the critical section, which keeps handlers out")]

use super::upcall;
use core::sync::atomic::{Ordering, compiler_fence};

/// A guest has one processor, and nothing interrupts it but [upcalls](upcall),
/// in guests that ask for them: they are all that has to be kept out.
struct SingleProcessor;

critical_section::set_impl!(SingleProcessor);

// SAFETY: between `acquire` and `release` no other code of the guest can run:
// there is one virtual processor, no thread, and handlers of upcalls wait. The
// fences keep the compiler from moving memory accesses out of the section.
unsafe impl critical_section::Impl for SingleProcessor {
    unsafe fn acquire() -> bool {
        let unmask = upcall::enter();
        compiler_fence(Ordering::SeqCst);
        unmask
    }

    unsafe fn release(unmask: bool) {
        compiler_fence(Ordering::SeqCst);
        upcall::leave(unmask);
    }
}
