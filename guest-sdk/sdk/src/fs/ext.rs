//! ext2, ext3 and ext4, with the crate `hv-guest-ext`.

use super::file::Source;
use super::layout::{Laid, Layout, Span};
use super::tree::{Tree, components};
use super::{Entry, Error, Metadata, OpenOptions};
use crate::block::{Disk, DiskReader};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use hv_abi::Errno;
use hv_guest_ext::{FileSystem, Inode, copy_inline};

pub(super) struct Ext {
    system: Rc<FileSystem<DiskReader>>,
    disk: Disk,
    label: Option<String>,
}

/// Where the superblock has the label, from the disk's beginning, and its length.
const LABEL_AT: u64 = 1024 + 120;
const LABEL_LEN: usize = 16;

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
    pub(super) fn open(mut reader: DiskReader) -> Result<Ext, Error> {
        let disk = reader.disk();
        let mut label = [0; LABEL_LEN];
        reader.read_exact_at(LABEL_AT, &mut label)?;
        let end = label.iter().position(|byte| *byte == 0).unwrap_or(LABEL_LEN);
        let label = (end > 0).then(|| String::from_utf8_lossy(&label[..end]).into_owned());
        Ok(Ext { system: Rc::new(FileSystem::open(reader)?), disk, label })
    }

    fn find(&self, path: &str) -> Result<Inode, Error> {
        components(path).map(drop)?;
        Ok(self.system.find_path(path)?)
    }
}

impl Tree for Ext {
    fn kind(&self) -> &'static str {
        "ext2/3/4"
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        Ok(metadata(&self.find(path)?))
    }

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
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

    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        if options.writes() {
            return Err(Error::ReadOnly);
        }
        components(path).map(drop)?;
        let inode = self.system.open_file(path)?;
        let metadata = metadata(&inode);
        let file = match self.system.inline(&inode) {
            Some(bytes) => ExtFile::Inline(metadata, bytes),
            None => {
                let last = Cell::new((0, Span { at: None, len: 0 }));
                let map = Map { system: self.system.clone(), inode, last };
                ExtFile::Laid(Laid::new(self.disk, metadata, map))
            }
        };
        Ok(Source::Ext(Box::new(file)))
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
