//! Memory that another process maps as well: a file in memory, all of it this guest's own.
//!
//! A clone's memory takes the pages of its template [on demand](super::demand).

use super::demand::Demand;
use super::template::{self, TemplateError};
use super::{GuestMemory, SHARED_TAIL, Template};
use hv_abi::{GuestAddr, PAGE_SIZE};
use rustix::fs::{FallocateFlags, MemfdFlags, SeekFrom};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are copied at a time.
const PIECE: u64 = 64 << 10;

impl GuestMemory {
    /// Like [`new`](Self::new), and other processes can map it.
    ///
    /// # Errors
    ///
    /// If the host refuses a memory file, or to map it.
    pub fn new_shared(base: GuestAddr, size: u64) -> Result<Self, TemplateError> {
        let memory = template::of_file("hv-guest", MemfdFlags::empty(), base, size, SHARED_TAIL)?;
        Ok(GuestMemory { shared: true, ..memory })
    }

    /// A clone of a template that other processes can map. It takes the template's pages when they are needed.
    ///
    /// # Errors
    ///
    /// If the host refuses a memory file, or to map it.
    pub fn shared_of_template(template: &Arc<Template>) -> Result<Self, TemplateError> {
        let mut memory = Self::new_shared(template.base(), template.size())?;
        memory.map = template.access().clone();
        let file = memory.region.file_offset().expect("`new_shared` made one").arc();
        memory.demand = Some(Demand::new(template, file));
        memory.template = Some(template.clone());
        Ok(memory)
    }

    fn file(&self) -> Option<&File> {
        self.region.file_offset().map(|offset| &**offset.arc())
    }

    /// Bytes of host memory in the file that other processes can map; 0 for memory that is this process' alone.
    pub fn in_file(&self) -> u64 {
        let file = self.file().filter(|_| self.shared);
        file.and_then(|file| rustix::fs::fstat(file).ok()).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }

    /// The file that another process can map: an offset in it is an offset in this memory, tail
    /// included. `None` for memory that is this process' alone.
    pub fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        self.file().filter(|_| self.shared).map(AsFd::as_fd)
    }

    /// Calls `found` with the ranges below `end` that are not holes.
    pub(super) fn for_each_filled(&self, end: u64, found: &mut dyn FnMut(Range<u64>)) {
        let file = self.file().expect("shared memory has a file");
        for range in template::data(file, end) {
            if range.start < end {
                found(range.start..range.end.min(end));
            }
        }
    }

    /// The same within a range. It looks at nothing outside.
    pub(super) fn for_each_filled_within(&self, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) {
        let file = self.file().expect("shared memory has a file");
        let mut from = range.start;
        while from < range.end
            && let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(from))
            && start < range.end
        {
            let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(range.end).min(range.end);
            found(start..end);
            from = end;
        }
    }

    /// Bytes of a range that are not holes.
    pub(super) fn filled_within(&self, range: Range<u64>) -> u64 {
        let mut bytes = 0;
        self.for_each_filled_within(range, &mut |range| bytes += range.end - range.start);
        bytes
    }

    /// Gives a range of whole pages back, which makes them zero. Returns whether the kernel has done that.
    pub(super) fn punch(&self, range: Range<u64>) -> bool {
        let file = self.file().expect("shared memory has a file");
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, hole, range.start, range.end - range.start).is_ok()
    }

    /// Makes a range of whole pages zero, and gives them back if the kernel does that.
    pub(crate) fn clear(&self, range: Range<u64>) {
        if !self.punch(range.clone()) {
            self.host_write(range.start, &vec![0; (range.end - range.start) as usize]);
        }
    }

    /// Makes a range of whole pages what it is in the template, with its pages given back.
    pub(super) fn refill(&self, range: Range<u64>) {
        let file = self.file().expect("shared memory has a file");
        let template = self.template.as_ref().expect("only clones are reset");
        self.clear(range.clone());
        for data in template.data_within(range) {
            if copy(template, file, data.clone()).is_err() {
                // Page by page, through the mapping.
                for page in data.step_by(PAGE_SIZE as usize) {
                    template.copy_page(page, self.slice(page, PAGE_SIZE as usize));
                }
            }
        }
    }
}

/// Copies a range of whole pages of a template to the same place of a file.
pub(super) fn copy(template: &Template, file: &File, range: Range<u64>) -> io::Result<()> {
    let mut bytes = vec![0; PIECE.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let piece = &mut bytes[..(range.end - at).min(PIECE) as usize];
        template.read(at, piece)?;
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::*;

    fn template() -> Arc<Template> {
        let mut made = Template::make(GuestAddr(0x20_0000), 4096 * PAGE_SIZE).unwrap();
        made.allow(4 * PAGE_SIZE..64 * PAGE_SIZE, Access::READ | Access::WRITE);
        made.host_write(5 * PAGE_SIZE, b"from the template");
        made.host_write(4000 * PAGE_SIZE, b"far away");
        Arc::new(Template::seal(made).unwrap())
    }

    #[test]
    fn a_clone_is_reset_to_its_template() {
        let template = template();
        let memory = GuestMemory::shared_of_template(&template).unwrap();
        let text = |offset| {
            let mut bytes = [0; 8];
            memory.host_read(offset, &mut bytes);
            bytes
        };
        assert_eq!((&text(5 * PAGE_SIZE), &text(4000 * PAGE_SIZE)), (b"from the", b"far away"));
        assert!(memory.shared_file().is_some());
        assert_eq!(memory.map(), [(4 * PAGE_SIZE..64 * PAGE_SIZE, Access::READ | Access::WRITE)]);
        memory.host_write(5 * PAGE_SIZE, b"secret");
        memory.host_write(7 * PAGE_SIZE, b"secret");
        memory.host_write(memory.size(), b"in the tail");
        memory.reset();
        assert_eq!((&text(5 * PAGE_SIZE), &text(7 * PAGE_SIZE)), (b"from the", &[0; 8]));
        assert_eq!(text(memory.size()), [0; 8]);
        // So many that pages are given back.
        for page in 0..4096 {
            memory.host_write(page * PAGE_SIZE, b"full");
        }
        assert!(memory.resident() >= 4096 * PAGE_SIZE);
        memory.reset();
        assert!(memory.resident() < 2048 * PAGE_SIZE);
        for page in 0..4096 {
            let expected = match page {
                5 => b"from the",
                4000 => b"far away",
                _ => &[0; 8],
            };
            assert_eq!(&text(page * PAGE_SIZE), expected, "page {page}");
        }
    }

    #[test]
    fn what_is_shared_counts_as_its_guests_own_where_it_is_filled() {
        let memory = GuestMemory::new_shared(GuestAddr(0x20_0000), 64 * PAGE_SIZE).unwrap();
        memory.host_write(3 * PAGE_SIZE, b"x");
        memory.host_write(64 * PAGE_SIZE, b"in the tail");
        assert_eq!(memory.resident(), PAGE_SIZE);
        let mut pieces = Vec::new();
        let mut note = |offset, bytes: &[u8]| {
            pieces.push((offset, bytes[0]));
            Ok::<_, ()>(())
        };
        memory.for_each_piece(&mut note).unwrap();
        assert_eq!(pieces, [(3 * PAGE_SIZE, b'x')]);
    }
}
