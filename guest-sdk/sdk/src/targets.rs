//! What the host wants this guest to use of what it has. It can change that at any time.
#![forbid(unsafe_code)]

use crate::event::Shared;
use crate::per_cpu::{self, Padded};
use crate::shared_info;
use core::sync::atomic::{AtomicUsize, Ordering};
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

/// The target that the guest follows; 0: none yet. On a cache line that is seldom written.
static FOLLOWED: Padded<AtomicUsize> = Padded(AtomicUsize::new(0));

/// The number of virtual CPUs that the guest uses. It is [`vcpus`] soon after a change.
pub(crate) fn followed() -> usize {
    match FOLLOWED.0.load(Ordering::SeqCst) {
        0 => vcpus(),
        target => target,
    }
}

/// From now on the guest uses this number of virtual CPUs.
pub(crate) fn follow(target: usize) {
    FOLLOWED.0.store(target, Ordering::SeqCst);
}

/// Waits until [`vcpus`] is no longer this, and returns what it is.
pub(crate) async fn vcpus_changed(from: usize) -> usize {
    CHANGED.wait_until(|| vcpus() != from).await;
    vcpus()
}

/// How many bytes of memory the guest should use at most, if the host has said so.
pub(crate) fn memory() -> Option<usize> {
    Some(shared_info::memory_target().load(Ordering::SeqCst) as usize).filter(|bytes| *bytes != 0)
}

/// Waits until a condition holds, which is checked now and whenever the host has changed a target.
pub(crate) async fn changed_until(holds: impl FnMut() -> bool) {
    CHANGED.wait_until(holds).await;
}
