//! FAT12, FAT16 and FAT32 with long names, with the crate `starry-fatfs`.
//!
//! The crate is a version of rust-fatfs that builds without `std` on a stable compiler. It reads folders and the table, and writes.
//! The data of files that are only read is not read through it, which would be one request per cluster. It is read directly from
//! the extents that the crate reports.
#![forbid(unsafe_code)]

mod oem;
mod storage;
mod time;
mod written;

use super::file::Source;
use super::layout::{Laid, Layout, Span};
use super::tree::{Tree, components, relative, split};
use super::{Entry, Error, Metadata, OpenOptions};
use crate::block::{Disk, DiskReader};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use fatfs::{Dir, DirEntry, FatType, FsOptions};
use hv_abi::Errno;
use oem::Cp437;
use storage::{FatStorage, StorageError};
use time::{WallClock, seconds};

pub(super) use written::WrittenFile;

type Inner = fatfs::FileSystem<FatStorage, WallClock, Cp437>;
type Folder<'a> = Dir<'a, FatStorage, WallClock, Cp437>;
type Found<'a> = DirEntry<'a, FatStorage, WallClock, Cp437>;

#[derive(Clone)]
pub(super) struct Fat {
    inner: Rc<Inner>,
    disk: Disk,
    is_writable: bool,
    recent: Rc<RefCell<Recent>>,
}

/// Files by the path that was asked for. The last one is first.
type Recent = VecDeque<(String, Rc<Opened>)>;

/// How many files have their extents cached, and the most extents that each may have. Finding them out requires reading
/// the table for the whole file.
const RECENT: usize = 16;
const RECENT_RUNS: usize = 1024;

impl From<fatfs::Error<StorageError>> for Error {
    fn from(error: fatfs::Error<StorageError>) -> Self {
        match error {
            fatfs::Error::Io(StorageError(Errno::ReadOnly)) => Error::ReadOnly,
            fatfs::Error::Io(StorageError(errno)) => Error::Disk(errno),
            fatfs::Error::NotFound => Error::NotFound,
            fatfs::Error::InvalidFileNameLength | fatfs::Error::UnsupportedFileNameCharacter => {
                Error::Invalid
            }
            fatfs::Error::AlreadyExists => Error::Exists,
            fatfs::Error::DirectoryIsNotEmpty => Error::NotEmpty,
            fatfs::Error::NotEnoughSpace => Error::NoSpace,
            _ => Error::Corrupt,
        }
    }
}

fn metadata(entry: &Found<'_>) -> Metadata {
    Metadata { len: entry.len(), is_dir: entry.is_dir(), modified: seconds(&entry.modified()) }
}

/// What a path leads to.
enum Place<'a> {
    Root(Folder<'a>),
    Entry(Found<'a>),
}

impl Fat {
    pub(super) fn open(reader: DiskReader) -> Result<Fat, Error> {
        let disk = reader.disk();
        let storage = FatStorage::new(reader)?;
        let is_writable = storage.is_writable();
        let options = FsOptions::new().strict(false).oem_cp_converter(Cp437).time_provider(WallClock);
        match Inner::new(storage, options) {
            Ok(inner) => Ok(Fat { inner: Rc::new(inner), disk, is_writable, recent: Rc::default() }),
            // The crate reports a boot sector that is not FAT's as corrupt.
            Err(fatfs::Error::CorruptedFileSystem) => Err(Error::Unsupported),
            Err(error) => Err(error.into()),
        }
    }

    fn find(&self, path: &str) -> Result<Place<'_>, Error> {
        let mut place = Place::Root(self.inner.root_dir());
        for part in components(path)? {
            let folder = match place {
                Place::Root(root) => root,
                Place::Entry(entry) if entry.is_dir() => entry.to_dir(),
                Place::Entry(_) => return Err(Error::NotAFolder),
            };
            let mut found = None;
            for entry in folder.iter() {
                let entry = entry?;
                if entry.eq_name(part) {
                    found = Some(entry);
                    break;
                }
            }
            place = Place::Entry(found.ok_or(Error::NotFound)?);
        }
        Ok(place)
    }

    fn open_read(&self, path: &str) -> Result<FatFile, Error> {
        let mut recent = self.recent.borrow_mut();
        let known = recent.iter().position(|(name, _)| name == path).and_then(|index| recent.remove(index));
        let (name, opened) = match known {
            Some(known) => known,
            None => (path.to_owned(), Rc::new(self.look_up(path)?)),
        };
        if opened.extents.len() <= RECENT_RUNS {
            recent.truncate(RECENT - 1);
            recent.push_front((name, opened.clone()));
        }
        Ok(Laid::new(self.disk, opened.metadata, opened))
    }

    /// Something is about to be changed: what is known of files may no longer hold.
    fn change(&self) -> Result<(), Error> {
        self.recent.borrow_mut().clear();
        if self.is_writable { Ok(()) } else { Err(Error::ReadOnly) }
    }

    /// Removes what has a name, if it is a folder or a file as asked for.
    fn remove(&self, path: &str, as_dir: bool) -> Result<(), Error> {
        self.change()?;
        match self.find(path)? {
            Place::Root(_) => return Err(Error::Busy),
            Place::Entry(entry) if entry.is_dir() && !as_dir => return Err(Error::IsAFolder),
            Place::Entry(entry) if !entry.is_dir() && as_dir => return Err(Error::NotAFolder),
            Place::Entry(_) => {}
        }
        Ok(self.inner.root_dir().remove(&relative(path)?)?)
    }

    fn look_up(&self, path: &str) -> Result<Opened, Error> {
        let Place::Entry(entry) = self.find(path)? else { return Err(Error::IsAFolder) };
        if entry.is_dir() {
            return Err(Error::IsAFolder);
        }
        let metadata = metadata(&entry);
        let mut extents: Vec<Extent> = Vec::new();
        let mut covered = 0;
        for extent in entry.to_file().extents() {
            let extent = extent?;
            // A chain that continues beyond the file's end may be endless.
            if covered >= metadata.len {
                break;
            }
            match extents.last_mut() {
                Some(last) if last.at + (covered - last.from) == extent.offset => {}
                _ => extents.push(Extent { from: covered, at: extent.offset }),
            }
            covered += u64::from(extent.size);
        }
        if covered < metadata.len {
            return Err(Error::Corrupt);
        }
        Ok(Opened { metadata, extents })
    }
}

impl Tree for Fat {
    fn kind(&self) -> &'static str {
        match self.inner.fat_type() {
            FatType::Fat12 => "FAT12",
            FatType::Fat16 => "FAT16",
            FatType::Fat32 => "FAT32",
        }
    }

    fn label(&self) -> Option<String> {
        // The root folder has it, and the boot sector a copy that may be old.
        let label = self.inner.read_volume_label_from_root_dir().ok().flatten();
        let label = label.unwrap_or_else(|| self.inner.volume_label());
        Some(label.trim_end().to_owned()).filter(|label| !label.is_empty() && label != "NO NAME")
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        match self.find(path)? {
            Place::Root(_) => Ok(Metadata { len: 0, is_dir: true, modified: 0 }),
            Place::Entry(entry) => Ok(metadata(&entry)),
        }
    }

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let folder = match self.find(path)? {
            Place::Root(root) => root,
            Place::Entry(entry) if entry.is_dir() => entry.to_dir(),
            Place::Entry(_) => return Err(Error::NotAFolder),
        };
        let mut entries = Vec::new();
        for entry in folder.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name != "." && name != ".." {
                entries.push(Entry { name, metadata: metadata(&entry) });
            }
        }
        Ok(entries)
    }

    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        if !options.writes() {
            return Ok(Source::Fat(self.open_read(path)?));
        }
        self.change()?;
        match self.find(path) {
            Ok(_) if options.create_new => return Err(Error::Exists),
            Ok(Place::Entry(entry)) if !entry.is_dir() => {}
            Ok(_) => return Err(Error::IsAFolder),
            Err(Error::NotFound) if options.makes() => {
                self.inner.root_dir().create_file(&relative(path)?)?;
            }
            Err(error) => return Err(error),
        }
        let mut file = WrittenFile::new(self.clone(), relative(path)?)?;
        if options.truncate {
            file.set_len(0)?;
        }
        Ok(Source::FatWritten(file))
    }

    fn create_dir(&self, path: &str) -> Result<(), Error> {
        self.change()?;
        if self.find(path).is_ok() {
            return Err(Error::Exists);
        }
        self.inner.root_dir().create_dir(&relative(path)?)?;
        Ok(())
    }

    fn remove_file(&self, path: &str) -> Result<(), Error> {
        self.remove(path, false)
    }

    fn remove_dir(&self, path: &str) -> Result<(), Error> {
        self.remove(path, true)
    }

    /// FAT has no way to replace a name in one step: what has the new name is removed first.
    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.change()?;
        let (old_folder, _) = split(from)?;
        let (folder, _) = split(to)?;
        let is_dir = self.metadata(from)?.is_dir;
        if is_dir && !old_folder.eq_ignore_ascii_case(&folder) {
            // The crate leaves the entry `..` as it was.
            return Err(Error::Unsupported);
        }
        let (from, to) = (relative(from)?, relative(to)?);
        let root = self.inner.root_dir();
        match root.rename(&from, &root, &to) {
            Err(fatfs::Error::AlreadyExists) => {
                self.remove(&to, is_dir)?;
                Ok(root.rename(&from, &root, &to)?)
            }
            renamed => Ok(renamed?),
        }
    }

    fn sync(&self) -> Result<(), Error> {
        match self.is_writable {
            true => Ok(self.disk.flush_blocking()?),
            false => Ok(()),
        }
    }
}

/// An extent of a file: its bytes from `from` on are at `at` on the disk, up to the start of the next extent.
struct Extent {
    from: u64,
    at: u64,
}

/// Where the data of a file is.
pub(super) struct Opened {
    metadata: Metadata,
    extents: Vec<Extent>,
}

/// An open file.
pub(super) type FatFile = Laid<Rc<Opened>>;

impl Layout for Rc<Opened> {
    fn span(&self, offset: u64) -> Result<Span, Error> {
        let extents = &self.extents;
        let index = extents.partition_point(|extent| extent.from <= offset) - 1;
        let extent = &extents[index];
        let end = extents.get(index + 1).map_or(u64::MAX, |next| next.from);
        Ok(Span { at: Some(extent.at + (offset - extent.from)), len: end - offset })
    }
}
