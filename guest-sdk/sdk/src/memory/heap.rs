//! ⚠ The heap: large blocks are pages of their own; small ones come from a common allocator, or from an arena for each virtual
//! CPU except the first.
//!
//! Arenas separate blocks that are used on different virtual CPUs. Adjacent blocks would slow each other down even with
//! cache lines of their own, since processors prefetch beyond the end of a block: two virtual CPUs that multiplied
//! matrices were as slow as one. With arenas, most allocations also do not wait for another virtual CPU's lock.
//!
//! The allocators of small blocks take *spans* of pages, and give those back that have become empty. When a block is freed, its span tells which
//! arena it belongs to.
#![allow(unsafe_code, reason = "the allocator")]

use super::pages::{self, PAGE, PAGES};
use crate::per_cpu::{self, PerCpu, per_cpu};
use crate::start_info::start_info;
use crate::sync::RawMutex;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use talc::TalcLock;
use talc::base::binning::Binning;
use talc::base::{CHUNK_UNIT, Talc};
use talc::source::Source;

/// Bytes of a span of an arena, and its alignment.
const SPAN: usize = 1 << 20;

/// Blocks that are as large as this, or have such an alignment, are pages of their own.
const LARGE: usize = 64 << 10;

/// Least and most bytes by which the common allocator grows.
const GROWTH: (usize, usize) = (64 << 10, 1 << 20);

/// Free bytes at the end of a span above which the common allocator gives pages back, and how many it keeps then.
const SLACK: (usize, usize) = (256 << 10, 64 << 10);

/// Where the common allocator takes memory from: at the first allocation, so that a guest that never allocates never touches the heap.
#[derive(Debug)]
struct CommonSpans {
    /// The end of the span that was taken or grown last.
    end: usize,
    /// Bytes in all spans.
    size: usize,
}

// SAFETY: `acquire` either adds memory or fails; it is called with the allocator's lock held, and takes pages, which needs no allocation.
// `resize` only gives back whole pages between the two addresses.
unsafe impl Source for CommonSpans {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // The allocator's own tables are in its first span, which is best the rest of the last page of the bitmaps.
        let first = !talc.is_metadata_established();
        let tables = if first { talc::min_first_heap_size::<B>() } else { 0 };
        let least = (tables + layout.size() + layout.align() + 4 * CHUNK_UNIT).next_multiple_of(PAGE);
        let (low, high) = GROWTH;
        let wanted = (talc.source.size / 8).next_multiple_of(PAGE).clamp(low, high).max(least);
        let mut pages = PAGES.lock();
        let before = if first { pages.remainder() } else { talc.source.end..talc.source.end };
        for size in [wanted, least] {
            if before.end != 0 && pages.extend(before.end, size / PAGE) {
                return grow(talc, before.start, before.end + size, !first);
            }
            if let Some(begin) = pages.allocate(size / PAGE, PAGE) {
                return grow(talc, begin, begin + size, false);
            }
        }
        if first && !before.is_empty() {
            // A heap of a page.
            return grow(talc, before.start, before.end, false);
        }
        SHORT.store(true, Ordering::Relaxed);
        Err(())
    }

    const TRACK_HEAP_END: bool = true;

    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, is_heap_base: bool) -> *mut u8 {
        let (most, kept) = SLACK;
        let free = heap_end.addr() - chunk_base.addr();
        let keep = match is_heap_base {
            // The span is empty. It begins up to a unit below.
            true => chunk_base.addr() - (chunk_base.addr() - 1) % PAGE - 1,
            false if free > most => (chunk_base.addr() + kept).next_multiple_of(PAGE),
            false => return heap_end,
        };
        PAGES.lock().free(keep, (heap_end.addr() - keep) / PAGE);
        self.size -= heap_end.addr() - keep;
        if self.end == heap_end.addr() {
            self.end = if is_heap_base { 0 } else { keep };
        }
        if is_heap_base { chunk_base } else { heap_end.with_addr(keep) }
    }
}

/// Adds pages to the common allocator: to the span that ends where they begin, or as a span of their own.
fn grow<B: Binning>(
    talc: &mut Talc<CommonSpans, B>,
    begin: usize,
    end: usize,
    extends: bool,
) -> Result<(), ()> {
    let (first, last) = (begin as *mut u8, end as *mut u8);
    // SAFETY: the pages were just taken, or are behind the bitmaps, so they are mapped, writable and nobody else's. A span that is extended is the
    // one that ends there, which is not 0.
    unsafe {
        if extends {
            talc.extend(NonNull::new_unchecked(first), last);
        } else {
            talc.claim(first, end - begin).ok_or(())?;
        }
    }
    talc.source.end = end;
    talc.source.size += end - begin;
    Ok(())
}

/// Whether an allocation has failed.
static SHORT: AtomicBool = AtomicBool::new(false);

/// Whether this is the message of a panic for lack of memory: that of `alloc`, which contains the size of the request.
pub(crate) fn is_exhaustion(message: &str) -> bool {
    SHORT.load(Ordering::Relaxed) && message.contains("memory allocation of ")
}

/// The allocator of small blocks on the first virtual CPU, and of those that an arena has no memory for.
static COMMON: TalcLock<RawMutex, CommonSpans> = TalcLock::new(CommonSpans { end: 0, size: 0 });

/// Where an arena takes memory from.
#[derive(Debug)]
struct ArenaSpans;

// SAFETY: `acquire` either adds a span or fails; it is called with the arena's lock held, and takes pages, which needs no allocation.
// `resize` only gives back a whole span that is empty.
unsafe impl Source for ArenaSpans {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        let span = PAGES.lock().allocate(SPAN / PAGE, SPAN).ok_or(())? as *mut u8;
        // Only the virtual CPU of an arena allocates from it.
        if let Some(owner) = owner_of(span) {
            owner.store(per_cpu::current() as u8, Ordering::Relaxed);
        }
        // SAFETY: the pages were just taken.
        unsafe { talc.claim(span, SPAN) }.map(drop).ok_or(())
    }

    const TRACK_HEAP_END: bool = true;

    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, is_heap_base: bool) -> *mut u8 {
        if !is_heap_base {
            return heap_end;
        }
        let span = heap_end.wrapping_sub(SPAN);
        if let Some(owner) = owner_of(span) {
            owner.store(0, Ordering::Relaxed);
        }
        PAGES.lock().free(span.addr(), SPAN / PAGE);
        chunk_base
    }
}

static ARENAS: PerCpu<TalcLock<RawMutex, ArenaSpans>> = per_cpu!(TalcLock::new(ArenaSpans));

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

/// The virtual CPU whose arena contains a small block; 0 if none does.
fn arena_of(block: *mut u8) -> usize {
    match per_cpu::several() {
        true => owner_of(block).map_or(0, |owner| owner.load(Ordering::Relaxed).into()),
        false => 0,
    }
}

fn is_large(layout: Layout) -> bool {
    layout.size().max(layout.align()) >= LARGE
}

/// The heap of all virtual CPUs.
struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

impl Heap {
    fn allocate_large(layout: Layout) -> *mut u8 {
        match PAGES.lock().allocate(layout.size().div_ceil(PAGE), layout.align()) {
            Some(block) => block as *mut u8,
            None => {
                SHORT.store(true, Ordering::Relaxed);
                null_mut()
            }
        }
    }

    /// Makes a large block larger or smaller where it is. Returns whether that is possible.
    fn resize_large(block: *mut u8, before: usize, after: usize) -> bool {
        let (before, after) = (before.div_ceil(PAGE), after.div_ceil(PAGE));
        let mut pages = PAGES.lock();
        if after < before {
            pages.free(block.addr() + after * PAGE, before - after);
            return true;
        }
        after == before || pages.extend(block.addr() + before * PAGE, after - before)
    }
}

// SAFETY: each block is taken from, and given back to, one allocator that keeps the promises: its layout tells whether it is large. Which allocator a small one is
// from is known by the table of spans, whose entries do not change while a block is in them.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            return Self::allocate_large(layout);
        }
        let arena = per_cpu::current();
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
        if is_large(layout) {
            PAGES.lock().free(block.addr(), layout.size().div_ceil(PAGE));
        } else {
            // SAFETY: the caller's promise; the block is from this allocator.
            unsafe {
                match arena_of(block) {
                    0 => COMMON.dealloc(block, layout),
                    arena => ARENAS[arena].dealloc(block, layout),
                }
            }
        }
        pages::tell();
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size does not overflow when it is rounded up to the alignment.
        let after = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(after)) {
            (true, true) if Self::resize_large(block, layout.size(), size) => {
                pages::tell();
                return block;
            }
            (false, false) => {
                let arena = arena_of(block);
                // An arena grows on its own virtual CPU only.
                if arena == per_cpu::current() {
                    // SAFETY: the caller's promise; the block is from this allocator.
                    let moved = unsafe {
                        match arena {
                            0 => COMMON.realloc(block, layout, size),
                            _ => ARENAS[arena].realloc(block, layout, size),
                        }
                    };
                    pages::tell();
                    if !moved.is_null() || arena == 0 {
                        return moved;
                    }
                }
            }
            _ => {}
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
