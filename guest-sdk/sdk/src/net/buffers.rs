//! ⚠ Memory for frames and sockets, taken from the heap without touching it.
//!
//! In a guest, memory costs something at the first touch of a page. Buffers for the largest frames and the busiest
//! sockets are mostly never filled, so nothing here is zeroed.
#![allow(unsafe_code, reason = "memory for frames and sockets")]

use alloc::alloc::{Layout, alloc};

/// `len` bytes from the heap that are never freed, with arbitrary content. `None` if the heap has not enough memory.
pub fn buffer(len: usize) -> Option<&'static mut [u8]> {
    allocate(len, 16)
}

fn allocate(len: usize, align: usize) -> Option<&'static mut [u8]> {
    let layout = Layout::from_size_align(len.max(1), align).ok()?;
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return None;
    }
    // Memory of this guest always contains some bytes, but for the compiler memory from an allocator is uninitialised. It
    // must assume that this instruction initialises it.
    // SAFETY: no instruction; the operand is only a number to it.
    unsafe { core::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags)) };
    // SAFETY: allocated just now with this length, never freed, and
    // initialised as far as the compiler can tell.
    Some(unsafe { core::slice::from_raw_parts_mut(start, len) })
}

/// Frame buffers of one size. Each is either lent to the host, which may write it at any time, or may be used by the guest.
pub(super) struct Pool {
    start: *mut u8,
    stride: usize,
    lent: alloc::vec::Vec<bool>,
}

// SAFETY: the memory belongs to the pool alone: who has the pool, on whichever virtual CPU, is the only one that uses it.
unsafe impl Send for Pool {}

impl Pool {
    /// At most `count` buffers of at least `size` bytes each: as many as there is memory for.
    pub(super) fn new(mut count: usize, size: usize) -> Option<Pool> {
        let stride = size.next_multiple_of(64);
        loop {
            if count == 0 {
                return None;
            }
            if let Some(memory) = allocate(count * stride, 4096) {
                let start = memory.as_mut_ptr();
                start.expose_provenance();
                return Some(Pool { start, stride, lent: alloc::vec![false; count] });
            }
            count /= 2;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.lent.len()
    }

    /// Bytes of a buffer.
    pub(super) fn size(&self) -> usize {
        self.stride
    }

    /// Lends a buffer to the host. Returns its address.
    pub(super) fn lend(&mut self, index: usize) -> u64 {
        self.lent[index] = true;
        self.start.addr() as u64 + (index * self.stride) as u64
    }

    /// Takes back a buffer that the host has answered for. False if it was not lent.
    pub(super) fn take_back(&mut self, index: usize) -> bool {
        self.lent.get_mut(index).is_some_and(|lent| core::mem::replace(lent, false))
    }

    /// The first `len` bytes of a buffer that is not lent.
    pub(super) fn bytes(&mut self, index: usize, len: usize) -> &mut [u8] {
        assert!(!self.lent[index] && len <= self.stride);
        // SAFETY: in bounds (just checked), initialised (see `allocate`), and
        // not the host's to write; the exclusive borrow of the pool keeps
        // other references to it away.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(index * self.stride), len) }
    }
}
