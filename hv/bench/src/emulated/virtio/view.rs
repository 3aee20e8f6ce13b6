//! ⚠ A guest's memory as the crates of rust-vmm see memory: by guest-physical address.
#![allow(unsafe_code, reason = "guest memory for virtio queues")]

use hv_core::memory::GuestMemory;
use std::sync::Arc;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Why guest memory cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The mapping is refused.
    #[error(transparent)]
    Region(#[from] MmapRegionError),
    /// The regions are.
    #[error(transparent)]
    Regions(#[from] vm_memory::GuestRegionCollectionError),
}

/// The memory of a guest, without the platform's tail: nothing that a
/// descriptor says leads there or beyond.
///
/// Unlike hv's own devices, those that use it can be made to write what their
/// guest may only read (its image, start-info): a guest with such a device harms itself by that.
pub(in super::super) struct View {
    memory: GuestMemoryMmap,
    /// Keeps the mapping.
    owner: Arc<GuestMemory>,
}

impl View {
    pub(in super::super) fn new(owner: &Arc<GuestMemory>) -> Result<Self, ViewError> {
        let (address, size) = (owner.host_address() as *mut u8, owner.size() as usize);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the mapping is readable and writable, and `owner`, which lives as
        // long as the region, never moves or shrinks it. A region that was not made by
        // `mmap` here is not unmapped when it is dropped. All access to it is by volatile copies.
        let region = unsafe { MmapRegion::build_raw(address, size, access, flags)? };
        let region = GuestRegionMmap::new(region, GuestAddress(0)).expect("no guest is 2^64 bytes large");
        Ok(View { memory: GuestMemoryMmap::from_regions(vec![region])?, owner: owner.clone() })
    }

    pub(in super::super) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    pub(super) fn owner(&self) -> &Arc<GuestMemory> {
        &self.owner
    }
}
