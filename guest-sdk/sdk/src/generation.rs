//! Whether this guest still is the one that it was.
//!
//! The host writes a number of its own into the shared-info page of every
//! guest that it restores or clones, together with random bytes. Whoever holds
//! something that must not be the same in two guests compares the number with the one that it saw last.
#![forbid(unsafe_code)]

use crate::event::Shared;
use crate::shared_info;
use core::sync::atomic::Ordering;
use hv_abi::event::GENERATION;

/// Comes when the guest runs on as a restored or cloned one.
static RESTORED: Shared = Shared::new(GENERATION);

/// The number of this guest: zero if it was started, and a random one if it
/// was restored or cloned. No two guests have the same, but for zero.
///
/// A guest can become another one at any moment, so compare before
/// and after what must belong to one guest alone.
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

/// The random bytes that came with the generation. Taken: they are gone from the page afterwards.
///
/// `None` if they have been taken before.
pub(crate) fn take_seed() -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (word, bytes) in shared_info::seed().iter().zip(bytes.chunks_exact_mut(8)) {
        let value = word.load(Ordering::SeqCst);
        // Only what was read is cleared: if the guest was cloned in between,
        // there are other bytes now, and they belong to another generation.
        let _ = word.compare_exchange(value, 0, Ordering::SeqCst, Ordering::Relaxed);
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    (bytes != [0; 32]).then_some(bytes)
}

/// Waits until this guest runs on as a restored or cloned one. Any number of
/// tasks can wait. Call it again for the next time.
pub async fn restored() {
    changed_from(generation()).await;
}

/// Waits until this guest is another than the one of this generation.
pub(crate) async fn changed_from(before: [u8; 16]) {
    RESTORED.wait_until(|| generation() != before).await;
}
