//! ⚠ Event channels, guest side.

use crate::{hypercall, rt, time};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_abi::EventPort;
use hv_abi::shared_info::{EVENT_WORDS, SharedInfo};

fn word(field: usize, index: usize) -> &'static AtomicU64 {
    let address = rt::start_info().shared_info.0 as usize + field + 8 * index;
    // SAFETY: the host mapped the shared-info page for good; its event words
    // are aligned, and both sides access them atomically only.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

fn pending(index: usize) -> &'static AtomicU64 {
    word(core::mem::offset_of!(SharedInfo, pending), index)
}

fn mask(index: usize) -> &'static AtomicU64 {
    word(core::mem::offset_of!(SharedInfo, mask), index)
}

/// Listens to an event: from now on it ends [`wait`].
pub fn unmask(port: EventPort) {
    if let Some((index, bit)) = port.position() {
        mask(index).fetch_and(!bit, Ordering::SeqCst);
    }
}

/// Takes an event if it is pending. Look at what it is about afterwards, not before.
pub fn take(port: EventPort) -> bool {
    port.position().is_some_and(|(index, bit)| {
        // Reading first keeps the cache line shared while nothing has come.
        pending(index).load(Ordering::SeqCst) & bit != 0
            && pending(index).fetch_and(!bit, Ordering::SeqCst) & bit != 0
    })
}

/// Whether any event that this guest listens to is pending.
pub fn any_pending() -> bool {
    (0..EVENT_WORDS).any(|index| {
        let pending = pending(index).load(Ordering::SeqCst);
        pending != 0 && pending & !mask(index).load(Ordering::SeqCst) != 0
    })
}

/// How long [`wait`] looks by itself before it leaves the processor to
/// others, in nanoseconds: about what leaving and coming back costs, so that
/// waiting never takes more than twice as long as the better choice.
const SPIN: u64 = 30_000;

/// Waits until an unmasked event is pending (true), or until the deadline on
/// the guest's clock (false).
pub fn wait(deadline: Option<time::Instant>) -> bool {
    let deadline = deadline.map_or(u64::MAX, time::Instant::as_nanos);
    let spin_until = time::now_nanos().saturating_add(SPIN).min(deadline);
    loop {
        // Some looks for each reading of the clock.
        for _ in 0..16 {
            if any_pending() {
                return true;
            }
            core::hint::spin_loop();
        }
        if time::now_nanos() >= spin_until {
            break;
        }
    }
    hypercall::block(deadline)
}
