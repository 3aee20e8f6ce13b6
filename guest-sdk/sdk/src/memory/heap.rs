//! ⚠ The heap: a common one, and an arena for each virtual CPU except the first.
//!
//! Arenas separate blocks that are used on different virtual CPUs. Adjacent blocks would slow each other down even with
//! cache lines of their own, since processors prefetch beyond the end of a block: two virtual CPUs that multiplied
//! matrices were as slow as one. With arenas, most allocations also do not wait for another virtual CPU's lock.
//!
//! An arena takes *spans* from the common heap and keeps them. When a block is freed, its span tells which arena it belongs to.
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

/// Blocks that are larger than this, or have a larger alignment, are not taken from arenas.
const LARGE: usize = SPAN / 8;

/// Gives the allocator the guest's free memory at the first allocation, so that a guest that never allocates never touches it.
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

/// Whether an allocation has failed.
static SHORT: AtomicBool = AtomicBool::new(false);

/// Whether this is the message of a panic for lack of memory: that of `alloc`, which contains the size of the request.
pub(crate) fn is_exhaustion(message: &str) -> bool {
    SHORT.load(Ordering::Relaxed) && message.contains("memory allocation of ")
}

/// The common heap. The first virtual CPU allocates only from it.
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
        // Only the virtual CPU of an arena allocates from it.
        if let Some(owner) = owner_of(span) {
            owner.store(per_cpu::current() as u8, Ordering::Relaxed);
        }
        // SAFETY: nothing else uses the block, and it is never freed.
        unsafe { talc.claim(span, SPAN) }.map(drop).ok_or(())
    }
}

static ARENAS: PerCpu<TalcLock<RawMutex, Spans>> = per_cpu!(TalcLock::new(Spans));

/// A byte for each span that the heap may have: the number of the virtual CPU whose arena has it, or 0 if none has it.
/// Null in a guest with one virtual CPU.
static OWNERS: AtomicPtr<AtomicU8> = AtomicPtr::new(null_mut());

/// Makes the table of spans. Called before there is a second virtual CPU.
pub(crate) fn prepare_arenas() {
    let (first, last) = spans();
    let owners = (first..=last).map(|_| AtomicU8::new(0)).collect::<alloc::vec::Vec<_>>();
    OWNERS.store(alloc::vec::Vec::leak(owners).as_mut_ptr(), Ordering::Release);
}

/// The numbers of the first and the last span that the heap overlaps.
fn spans() -> (usize, usize) {
    let (base, size) = (start_info().heap_base.0 as usize, start_info().heap_size as usize);
    (base / SPAN, (base + size - 1) / SPAN)
}

/// The entry for the span that contains a block.
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

/// The virtual CPU whose arena contains a block; 0 if none does.
fn arena_of(block: *mut u8) -> usize {
    match per_cpu::several() {
        true => owner_of(block).map_or(0, |owner| owner.load(Ordering::Relaxed).into()),
        false => 0,
    }
}

/// The virtual CPU from whose arena a block of this layout is taken; 0 for the common heap.
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
        // There may be too little memory for a span, but enough for the block.
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
