//! ⚠ The guest's memory as virtio devices address it: guest-physical address 0
//! is the first byte of the guest's window.
#![allow(unsafe_code, reason = "memory that devices share")]

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use core::alloc::Layout;
use core::ptr::NonNull;
use hv_guest::start_info;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The heap, without translation beyond an offset.
#[derive(Debug)]
pub struct Memory;

/// The guest-physical address of memory of the heap or of a stack.
pub(super) fn physical(address: usize) -> PhysAddr {
    address as u64 - start_info().memory_base.0
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("queues are some pages long")
}

// SAFETY: pages come zeroed and aligned from the heap, where nobody else gets
// them before they are freed.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout is not empty: queues have at least a page.
        let pointer = unsafe { alloc_zeroed(layout(pages)) };
        let Some(pointer) = NonNull::new(pointer) else { handle_alloc_error(layout(pages)) };
        (physical(pointer.as_ptr() as usize), pointer)
    }

    unsafe fn dma_dealloc(_: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller gives back what `dma_alloc` gave, with the same number of pages.
        unsafe { dealloc(pointer.as_ptr(), layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        // For devices behind PCI, of which there is none; the pages of the others are mapped where they are.
        NonNull::new(address as *mut u8).expect("no register is at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        physical(buffer.cast::<u8>().as_ptr() as usize)
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
