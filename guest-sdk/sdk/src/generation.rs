//! ⚠ Whether this guest still is the one that it was.
//!
//! The host writes a number of its own into the shared-info page of every
//! guest that it restores or clones, together with random bytes. Whoever holds
//! something that must not be the same in two guests compares the number with the one that it saw last.
#![allow(unsafe_code, reason = "a word that the host changes")]

use crate::{event, rt};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_abi::shared_info::SharedInfo;

/// A word of a field of shared-info that the host writes while the guest stands still.
fn word(field: usize, index: usize) -> &'static AtomicU64 {
    let address = rt::start_info().shared_info.0 as usize + field + 8 * index;
    // SAFETY: the host mapped the shared-info page for good; the field is
    // aligned to 8, and accessed atomically only.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// The number of this guest: zero if it was started, and a random one if it
/// was restored or cloned. No two guests have the same, but for zero.
///
/// A guest can become another one at any moment, so compare before
/// and after what must belong to one guest alone.
pub fn generation() -> [u8; 16] {
    let read = || {
        [0, 1].map(|index| word(core::mem::offset_of!(SharedInfo, generation), index).load(Ordering::SeqCst))
    };
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
    for (index, bytes) in bytes.chunks_exact_mut(8).enumerate() {
        let word = word(core::mem::offset_of!(SharedInfo, seed), index);
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
    event::RESTORED.wait_until(|| generation() != before).await;
}
