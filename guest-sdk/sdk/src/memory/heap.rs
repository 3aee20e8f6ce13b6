//! ⚠ The heap: one for all, and an arena of its own for each virtual CPU but the first.
//!
//! Arenas keep blocks that are used on different virtual CPUs apart. Side by side they would slow each other even with cache lines of their own,
//! since processors fetch ahead beyond the end of a block: two virtual CPUs that multiply matrices were as slow as one. They also keep most
//! allocations from waiting for each other's lock.
//!
//! An arena takes *spans* from the common heap, and keeps them. Whoever frees a block finds its arena by the span that it is in.
#![allow(unsafe_code, reason = "the allocator")]

use crate::per_cpu::{self, PerCpu, per_cpu};
use crate::start_info::start_info;
use crate::sync::RawMutex;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use talc::TalcLock;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// Bytes of a span, and its alignment.
const SPAN: usize = 1 << 20;

/// Blocks that are larger or more aligned are not taken from arenas.
const LARGE: usize = SPAN / 8;

/// Gives the allocator the guest's free memory at the first allocation, so
/// that a guest that never allocates never touches it.
#[derive(Debug)]
struct StartInfoHeap {
    claimed: bool,
}

// SAFETY: `acquire` either adds a heap or fails; it is called with the
// allocator's lock held, and does not allocate.
unsafe impl Source for StartInfoHeap {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        if core::mem::replace(&mut talc.source.claimed, true) {
            SHORT.store(true, Ordering::Relaxed);
            return Err(());
        }
        let info = start_info();
        // SAFETY: the host promises that this range is mapped, writable and
        // the guest's alone (start-info); it is claimed once.
        unsafe { talc.claim(info.heap_base.0 as *mut u8, info.heap_size as usize) }.map(drop).ok_or(())
    }
}

/// Whether there was no room for an allocation.
static SHORT: AtomicBool = AtomicBool::new(false);

/// Whether this is the message of a panic for want of memory: that of `alloc`, which says how much was asked for.
pub(crate) fn is_exhaustion(message: &str) -> bool {
    SHORT.load(Ordering::Relaxed) && message.contains("memory allocation of ")
}

/// What all virtual CPUs have in common, and the first one alone uses.
static COMMON: TalcLock<RawMutex, StartInfoHeap> = TalcLock::new(StartInfoHeap { claimed: false });

/// Gives an arena spans of the common heap.
#[derive(Debug)]
struct Spans;

// SAFETY: `acquire` either adds a heap or fails; it is called with the arena's lock held, and allocates from the common heap only,
// which never takes from an arena.
unsafe impl Source for Spans {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let layout = Layout::from_size_align(SPAN, SPAN).map_err(drop)?;
        // SAFETY: the size is not 0.
        let span = unsafe { COMMON.alloc(layout) };
        if span.is_null() {
            return Err(());
        }
        // Only its own virtual CPU allocates from an arena.
        if let Some(owner) = owner_of(span) {
            owner.store(per_cpu::current() as u8, Ordering::Relaxed);
        }
        // SAFETY: the block is nobody else's, and never freed.
        unsafe { talc.claim(span, SPAN) }.map(drop).ok_or(())
    }
}

static ARENAS: PerCpu<TalcLock<RawMutex, Spans>> = per_cpu!(TalcLock::new(Spans));

/// A byte for each span that the heap may have: the virtual CPU that has it; 0: it is no arena's. Null in a guest with one virtual CPU.
static OWNERS: AtomicPtr<AtomicU8> = AtomicPtr::new(null_mut());

/// Makes the table of spans: before there is a second virtual CPU.
pub(crate) fn prepare_arenas() {
    let (first, last) = spans();
    let owners = (first..=last).map(|_| AtomicU8::new(0)).collect::<alloc::vec::Vec<_>>();
    OWNERS.store(alloc::vec::Vec::leak(owners).as_mut_ptr(), Ordering::Release);
}

/// The numbers of the first and the last span that the heap has a part of.
fn spans() -> (usize, usize) {
    let (base, size) = (start_info().heap_base.0 as usize, start_info().heap_size as usize);
    (base / SPAN, (base + size - 1) / SPAN)
}

/// The entry for the span that a block is in.
fn owner_of(block: *mut u8) -> Option<&'static AtomicU8> {
    let owners = OWNERS.load(Ordering::Acquire);
    let (first, last) = spans();
    let span = block.addr() / SPAN;
    if owners.is_null() || !(first..=last).contains(&span) {
        return None;
    }
    // SAFETY: the table has an entry for each of these spans, and lives for good.
    Some(unsafe { &*owners.add(span - first) })
}

/// The virtual CPU in whose arena a block is; 0: it is in none.
fn arena_of(block: *mut u8) -> usize {
    match per_cpu::several() {
        true => owner_of(block).map_or(0, |owner| owner.load(Ordering::Relaxed).into()),
        false => 0,
    }
}

/// The virtual CPU from whose arena a block of this layout is taken; 0: from none.
fn arena_for(layout: Layout) -> usize {
    match layout.size().max(layout.align()) {
        ..=LARGE => per_cpu::current(),
        _ => 0,
    }
}

/// The heap of all virtual CPUs.
struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

// SAFETY: each block is taken from, and given back to, one allocator that keeps the promises: which one is known by the table of spans, whose
// entries do not change while a block is in them.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let arena = arena_for(layout);
        if arena != 0 {
            // SAFETY: the caller's promise.
            let block = unsafe { ARENAS[arena].alloc(layout) };
            if !block.is_null() {
                return block;
            }
        }
        // What is too little for a span may do for a block.
        // SAFETY: the caller's promise.
        unsafe { COMMON.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; the block is from this allocator.
        unsafe {
            match arena_of(block) {
                0 => COMMON.dealloc(block, layout),
                arena => ARENAS[arena].dealloc(block, layout),
            }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size does not overflow when it is rounded up to the alignment.
        let after = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let arena = arena_of(block);
        if arena == arena_for(after) {
            // SAFETY: the caller's promise; the block is from this allocator, and an arena grows on its own virtual CPU only.
            let moved = unsafe {
                match arena {
                    0 => COMMON.realloc(block, layout, size),
                    _ => ARENAS[arena].realloc(block, layout, size),
                }
            };
            if !moved.is_null() || arena == 0 {
                return moved;
            }
        }
        // SAFETY: the caller's promises; both blocks have as many bytes as are copied.
        unsafe {
            let moved = self.alloc(after);
            if !moved.is_null() {
                core::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
