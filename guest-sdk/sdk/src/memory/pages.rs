//! ⚠ The pages of the heap: large blocks, and the spans from which the allocators of small blocks take.
//!
//! Which pages are used stands in a bitmap at the start of the heap. Free pages are given to the host by the free map
//! (`hv_abi::free_map`), which takes their memory back. The host does not do that for pages that were never used, since they have none.
#![allow(unsafe_code, reason = "the bitmaps at the start of the heap, and the free map")]

use super::bitmap::{Bitmap, masks};
use crate::hypercall;
use crate::shared_info::free_map_watched;
use crate::start_info::start_info;
use crate::sync::Mutex;
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hv_abi::free_map::Entry;

/// Bytes of a page.
pub(super) const PAGE: usize = hv_abi::PAGE_SIZE as usize;

/// All pages of the heap.
pub(super) static PAGES: Mutex<Pages> = Mutex::new(Pages { bitmaps: None });

/// The pages of a heap.
pub(super) struct Pages {
    bitmaps: Option<Bitmaps>,
}

struct Bitmaps {
    /// Address of the first page.
    base: usize,
    /// Pages that the guest uses.
    used: Bitmap<'static>,
    /// Pages that the guest has given to the host. They are not used.
    given: Bitmap<'static>,
    /// How many are used.
    count: usize,
    /// Bytes of the bitmaps.
    size: usize,
}

impl Bitmaps {
    /// Puts the bitmaps at the start of the heap.
    fn new() -> Self {
        let (base, pages) = (start_info().heap_base.0 as usize, start_info().heap_size as usize / PAGE);
        let words = Bitmap::words_for(pages);
        let size = 2 * words * size_of::<u64>();
        // SAFETY: the host promises that the heap is mapped, writable, zero, aligned and the guest's alone (start-info). The bitmaps are its
        // first bytes, which are never given to anybody else (below). This is called once.
        let (used, given) = unsafe {
            let first = base as *mut u64;
            let second = first.add(words);
            (core::slice::from_raw_parts_mut(first, words), core::slice::from_raw_parts_mut(second, words))
        };
        let mut bitmaps = Bitmaps {
            base,
            used: Bitmap::new(used, pages),
            given: Bitmap::new(given, pages),
            count: 0,
            size,
        };
        bitmaps.take(0..size.div_ceil(PAGE));
        bitmaps
    }

    fn index(&self, address: usize) -> usize {
        (address - self.base) / PAGE
    }

    fn address(&self, index: usize) -> usize {
        self.base + index * PAGE
    }

    /// Takes free pages. Their content is undefined.
    fn take(&mut self, range: Range<usize>) {
        self.used.set(range.clone());
        self.count += range.len();
        for (word, mask) in masks(range.clone()) {
            let given = self.given.word(word) & mask;
            if given != 0 {
                take_back(word, given);
            }
        }
        self.given.clear(range);
    }

    /// Gives used pages to the host.
    fn give(&mut self, range: Range<usize>) {
        self.used.clear(range.clone());
        self.count -= range.len();
        self.given.set(range.clone());
        for (word, mask) in masks(range) {
            free_map(word, offset_of!(Entry, free)).fetch_or(mask, Ordering::SeqCst);
        }
    }
}

/// A word of the free map.
fn free_map(entry: usize, field: usize) -> &'static AtomicU64 {
    let address = start_info().free_map.0 as usize + entry * size_of::<Entry>() + field;
    // SAFETY: the host has mapped an entry for every 64 pages of the heap, for good. Both sides access them atomically only.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// Takes pages of an entry back that were given: clears their bits, and waits for those that the host is emptying.
fn take_back(entry: usize, pages: u64) {
    /// How often this polls before it offers the processor.
    const POLLS: u32 = 1000;
    let mut missing = pages;
    for poll in 0_u32.. {
        for field in [offset_of!(Entry, free), offset_of!(Entry, empty)] {
            missing &= !free_map(entry, field).fetch_and(!missing, Ordering::SeqCst);
        }
        if missing == 0 {
            return;
        }
        match poll {
            ..POLLS => core::hint::spin_loop(),
            _ => hypercall::yield_now(),
        }
    }
}

/// Whether pages were given since the host was last told.
static GIVEN: AtomicBool = AtomicBool::new(false);

/// Tells the host of pages that were given, unless it watches the free map. To be called without a lock.
pub(super) fn tell() {
    if GIVEN.load(Ordering::Relaxed)
        && GIVEN.swap(false, Ordering::SeqCst)
        && free_map_watched().load(Ordering::SeqCst) == 0
    {
        hypercall::free_pages();
    }
}

impl Pages {
    fn bitmaps(&mut self) -> &mut Bitmaps {
        self.bitmaps.get_or_insert_with(Bitmaps::new)
    }

    /// The bytes behind the bitmaps, up to the end of their last page.
    pub(super) fn remainder(&mut self) -> Range<usize> {
        let bitmaps = self.bitmaps();
        let start = bitmaps.base + bitmaps.size;
        start..start.next_multiple_of(PAGE)
    }

    /// Adjacent pages at a multiple of `align` bytes, a power of two.
    pub(super) fn allocate(&mut self, count: usize, align: usize) -> Option<usize> {
        let bitmaps = self.bitmaps();
        let start = bitmaps.used.find(count, bitmaps.base / PAGE, align.div_ceil(PAGE))?;
        bitmaps.take(start..start + count);
        Some(bitmaps.address(start))
    }

    /// Takes the pages from this address on, which is a multiple of a page, if they are free.
    pub(super) fn extend(&mut self, address: usize, count: usize) -> bool {
        let bitmaps = self.bitmaps();
        let start = bitmaps.index(address);
        let is_free = bitmaps.used.is_free(start..start.saturating_add(count));
        if is_free {
            bitmaps.take(start..start + count);
        }
        is_free
    }

    /// Frees pages. [`tell`] has to be called afterwards.
    pub(super) fn free(&mut self, address: usize, count: usize) {
        let bitmaps = self.bitmaps();
        let start = bitmaps.index(address);
        bitmaps.give(start..start + count);
        GIVEN.store(true, Ordering::SeqCst);
    }

    /// How many pages are used; 0 before the first allocation.
    pub(super) fn used(&self) -> usize {
        self.bitmaps.as_ref().map_or(0, |bitmaps| bitmaps.count)
    }
}
