//! ⚠ Rings, seen from the guest.
#![allow(unsafe_code, reason = "memory that the host shares")]

use core::sync::atomic::{AtomicU32, Ordering, fence};
use hv_abi::device::RingInfo;
use hv_abi::ring::{Layout, SharedMemory};

/// The memory of a ring that the host placed.
// The feature `function` exposes this type in a public interface. Without that feature nothing does.
#[cfg_attr(not(feature = "function"), expect(unreachable_pub))]
#[derive(Clone, Copy, Debug)]
pub struct RingMemory {
    start: *mut u8,
    len: usize,
}

// SAFETY: the range is shared memory that stays mapped for good; all access
// is atomic or volatile.
unsafe impl Send for RingMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// The ring that the device table describes, for entries of these types.
    /// `None` if the host offers sizes that no ring can have.
    pub(crate) fn new<Req, Rsp>(info: &RingInfo) -> Option<(RingMemory, Layout)> {
        let layout = Layout::new::<Req, Rsp>(info.requests, info.responses)?;
        Some((RingMemory { start: info.address.0 as *mut u8, len: layout.size() }, layout))
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.len);
        // SAFETY: inside the ring, which the host mapped, aligned to 64, and
        // which both sides access atomically.
        unsafe { AtomicU32::from_ptr(self.start.add(offset).cast()) }
    }
}

impl SharedMemory for RingMemory {
    fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }
    fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: inside the ring (just checked). The host does not write an
        // entry while it is the guest's to read.
        unsafe { core::ptr::copy_nonoverlapping(self.start.add(offset), bytes.as_mut_ptr(), bytes.len()) };
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.len && bytes.len() <= self.len - offset);
        // SAFETY: inside the ring (just checked). The host does not use what
        // it reads from an entry before the entry is published.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(offset), bytes.len()) };
    }
}
