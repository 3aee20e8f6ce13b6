//! Whether this guest has become another one, by a restore or as a clone.
//!
//! When the host restores or clones a guest, it writes a number of its own and random bytes into the guest's shared-info
//! page. Code whose state must not be the same in two guests compares the number with the one that it saw last.
#![forbid(unsafe_code)]

use crate::event::Shared;
use crate::shared_info;
use core::sync::atomic::Ordering;
use hv_abi::event::GENERATION;

/// This event comes when the guest resumes as a restored or cloned one.
static RESTORED: Shared = Shared::new(GENERATION);

/// The number of this guest: zero if it was booted, and random if it was restored or cloned. No two guests have the same
/// number, except zero.
///
/// A guest can become another one at any time. So compare before and after producing what must belong to one guest only.
pub fn generation() -> [u8; 16] {
    let words = shared_info::generation();
    let read = || [0, 1].map(|index: usize| words[index].load(Ordering::SeqCst));
    let mut last = read();
    loop {
        let again = read();
        if again == last {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&last[0].to_le_bytes());
            bytes[8..].copy_from_slice(&last[1].to_le_bytes());
            return bytes;
        }
        last = again;
    }
}

/// Takes the random bytes that came with the generation: they are removed from the page.
///
/// `None` if they were taken before.
pub(crate) fn take_seed() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (word, bytes) in shared_info::seed().iter().zip(bytes.chunks_exact_mut(8)) {
        let value = word.load(Ordering::SeqCst);
        // Clears only what was read: if the guest was cloned in between, there are other bytes now, which belong to another generation.
        let _ = word.compare_exchange(value, 0, Ordering::SeqCst, Ordering::Relaxed);
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    (bytes != [0; 32]).then_some(bytes)
}

/// Waits until this guest resumes as a restored or cloned one. Any number of tasks can wait. Call it again for the next time.
pub async fn restored() {
    changed_from(generation()).await;
}

/// Waits until the generation of this guest is no longer this one.
pub(crate) async fn changed_from(before: [u8; 16]) {
    RESTORED.wait_until(|| generation() != before).await;
}
