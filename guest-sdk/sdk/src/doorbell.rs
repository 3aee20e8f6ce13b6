//! Doorbells of devices. They are delayed until all tasks have run, so that many requests cost one crossing of the boundary.
#![forbid(unsafe_code)]

use crate::{hypercall, tasks};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hv_abi::EventPort;
use hv_abi::shared_info::EVENT_WORDS;

/// Doorbells that [`ring`] has delayed.
static DOORBELLS: [AtomicU64; EVENT_WORDS] = [const { AtomicU64::new(0) }; EVENT_WORDS];
static ANY: AtomicBool = AtomicBool::new(false);

/// Rings a doorbell once all tasks that can run have run. Outside of async code it rings at once, since no executor would do that later.
pub(crate) fn ring_soon(port: EventPort) {
    match port.position() {
        Some((index, bit)) if tasks::is_running() => {
            DOORBELLS[index].fetch_or(bit, Ordering::Relaxed);
            ANY.store(true, Ordering::Release);
        }
        _ => hypercall::event_send(port),
    }
}

/// Rings the delayed doorbells.
pub(crate) fn ring() {
    ring_but_one().into_iter().for_each(hypercall::event_send);
}

/// Rings the delayed doorbells but one. The caller has to ring that: perhaps with the call by which it waits.
#[must_use]
pub(crate) fn ring_but_one() -> Option<EventPort> {
    if !ANY.load(Ordering::Relaxed) || !ANY.swap(false, Ordering::Acquire) {
        return None;
    }
    let mut last = None;
    for (index, word) in DOORBELLS.iter().enumerate() {
        let mut bits = word.swap(0, Ordering::Relaxed);
        while bits != 0 {
            let port = EventPort(index as u32 * 64 + bits.trailing_zeros());
            last.replace(port).into_iter().for_each(hypercall::event_send);
            bits &= bits - 1;
        }
    }
    last
}
