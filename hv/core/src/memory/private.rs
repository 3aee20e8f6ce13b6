//! ⚠ Which pages of a guest's memory are private, and how they are reset.
//!
//! Written pages of a private mapping are anonymous; the others are zero or the
//! template's. The kernel tells them apart by `PAGEMAP_SCAN` (since 6.7; ioctl
//! of `/proc/PID/pagemap`, Documentation/admin-guide/mm/pagemap.rst) or by that
//! file's entries.
#![allow(unsafe_code, reason = "asking which pages of a mapping are private")]

use super::GuestMemory;
use hv_abi::PAGE_SIZE;
use hv_host::pagemap::pagemap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The argument of the ioctl (`struct pm_scan_arg`).
#[repr(C)]
#[derive(Default)]
struct PagemapScan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    report: u64,
}

/// A run of pages (`struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

// Bits of an entry of the file.
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;

/// Calls `found` with the written ranges of `range`, addresses of this process. Returns false if the
/// host does not tell: then any page may have been written.
fn written(range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> bool {
    static NO_SCAN: AtomicBool = AtomicBool::new(false);
    let Some(pagemap) = pagemap() else { return false };
    let mut from = range.start;
    while from < range.end && !NO_SCAN.load(Ordering::Relaxed) {
        let mut regions = [Region::default(); 256];
        let mut scan = PagemapScan {
            size: size_of::<PagemapScan>() as u64,
            start: from,
            end: range.end,
            regions: regions.as_mut_ptr() as u64,
            regions_len: regions.len() as u64,
            inverted: PAGE_IS_FILE,
            all_of: PAGE_IS_FILE,
            any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..PagemapScan::default()
        };
        // SAFETY: the argument is a live `struct pm_scan_arg` of the size that it
        // says, with room for as many regions as it says; the call changes nothing else.
        let count = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
        if count < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                tracing::debug!("PAGEMAP_SCAN: {error}; reading the entries instead");
                NO_SCAN.store(true, Ordering::Relaxed);
            }
            continue;
        }
        regions[..count as usize].iter().for_each(|region| found(region.start..region.end));
        from = scan.walk_end;
    }
    from >= range.end || by_entries(pagemap, from..range.end, found)
}

fn by_entries(pagemap: &File, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> bool {
    let mut entries = [0; 512 * 8];
    let mut page = range.start / PAGE_SIZE;
    let end = range.end / PAGE_SIZE;
    while page < end {
        let count = (end - page).min(512);
        let bytes = &mut entries[..count as usize * 8];
        if pagemap.read_exact_at(bytes, page * 8).is_err() {
            return false;
        }
        for (n, entry) in bytes.chunks_exact(8).enumerate() {
            let entry = u64::from_le_bytes(entry.try_into().expect("chunks of 8"));
            if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0 {
                let at = (page + n as u64) * PAGE_SIZE;
                found(at..at + PAGE_SIZE);
            }
        }
        page += count;
    }
    true
}

/// How many pages [`GuestMemory::reset`] copies back at most.
///
/// A page that is copied back stays in the guest's page tables, which saves the
/// next writer a fault of 4 to 5 µs for a quarter of a microsecond of copying;
/// but it also stays in memory.
pub(crate) const KEPT_PAGES: u64 = 1024;

impl GuestMemory {
    /// Calls `found` with every range (offsets below `end`) that the guest or the host
    /// has written since the memory was made. Ranges come in ascending order.
    pub fn for_each_private(&self, end: u64, found: &mut dyn FnMut(Range<u64>)) {
        if self.shared {
            return self.for_each_filled(end, found);
        }
        let start = self.host_address();
        if !written(start..start + end, &mut |range| found(range.start - start..range.end - start)) {
            found(0..end);
        }
    }

    /// Bytes of a part of its memory (offsets) that [`resident`](Self::resident) counts. So a thread that must not be kept
    /// for long can count a large memory piece by piece.
    pub fn resident_within(&self, range: Range<u64>) -> u64 {
        if self.shared {
            return self.filled_within(range);
        }
        let (start, mut bytes) = (self.host_address(), 0);
        let mut count = |range: Range<u64>| bytes += range.end - range.start;
        if !written(start + range.start..start + range.end, &mut count) {
            count(range);
        }
        bytes
    }

    /// Makes every byte of a template's clone, tail included, what it is in the
    /// template, and returns how many pages had been written. The guest must not
    /// be running. Panics without a template.
    pub fn reset(&self) -> u64 {
        let template = self.template.as_ref().expect("only clones are reset");
        let mut pages = 0;
        self.for_each_private(self.size + self.tail(), &mut |range| {
            let kept = KEPT_PAGES.saturating_sub(pages) * PAGE_SIZE;
            let middle = (range.start + kept).min(range.end);
            for page in (range.start..middle).step_by(PAGE_SIZE as usize) {
                template.copy_page(page, self.slice(page, PAGE_SIZE as usize));
            }
            if middle < range.end && self.shared {
                self.refill(middle..range.end);
            } else if middle < range.end {
                // A private page that is dropped is the template's again.
                self.advise(middle..range.end, libc::MADV_DONTNEED);
            }
            pages += (range.end - range.start) / PAGE_SIZE;
        });
        pages
    }

    /// Calls `found` with every page-aligned piece (offset and bytes) that may hold
    /// something else than zeros, at most 64 KiB each, in ascending order. The
    /// guest must not be running.
    ///
    /// # Errors
    ///
    /// The first that `found` returns, which ends it.
    pub fn for_each_piece<E>(&self, mut found: impl FnMut(u64, &[u8]) -> Result<(), E>) -> Result<(), E> {
        const PIECE: u64 = 64 << 10;
        let mut ranges = Vec::new();
        self.for_each_private(self.size, &mut |range| ranges.push(range));
        if let Some(template) = &self.template {
            ranges.extend(template.data());
            ranges.sort_by_key(|range| range.start);
        }
        let mut bytes = vec![0; PIECE as usize];
        let mut done = 0;
        for range in ranges {
            let mut at = range.start.max(done);
            while at < range.end {
                let len = (range.end - at).min(PIECE) as usize;
                self.host_read(at, &mut bytes[..len]);
                found(at, &bytes[..len])?;
                at += len as u64;
            }
            done = done.max(range.end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn private(memory: &GuestMemory) -> Vec<u64> {
        let mut pages = Vec::new();
        memory.for_each_private(memory.size() + memory.tail(), &mut |range| {
            pages.extend((range.start / PAGE_SIZE..range.end / PAGE_SIZE).collect::<Vec<_>>());
        });
        pages
    }

    fn template() -> Arc<Template> {
        let mut made = Template::make(GuestAddr(0x20_0000), 64 * PAGE_SIZE).unwrap();
        made.allow(4 * PAGE_SIZE..64 * PAGE_SIZE, Access::READ | Access::WRITE);
        made.host_write(5 * PAGE_SIZE, b"from the template");
        Arc::new(Template::seal(made).unwrap())
    }

    #[test]
    fn what_a_clone_writes_is_found_and_undone() {
        let template = template();
        let one = GuestMemory::of_template(&template).unwrap();
        let other = GuestMemory::of_template(&template).unwrap();
        one.host_write(5 * PAGE_SIZE, b"secret");
        one.host_write(40 * PAGE_SIZE - 1, b"xy");
        one.host_write(64 * PAGE_SIZE + 8, b"in the tail");
        let mut bytes = [0; 17];
        other.host_read(5 * PAGE_SIZE, &mut bytes);
        assert_eq!(&bytes, b"from the template");
        assert_eq!(private(&one), [5, 39, 40, 64]);
        assert!(private(&other).is_empty());
        assert_eq!(one.reset(), 4);
        for page in 0..66 {
            let mut mine = [0; PAGE_SIZE as usize];
            let mut clean = [0; PAGE_SIZE as usize];
            one.host_read(page * PAGE_SIZE, &mut mine);
            other.host_read(page * PAGE_SIZE, &mut clean);
            assert_eq!(mine, clean, "page {page}");
        }
    }

    #[test]
    fn without_the_ioctl_the_entries_say_the_same() {
        let memory = GuestMemory::of_template(&template()).unwrap();
        memory.host_write(7 * PAGE_SIZE, b"x");
        memory.host_write(9 * PAGE_SIZE, b"x");
        let mut byte = [0];
        memory.host_read(8 * PAGE_SIZE, &mut byte);
        let start = memory.host_address();
        let mut pages = Vec::new();
        let range = start..start + memory.size();
        assert!(by_entries(pagemap().unwrap(), range, &mut |r| pages.push((r.start - start) / PAGE_SIZE)));
        assert_eq!(pages, [7, 9]);
    }

    #[test]
    fn many_written_pages_are_dropped_instead_of_copied() {
        let size = (KEPT_PAGES + 100) * PAGE_SIZE;
        let made = Template::make(GuestAddr(0x20_0000), size).unwrap();
        let memory = GuestMemory::of_template(&Arc::new(Template::seal(made).unwrap())).unwrap();
        for page in 0..size / PAGE_SIZE {
            memory.host_write(page * PAGE_SIZE, b"full");
        }
        assert_eq!(memory.reset(), size / PAGE_SIZE);
        assert_eq!(private(&memory).len() as u64, KEPT_PAGES);
        let mut bytes = [1; 4];
        memory.host_read(size - PAGE_SIZE, &mut bytes);
        assert_eq!(bytes, [0; 4]);
    }
}
