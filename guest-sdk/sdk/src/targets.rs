//! What the host wants this guest to use of what it has. It can change that at any time.
#![forbid(unsafe_code)]

use crate::event::Shared;
use crate::{per_cpu, shared_info};
use core::sync::atomic::Ordering;
use hv_abi::event::TARGETS;

/// This event comes when the host has changed a target. Code that waits for a target uses this, since an event has one listener.
static CHANGED: Shared = Shared::new(TARGETS);

/// How many virtual CPUs the guest should use: at least 1, at most all.
pub(crate) fn vcpus() -> usize {
    let possible = per_cpu::possible();
    match shared_info::vcpus_target().load(Ordering::SeqCst) as usize {
        0 => possible,
        target => target.min(possible),
    }
}

/// Waits until [`vcpus`] is no longer this, and returns what it is.
pub(crate) async fn vcpus_changed(from: usize) -> usize {
    CHANGED.wait_until(|| vcpus() != from).await;
    vcpus()
}
