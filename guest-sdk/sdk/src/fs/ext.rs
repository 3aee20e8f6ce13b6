//! ext2, ext3 and ext4, with the crate `hv-guest-ext`.

use super::layout::{Laid, Layout, Span};
use super::{Entry, Error, Metadata, components};
use crate::block::{Disk, DiskReader};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use hv_abi::Errno;
use hv_guest_ext::{FileSystem, Inode, copy_inline};

#[derive(Clone)]
pub(super) struct Ext {
    system: Rc<FileSystem<DiskReader>>,
    disk: Disk,
}

impl hv_guest_ext::Disk for DiskReader {
    type Error = Errno;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_exact_at(offset, buffer)
    }
}

impl From<hv_guest_ext::Error<Errno>> for Error {
    fn from(error: hv_guest_ext::Error<Errno>) -> Self {
        use hv_guest_ext::Error as Ext;
        match error {
            Ext::NotFound | Ext::Special => Error::NotFound,
            Ext::IsADirectory => Error::IsAFolder,
            Ext::NotADirectory => Error::NotAFolder,
            Ext::Feature(name) => Error::Feature(name),
            Ext::Damaged(_) => Error::Corrupt,
            Ext::Disk(errno) => Error::Disk(errno),
        }
    }
}

fn metadata(inode: &Inode) -> Metadata {
    Metadata { len: inode.size(), is_dir: inode.is_directory(), modified: inode.modified() }
}

impl Ext {
    pub(super) fn open(reader: DiskReader) -> Result<Ext, Error> {
        let disk = reader.disk();
        Ok(Ext { system: Rc::new(FileSystem::open(reader)?), disk })
    }

    fn find(&self, path: &str) -> Result<Inode, Error> {
        components(path).map(drop)?;
        Ok(self.system.find_path(path)?)
    }

    pub(super) fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        Ok(metadata(&self.find(path)?))
    }

    pub(super) fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let folder = self.find(path)?;
        let mut entries = Vec::new();
        for entry in self.system.entries(&folder)? {
            // A name that is not valid UTF-8 cannot be looked up here.
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            // For a symbolic link, its target. A dangling link is left out.
            match self.system.follow(path, entry.inode) {
                Ok(found) => entries.push(Entry { name, metadata: metadata(&found) }),
                Err(hv_guest_ext::Error::NotFound | hv_guest_ext::Error::NotADirectory) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    pub(super) fn open_file(&self, path: &str) -> Result<ExtFile, Error> {
        components(path).map(drop)?;
        let inode = self.system.open_file(path)?;
        let metadata = metadata(&inode);
        if let Some(bytes) = self.system.inline(&inode) {
            return Ok(ExtFile::Inline(metadata, bytes));
        }
        let map = Map { system: self.system.clone(), inode, last: Cell::new((0, Span { at: None, len: 0 })) };
        Ok(ExtFile::Laid(Laid::new(self.disk, metadata, map)))
    }
}

/// Where the data of a file is, from its inode.
pub(super) struct Map {
    system: Rc<FileSystem<DiskReader>>,
    inode: Inode,
    /// The last result of a lookup, and its offset: most reads continue there.
    last: Cell<(u64, Span)>,
}

impl Layout for Map {
    fn span(&self, offset: u64) -> Result<Span, Error> {
        let (from, span) = self.last.get();
        let (from, span) = if (from..from.saturating_add(span.len)).contains(&offset) {
            (from, span)
        } else {
            let size = self.system.block_size();
            let run = self.system.map(&self.inode, offset / size)?;
            let span = Span { at: run.block.map(|block| block * size), len: run.count.saturating_mul(size) };
            let found = (offset / size * size, span);
            self.last.set(found);
            found
        };
        let skip = offset - from;
        Ok(Span { at: span.at.map(|at| at + skip), len: span.len - skip })
    }
}

pub(super) enum ExtFile {
    Laid(Laid<Map>),
    /// The data of a small file, stored in its inode.
    Inline(Metadata, Vec<u8>),
}

impl ExtFile {
    pub(super) fn metadata(&self) -> Metadata {
        match self {
            ExtFile::Laid(file) => file.metadata(),
            ExtFile::Inline(metadata, _) => *metadata,
        }
    }

    /// Fills the buffer. All of it must be within the file.
    pub(super) async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        match self {
            ExtFile::Laid(file) => file.read(offset, buffer).await,
            ExtFile::Inline(_, bytes) => {
                copy_inline(bytes, offset, buffer);
                Ok(())
            }
        }
    }

    /// Like `read`, without an executor.
    pub(super) fn read_blocking(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        match self {
            ExtFile::Laid(file) => file.read_blocking(offset, buffer),
            ExtFile::Inline(_, bytes) => {
                copy_inline(bytes, offset, buffer);
                Ok(())
            }
        }
    }
}
