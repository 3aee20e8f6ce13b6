//! ⚠ Guest memory: the one place where the host touches bytes that a guest can change.
//!
//! Addresses that come from a guest are numbers ([`GuestAddr`]); every access
//! resolves them against the access map, which knows the permissions that the
//! guest's own page tables give, so that a device never writes what its guest
//! could not.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. The mapping lives as long as [`GuestMemory`], never moves, never shrinks.
//! 2. No Rust reference to guest memory is ever made, except to atomics;
//!    all other access is by volatile copies ([`vm_memory::VolatileSlice`]),
//!    so concurrent writes by a guest yield odd values but no undefined ones.
//! 3. Every offset is checked against the mapping's size before use.
#![allow(unsafe_code, reason = "guest memory: mapping, atomics, volatile copies")]

mod demand;
mod equal_pages;
mod free_map;
pub(crate) mod private;
mod ring;
mod saved;
mod shared;
mod template;

pub(crate) use demand::{Piece, Source};
pub use equal_pages::EqualPagesError;
pub use free_map::{FreeMap, FreePages};
pub use ring::RingMemory;
pub use saved::SavedRange;
pub use template::{Template, TemplateError};

use demand::Demand;
use hv_abi::{Errno, GuestAddr, PAGE_SIZE};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

bitflags::bitflags! {
    /// What the guest may do with a range of its memory.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Instruction fetches. Never together with `WRITE`.
        const EXECUTE = 4;
    }
}

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot map {size} bytes of guest memory: {source}")]
pub struct MapError {
    size: u64,
    source: MmapRegionError,
}

/// The memory of one guest: a private mapping, anonymous or of a [`Template`], or else a file in
/// memory that another process maps, at consecutive guest addresses from `base`. Behind it, in the same mapping,
/// lies a *tail* for the platform's own tables about this guest, which no guest
/// address reaches.
#[derive(Debug)]
pub struct GuestMemory {
    region: MmapRegion,
    /// Bytes of the mapping before the guest's memory, which starts at a
    /// multiple of [`HUGE_PAGE`] in this process, as it does in the guest.
    skip: usize,
    base: u64,
    size: u64,
    /// Sorted, disjoint, page-aligned byte ranges from the start of the memory.
    /// What no range covers, the guest cannot touch. Clones share it.
    map: Arc<AccessMap>,
    /// What the pages were before they were written; `None`: zero.
    template: Option<Arc<Template>>,
    /// Whether other processes may map it.
    shared: bool,
    /// For a clone in a file of its own: which pages the file has.
    demand: Option<Demand>,
}

/// Ranges of offsets, and what the guest may do there.
type AccessMap = Vec<(Range<u64>, Access)>;

/// Bytes of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

/// Memory for page tables: one page per GiB of memory and per border between ranges, and some more for
/// everything else.
fn tail_size(size: u64) -> u64 {
    const PAGES: u64 = 128;
    (PAGES + (size >> 30)) * PAGE_SIZE
}

/// The tail of memory that another process maps: what that has of its own, for each virtual CPU.
pub(crate) const SHARED_TAIL: u64 = 8 << 20;

impl GuestMemory {
    /// Maps `size` bytes (a multiple of the page size) to appear at guest address `base`.
    ///
    /// # Errors
    ///
    /// If the host has no address space for it.
    pub fn new(base: GuestAddr, size: u64) -> Result<Self, MapError> {
        assert!(size.is_multiple_of(PAGE_SIZE) && base.0.is_multiple_of(PAGE_SIZE));
        let whole = size + tail_size(size) + HUGE_PAGE;
        let region = MmapRegion::new(whole as usize).map_err(|source| MapError { size, source })?;
        let start = region.as_ptr() as u64;
        let skip = start.next_multiple_of(HUGE_PAGE) - start;
        let memory = GuestMemory {
            region,
            skip: skip as usize,
            base: base.0,
            size,
            map: Arc::default(),
            template: None,
            shared: false,
            demand: None,
        };
        memory.advise(0..size + memory.tail(), libc::MADV_NOHUGEPAGE);
        // Beyond its first 2 MiB, a guest gets memory 2 MiB at a time, for one fault instead of 512. The ends
        // stay small: the start is what every guest touches, the end is where allocators keep a marker.
        if size >= 3 * HUGE_PAGE {
            memory.advise(HUGE_PAGE..(size - HUGE_PAGE) / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE);
        }
        Ok(memory)
    }

    /// Maps a template: every page is shared with it until it is written.
    ///
    /// # Errors
    ///
    /// If the host has no address space for it.
    pub fn of_template(template: &Arc<Template>) -> Result<Self, MapError> {
        let size = template.size();
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let (region, map) = template.map(libc::PROT_READ | libc::PROT_WRITE, flags)?;
        Ok(GuestMemory {
            region,
            skip: 0,
            base: template.base().0,
            size,
            map,
            template: Some(template.clone()),
            shared: false,
            demand: None,
        })
    }

    /// Tells the kernel how pages of `range` (offsets) will be used. Returns whether it does something with that.
    fn advise(&self, range: Range<u64>, advice: libc::c_int) -> bool {
        let slice = self.slice(range.start, (range.end - range.start) as usize);
        // SAFETY: inside the mapping (`slice` checked it). No advice that is given unmaps anything; one that changes
        // bytes does what a guest can do at any time (invariant 2).
        unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), advice) == 0 }
    }

    /// Guest address of the first byte.
    pub fn base(&self) -> GuestAddr {
        GuestAddr(self.base)
    }

    /// Size in bytes, without the tail.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Size of the tail in bytes; it starts at offset [`size`](Self::size),
    /// is zero, and costs nothing where it is not written.
    pub fn tail(&self) -> u64 {
        if self.shared { SHARED_TAIL } else { tail_size(self.size) }
    }

    /// Where the memory is mapped in this process; for the platform, which shows it to the guest.
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64 + self.skip as u64
    }

    /// Gives the guest access to the bytes of `range` (offsets, page-aligned),
    /// which must lie behind every range given before.
    pub fn allow(&mut self, range: Range<u64>, access: Access) {
        assert!(range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE));
        assert!(range.start <= range.end && range.end <= self.size());
        assert!(!access.contains(Access::WRITE | Access::EXECUTE));
        assert!(self.map.last().is_none_or(|(last, _)| last.end <= range.start));
        if range.is_empty() {
            return;
        }
        let map = Arc::get_mut(&mut self.map).expect("only memory that is being made gets ranges");
        match map.last_mut() {
            Some((last, a)) if *a == access && last.end == range.start => last.end = range.end,
            _ => map.push((range, access)),
        }
    }

    /// The access map: offsets and what the guest may do there.
    pub fn map(&self) -> &[(Range<u64>, Access)] {
        &self.map
    }

    /// Whether a range (offsets) is page-aligned, inside, and may be given to [`allow`](Self::allow)
    /// after the ranges so far: for maps that come from a file.
    pub fn may_allow(&self, range: &Range<u64>, access: Access) -> bool {
        range.start.is_multiple_of(PAGE_SIZE)
            && range.end.is_multiple_of(PAGE_SIZE)
            && range.start < range.end
            && range.end <= self.size
            && access.contains(Access::READ)
            && !access.contains(Access::WRITE | Access::EXECUTE)
            && self.map.last().is_none_or(|(last, _)| last.end <= range.start)
    }

    /// Validates a range that a guest named: its offset, if all of it allows `access`.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if not all of it is the guest's, or not for this.
    pub fn check(&self, address: GuestAddr, len: u64, access: Access) -> Result<u64, Errno> {
        let start = address.0.checked_sub(self.base).ok_or(Errno::Fault)?;
        let end = start.checked_add(len).ok_or(Errno::Fault)?;
        let mut from = start;
        let first = self.map.partition_point(|(range, _)| range.end <= start);
        for (range, allowed) in &self.map[first..] {
            if range.start > from || !allowed.contains(access) {
                break;
            }
            if end <= range.end {
                return Ok(start);
            }
            from = range.end;
        }
        Err(Errno::Fault)
    }

    fn slice(&self, offset: u64, len: usize) -> VolatileSlice<'_> {
        self.region.get_slice(self.skip + offset as usize, len).expect("the offset was checked")
    }

    /// Copies bytes that the guest may read out of its memory.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if it may not read all of them.
    pub fn read(&self, address: GuestAddr, bytes: &mut [u8]) -> Result<(), Errno> {
        let offset = self.check(address, bytes.len() as u64, Access::READ)?;
        self.copy_out(offset, bytes);
        Ok(())
    }

    /// Copies bytes to where the guest may write.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if it may not write all of them: then none is written.
    pub fn write(&self, address: GuestAddr, bytes: &[u8]) -> Result<(), Errno> {
        let offset = self.check(address, bytes.len() as u64, Access::WRITE)?;
        self.host_write(offset, bytes);
        Ok(())
    }

    /// Copies bytes in on the host's own account, whatever the guest may do
    /// there, and into the tail. Panics outside: offsets are the host's.
    pub fn host_write(&self, offset: u64, bytes: &[u8]) {
        self.own(offset, bytes.len() as u64);
        self.slice(offset, bytes.len()).copy_from(bytes);
    }

    /// [`host_write`](Self::host_write) of whole pages into memory that is zero: pages of zeros stay untouched.
    pub fn host_write_pages(&self, offset: u64, pages: &[u8]) {
        for (n, page) in pages.chunks(PAGE_SIZE as usize).enumerate() {
            if page.iter().any(|&byte| byte != 0) {
                self.host_write(offset + n as u64 * PAGE_SIZE, page);
            }
        }
    }

    /// Copies bytes out on the host's own account, also of the tail. Panics outside.
    pub fn host_read(&self, offset: u64, bytes: &mut [u8]) {
        self.copy_out(offset, bytes);
    }

    /// A validated range as the kernel wants it for direct transfers into or out
    /// of guest memory. It is valid while `self` lives; the guest may change
    /// the bytes meanwhile.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if not all of it is the guest's, or not for this.
    pub fn iovec(&self, address: GuestAddr, len: u64, access: Access) -> Result<libc::iovec, Errno> {
        let offset = self.check(address, len, access)?;
        self.own(offset, len);
        let slice = self.slice(offset, len as usize);
        Ok(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: len as usize })
    }

    /// Populates the pages of `range` (offsets) before they are touched: one call instead of a fault each.
    /// Panics outside the memory.
    pub fn populate(&self, range: Range<u64>) {
        self.own(range.start, range.end - range.start);
        // Where the kernel (before 5.14) or a memory limit refuses, pages come with the faults.
        self.advise(range.start - range.start % PAGE_SIZE..range.end, libc::MADV_POPULATE_WRITE);
    }

    /// Gives the memory of whole pages (offsets) back to the kernel. They are then zero, or what they are in the template, or, if
    /// the kernel refuses, what they were. Panics outside the memory.
    pub fn discard(&self, range: Range<u64>) {
        if let Some(demand) = &self.demand {
            demand.give_back(range, |range| _ = self.punch(range));
        } else if self.shared {
            self.punch(range);
        } else {
            self.advise(range, libc::MADV_DONTNEED);
        }
    }

    /// What the pages were before they were written, if not zero.
    pub fn template(&self) -> Option<&Arc<Template>> {
        self.template.as_ref()
    }

    /// Bytes of pages that are this guest's alone: what it has touched, or, if
    /// it has a template, written.
    pub fn resident(&self) -> u64 {
        if self.shared {
            // The kernel has counted them.
            return self.in_file().saturating_sub(self.filled_within(self.size..self.size + SHARED_TAIL));
        }
        let mut bytes = 0;
        self.for_each_private(self.size, &mut |range| bytes += range.end - range.start);
        bytes
    }

    /// An aligned 64-bit word of guest memory. Panics outside the memory or when misaligned.
    pub fn atomic_u64(&self, offset: u64) -> &AtomicU64 {
        self.own(offset, 8);
        self.region
            .get_atomic_ref::<AtomicU64>(self.skip + offset as usize)
            .expect("the offset is the host's own")
    }

    /// An aligned 32-bit word of guest memory. Panics outside the memory or when misaligned.
    pub fn atomic_u32(&self, offset: u64) -> &AtomicU32 {
        self.own(offset, 4);
        self.region
            .get_atomic_ref::<AtomicU32>(self.skip + offset as usize)
            .expect("the offset is the host's own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let mut memory = GuestMemory::new(GuestAddr(0x10000), 8 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..2 * PAGE_SIZE, Access::READ | Access::EXECUTE);
        memory.allow(2 * PAGE_SIZE..3 * PAGE_SIZE, Access::READ);
        memory.allow(3 * PAGE_SIZE..4 * PAGE_SIZE, Access::READ | Access::WRITE);
        memory.allow(4 * PAGE_SIZE..5 * PAGE_SIZE, Access::READ | Access::WRITE);
        memory.allow(6 * PAGE_SIZE..8 * PAGE_SIZE, Access::READ | Access::WRITE);
        memory
    }

    #[test]
    fn ranges_are_validated_by_what_the_guest_itself_may_do() {
        let m = memory();
        let at = |page: u64| GuestAddr(0x10000 + page * PAGE_SIZE);
        assert_eq!(m.check(at(1), 3 * PAGE_SIZE, Access::READ), Ok(PAGE_SIZE));
        assert_eq!(m.check(at(1), 4, Access::WRITE), Err(Errno::Fault));
        assert_eq!(m.check(at(2), 2 * PAGE_SIZE, Access::WRITE), Err(Errno::Fault));
        assert_eq!(m.check(at(3), 2 * PAGE_SIZE, Access::WRITE), Ok(3 * PAGE_SIZE));
        assert_eq!(m.check(at(4), PAGE_SIZE + 1, Access::READ), Err(Errno::Fault), "into a guard page");
        assert_eq!(m.check(at(5), 1, Access::READ), Err(Errno::Fault), "a guard page");
        assert_eq!(m.check(at(0), 1, Access::READ), Err(Errno::Fault));
        assert_eq!(m.check(GuestAddr(at(8).0 - 1), 1, Access::READ), Ok(8 * PAGE_SIZE - 1));
        assert_eq!(m.check(GuestAddr(at(8).0 - 1), 2, Access::READ), Err(Errno::Fault));
        assert_eq!(m.check(GuestAddr(0), 1, Access::READ), Err(Errno::Fault));
        assert_eq!(m.check(at(6), u64::MAX, Access::READ), Err(Errno::Fault));
        assert_eq!(m.check(at(6), 4 << 30, Access::READ), Err(Errno::Fault));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let m = memory();
        let at = GuestAddr(0x10000 + 7 * PAGE_SIZE - 2);
        m.write(at, b"abcd").unwrap();
        let mut back = [0; 4];
        m.read(at, &mut back).unwrap();
        assert_eq!(&back, b"abcd");
    }
}
