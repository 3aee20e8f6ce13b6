//! The host's side of the free map: which pages of its heap a guest has no use for (`hv_abi::free_map`).
//!
//! The map is in the guest's memory, and the guest can write anything there. So it only ever concerns pages of the heap, which the
//! guest can write as well: a wrong map costs the guest its own bytes.

use super::GuestMemory;
use hv_abi::PAGE_SIZE;
use hv_abi::free_map::{Entry, PAGES};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries that [`FreeMap::empty`] handles in one step: 16 MiB of the heap, which takes the kernel less than a millisecond.
const STEP: usize = 64;

/// Most entries without free pages that it skips in one call.
const SCAN: usize = 16 << 10;

/// Where the free map is, and which pages it is about: offsets in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeMap {
    map: u64,
    heap: u64,
    pages: u64,
}

impl FreeMap {
    /// The map at `map`, of a heap that begins at `heap` and ends with the memory. The offsets are
    /// the host's own, or validated.
    pub fn new(memory: &GuestMemory, map: u64, heap: u64) -> Self {
        FreeMap { map, heap, pages: (memory.size() - heap) / PAGE_SIZE }
    }

    fn entries(&self) -> usize {
        self.pages.div_ceil(PAGES) as usize
    }

    fn word<'a>(&self, memory: &'a GuestMemory, entry: usize, field: usize) -> &'a AtomicU64 {
        memory.atomic_u64(self.map + (entry * size_of::<Entry>() + field) as u64)
    }

    /// The pages of an entry that exist.
    fn valid(&self, entry: usize) -> u64 {
        match self.pages - entry as u64 * PAGES {
            PAGES.. => u64::MAX,
            pages => (1 << pages) - 1,
        }
    }

    /// Whether the guest has given a page that was not emptied yet.
    pub fn any(&self, memory: &GuestMemory) -> bool {
        let free = |entry| self.word(memory, entry, offset_of!(Entry, free)).load(Ordering::SeqCst);
        (0..self.entries()).any(|entry| free(entry) & self.valid(entry) != 0)
    }

    /// Gives the memory of free pages back to the kernel, from this entry on. Returns the entry to go on with, `None` at the end of
    /// the map, and how many pages were emptied. A call takes less than a millisecond.
    pub fn empty(&self, memory: &GuestMemory, from: usize) -> (Option<usize>, u64) {
        let scanned = from.saturating_add(SCAN).min(self.entries());
        let mut first = from;
        let taken = loop {
            if first >= scanned {
                return ((first < self.entries()).then_some(first), 0);
            }
            let taken = self.take(memory, first);
            if taken != [0; STEP] {
                break taken;
            }
            first += STEP;
        };
        for run in runs(&taken) {
            let at = self.heap + (first as u64 * PAGES + run.start) * PAGE_SIZE;
            memory.discard(at..at + (run.end - run.start) * PAGE_SIZE);
        }
        for (n, pages) in taken.iter().enumerate().filter(|(_, pages)| **pages != 0) {
            self.word(memory, first + n, offset_of!(Entry, empty)).fetch_or(*pages, Ordering::SeqCst);
        }
        let emptied = taken.iter().map(|pages| u64::from(pages.count_ones())).sum();
        let next = first + STEP;
        ((next < self.entries()).then_some(next), emptied)
    }

    /// Takes the free pages of a step from the guest, so that it does not use them until they are put back.
    fn take(&self, memory: &GuestMemory, first: usize) -> [u64; STEP] {
        let mut taken = [0; STEP];
        for (entry, taken) in (first..self.entries()).zip(&mut taken) {
            let free = self.word(memory, entry, offset_of!(Entry, free));
            // Reading first keeps the cache line shared.
            if free.load(Ordering::SeqCst) != 0 {
                *taken = free.swap(0, Ordering::SeqCst) & self.valid(entry);
            }
        }
        taken
    }

    /// The pages that are free now, for memory whose guest does not run.
    pub fn free_pages(&self, memory: &GuestMemory) -> FreePages {
        let load = |entry, field| self.word(memory, entry, field).load(Ordering::SeqCst);
        let of = |entry| load(entry, offset_of!(Entry, free)) | load(entry, offset_of!(Entry, empty));
        FreePages {
            heap: self.heap,
            words: (0..self.entries()).map(|entry| of(entry) & self.valid(entry)).collect(),
        }
    }
}

/// A copy of a free map.
pub struct FreePages {
    heap: u64,
    words: Vec<u64>,
}

impl FreePages {
    /// Whether the page at this offset is free.
    pub fn contains(&self, offset: u64) -> bool {
        let Some(page) = offset.checked_sub(self.heap).map(|bytes| bytes / PAGE_SIZE) else { return false };
        self.words.get((page / PAGES) as usize).is_some_and(|word| word & 1 << (page % PAGES) != 0)
    }
}

/// The runs of set bits, also across words.
fn runs(words: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (n, word) in words.iter().enumerate() {
        let mut bits = *word;
        while bits != 0 {
            let start = u64::from(bits.trailing_zeros());
            let len = u64::from((bits >> start).trailing_ones());
            let at = n as u64 * PAGES + start;
            match runs.last_mut() {
                Some(last) if last.end == at => last.end += len,
                _ => runs.push(at..at + len),
            }
            bits &= match start + len {
                PAGES => 0,
                end => u64::MAX << end,
            };
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Access, Template};
    use hv_abi::GuestAddr;
    use std::sync::Arc;

    const HEAP: u64 = 16 * PAGE_SIZE;
    const MAP: u64 = 2 * PAGE_SIZE;
    const PAGES_IN_ALL: u64 = 16 + 6000;

    /// Memory of each kind, with all pages of the heap written.
    fn memories() -> Vec<(GuestMemory, FreeMap)> {
        let size = PAGES_IN_ALL * PAGE_SIZE;
        let template = Template::seal(Template::make(GuestAddr(0x20_0000), size).unwrap()).unwrap();
        let kinds = [
            GuestMemory::new(GuestAddr(0x20_0000), size).unwrap(),
            GuestMemory::new_shared(GuestAddr(0x20_0000), size).unwrap(),
            GuestMemory::of_template(&Arc::new(template)).unwrap(),
        ];
        kinds
            .into_iter()
            .map(|memory| {
                for page in HEAP / PAGE_SIZE..PAGES_IN_ALL {
                    memory.host_write(page * PAGE_SIZE, b"full");
                }
                let map = FreeMap::new(&memory, MAP, HEAP);
                (memory, map)
            })
            .collect()
    }

    fn text(memory: &GuestMemory, page: u64) -> [u8; 4] {
        let mut bytes = [0; 4];
        memory.host_read(HEAP + page * PAGE_SIZE, &mut bytes);
        bytes
    }

    fn empty_all(map: &FreeMap, memory: &GuestMemory) -> u64 {
        let (mut next, mut pages) = (Some(0), 0);
        while let Some(from) = next {
            let emptied;
            (next, emptied) = map.empty(memory, from);
            pages += emptied;
        }
        pages
    }

    #[test]
    fn free_pages_are_emptied_and_no_others() {
        for (memory, map) in memories() {
            let free = |entry| map.word(&memory, entry, 0);
            let empty = |entry| map.word(&memory, entry, 8);
            // A run across words, the last page that exists, and bits of pages that do not.
            free(0).store(1 << 63, Ordering::SeqCst);
            free(1).store(0b1011, Ordering::SeqCst);
            free(93).store(u64::MAX << 40, Ordering::SeqCst);
            let before = memory.resident();
            let pages = map.free_pages(&memory);
            let given = [63, 64, 65, 67, 93 * 64 + 40, 5999];
            assert!(given.iter().all(|page| pages.contains(HEAP + page * PAGE_SIZE)));
            assert!(
                !pages.contains(HEAP + 66 * PAGE_SIZE) && !pages.contains(0) && !pages.contains(u64::MAX)
            );
            assert!(map.any(&memory));
            assert_eq!(empty_all(&map, &memory), 4 + 8);
            // Before the pages are read, which fills them with zeros.
            assert_eq!(memory.resident(), before - (4 + 8) * PAGE_SIZE);
            assert!(!map.any(&memory) && empty_all(&map, &memory) == 0);
            for page in 0..6000 {
                let gone = [63, 64, 65, 67].contains(&page) || page >= 93 * 64 + 40;
                assert_eq!(text(&memory, page) == [0; 4], gone, "page {page}");
            }
            assert_eq!((empty(0).load(Ordering::SeqCst), empty(1).load(Ordering::SeqCst)), (1 << 63, 0b1011));
            assert_eq!(empty(93).load(Ordering::SeqCst), 0xff << 40, "only pages that exist");
            assert!(map.free_pages(&memory).contains(HEAP + 63 * PAGE_SIZE), "still free");
        }
    }

    #[test]
    fn a_large_map_is_emptied_in_steps() {
        let (memory, map) = memories().remove(0);
        for entry in 0..map.entries() {
            map.word(&memory, entry, 0).store(u64::MAX, Ordering::SeqCst);
        }
        assert_eq!(map.empty(&memory, 0), (Some(STEP), STEP as u64 * PAGES));
        assert_eq!(map.empty(&memory, STEP), (None, 6000 - STEP as u64 * PAGES));
        assert_eq!(map.empty(&memory, map.entries()), (None, 0));
    }

    #[test]
    fn runs_of_bits() {
        assert_eq!(runs(&[0, 0]), []);
        assert_eq!(runs(&[u64::MAX, 1 | 1 << 63]), [0..65, 127..128]);
        assert_eq!(runs(&[1 << 63 | 1, 0b1011]), [0..1, 63..66, 67..68]);
    }

    #[test]
    fn a_page_that_is_being_emptied_is_in_neither_word() {
        let (memory, map) = memories().remove(0);
        map.word(&memory, 0, 0).store(6, Ordering::SeqCst);
        assert_eq!(map.take(&memory, 0)[0], 6);
        assert_eq!(map.word(&memory, 0, 0).load(Ordering::SeqCst), 0);
        assert!(
            memory.check(GuestAddr(0x20_0000), 1, Access::READ).is_err(),
            "the access map is not involved"
        );
    }
}
