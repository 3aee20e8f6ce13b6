//! ⚠ Rings in guest memory.
//!
//! The `unsafe` blocks rely on the invariants of the [module above](super).
#![allow(unsafe_code, reason = "the indices of rings as atomics, and their slots as bytes")]

use super::GuestMemory;
use hv_abi::ring::{Layout, SharedMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use vm_memory::VolatileSlice;

/// A ring in guest memory, seen from the host.
#[derive(Clone, Debug)]
pub struct RingMemory {
    memory: Arc<GuestMemory>,
    /// Start of the ring in this process.
    start: *mut u8,
    len: usize,
}

// SAFETY: `start` points into the mapping that `memory` keeps alive (invariant
// 1), and all access through it is atomic or volatile (invariant 2), so any
// thread may use it.
unsafe impl Send for RingMemory {}
// SAFETY: as for `Send`.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// The ring of this layout at `offset` of the memory. Panics if it is not
    /// inside or not aligned: the host places rings itself.
    pub fn new(memory: &Arc<GuestMemory>, offset: u64, layout: &Layout) -> Self {
        assert!(offset.is_multiple_of(hv_abi::ring::ALIGNMENT as u64));
        memory.own(offset, layout.size() as u64);
        let slice = memory.slice(offset, layout.size());
        let start = slice.ptr_guard_mut().as_ptr();
        RingMemory { memory: memory.clone(), start, len: layout.size() }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= self.len && offset.is_multiple_of(4));
        // SAFETY: inside the ring (just checked), which is inside the mapping
        // (checked in `new`); aligned, since the ring is; atomics may be shared
        // with the guest (invariant 2).
        unsafe { AtomicU32::from_ptr(self.start.add(offset).cast()) }
    }

    #[inline]
    fn bytes(&self, offset: usize, len: usize) -> VolatileSlice<'_> {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: inside the ring (just checked) and the mapping, which lives
        // as long as `self.memory`; volatile copies only (invariant 2).
        unsafe { VolatileSlice::new(self.start.add(offset), len) }
    }

    /// The memory that the ring lies in.
    #[inline]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

impl SharedMemory for RingMemory {
    #[inline]
    fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }
    #[inline]
    fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }
    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    #[inline]
    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.bytes(offset, bytes.len()).copy_to(bytes);
    }
    #[inline]
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.bytes(offset, bytes.len()).copy_from(bytes);
    }
}
