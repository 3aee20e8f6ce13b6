//! What clones are made of: memory that is never written again.

use super::{AccessMap, GuestMemory, MapError, tail_size};
use hv_abi::{GuestAddr, PAGE_SIZE};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// No memory, no descriptor, or no right.
    #[error("cannot make a memory file of {size} bytes: {source}")]
    File {
        /// Its size.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// The memory of a snapshot, tail included, in a memory file that is sealed: no process, this one included,
/// can change or shrink it, so that a mapping of it is as safe as private memory.
#[derive(Debug)]
pub struct Template {
    file: Arc<File>,
    base: u64,
    size: u64,
    map: Arc<AccessMap>,
    view: MmapRegion,
    /// What was not a hole when it was sealed, tail included. (Reading a hole
    /// through a mapping fills it with a page of zeros.)
    data: Vec<Range<u64>>,
}

impl Template {
    /// Memory to be filled, with an access map to be given, that becomes a
    /// template by [`seal`](Self::seal).
    ///
    /// # Errors
    ///
    /// If the host refuses a memory file, or to map it.
    pub fn make(base: GuestAddr, size: u64) -> Result<GuestMemory, TemplateError> {
        of_file("hv-template", MemfdFlags::ALLOW_SEALING, base, size, tail_size(size))
    }

    /// Closes memory that [`make`](Self::make) made for all further writing.
    ///
    /// # Errors
    ///
    /// If the host refuses to seal the file, as it does while there is another writable mapping, or to map it.
    pub fn seal(memory: GuestMemory) -> Result<Template, TemplateError> {
        let GuestMemory { region, base, size, map: access, .. } = memory;
        let whole = size + tail_size(size);
        let file = region.file_offset().expect("`make` mapped a file").arc().clone();
        drop(region);
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&*file, seals)
            .map_err(|source| TemplateError::File { size, source: source.into() })?;
        let view = map(&file, whole, libc::PROT_READ, libc::MAP_PRIVATE)?;
        let data = data(&file, whole);
        Ok(Template { file, base, size, map: access, view, data })
    }

    /// Guest address of the first byte.
    pub fn base(&self) -> GuestAddr {
        GuestAddr(self.base)
    }

    /// Bytes, without the tail.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The sealed file: an offset in it is an offset in the memory of a clone.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The access map of its clones.
    pub(super) fn access(&self) -> &Arc<AccessMap> {
        &self.map
    }

    /// Copies bytes out, which costs holes no memory. Panics outside.
    ///
    /// # Errors
    ///
    /// What the host's kernel says of reading the file.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.size + tail_size(self.size));
        self.file.read_exact_at(bytes, offset)
    }

    /// Bytes of host memory that it takes, tail included.
    pub fn resident(&self) -> u64 {
        rustix::fs::fstat(&*self.file).map_or(0, |stat| stat.st_blocks as u64 * 512)
    }

    pub(super) fn map(&self, protection: i32, flags: i32) -> Result<(MmapRegion, Arc<AccessMap>), MapError> {
        let region = map(&self.file, self.size + tail_size(self.size), protection, flags)?;
        Ok((region, self.map.clone()))
    }

    /// Copies the page at `offset` to `page`, which is as long.
    pub(super) fn copy_page(&self, offset: u64, page: VolatileSlice<'_>) {
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        let next = self.data.partition_point(|range| range.end <= offset);
        if self.data.get(next).is_some_and(|range| range.start <= offset) {
            let view = self.view.get_slice(offset as usize, page.len());
            view.expect("the offset is the host's own").copy_to_volatile_slice(page);
        } else {
            page.copy_from(&ZEROS);
        }
    }

    /// The ranges within this one (offsets) that are not holes, in ascending order.
    pub(super) fn data_within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.data.partition_point(|data| data.end <= range.start);
        let within = self.data[first..].iter().take_while(move |data| data.start < range.end);
        within.map(move |data| data.start.max(range.start)..data.end.min(range.end))
    }

    /// The ranges (offsets, without the tail) that are not holes, in ascending order.
    pub(crate) fn data(&self) -> impl Iterator<Item = Range<u64>> {
        self.data.iter().map(|range| range.start..range.end.min(self.size)).filter(|range| !range.is_empty())
    }
}

/// Memory in a new memory file, mapped so that others who map the file see the same.
pub(super) fn of_file(
    name: &str,
    flags: MemfdFlags,
    base: GuestAddr,
    size: u64,
    tail: u64,
) -> Result<GuestMemory, TemplateError> {
    assert!(size.is_multiple_of(PAGE_SIZE) && base.0.is_multiple_of(PAGE_SIZE));
    let whole = size + tail;
    let failed = |source: rustix::io::Errno| TemplateError::File { size, source: source.into() };
    let file: OwnedFd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | flags).map_err(failed)?;
    rustix::fs::ftruncate(&file, whole).map_err(failed)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let region = map(&Arc::new(file.into()), whole, protection, libc::MAP_SHARED)?;
    Ok(GuestMemory {
        region,
        skip: 0,
        base: base.0,
        size,
        map: Arc::default(),
        template: None,
        shared: false,
        demand: None,
    })
}

pub(super) fn data(file: &File, size: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut from = 0;
    while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(from)) {
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(size);
        ranges.push(start..end);
        from = end;
    }
    ranges
}

pub(super) fn map(file: &Arc<File>, size: u64, protection: i32, flags: i32) -> Result<MmapRegion, MapError> {
    let file = FileOffset::from_arc(file.clone(), 0);
    MmapRegion::build(Some(file), size as usize, protection, flags)
        .map_err(|source| MapError { size, source })
}
