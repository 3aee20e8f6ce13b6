//! FAT12, FAT16 and FAT32 with long names, by the crate `starry-fatfs`.
//!
//! The crate is rust-fatfs in the state that builds without `std` on a stable
//! compiler. It reads folders and the table; the data of files does not go
//! through it, which would be one request per cluster, but is read straight
//! from the extents that it tells.

use super::{Entry, Error, Metadata, components};
use crate::block::{Disk, DiskReader};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use fatfs::{DefaultTimeProvider, Dir, DirEntry, FatType, FsOptions, IoBase, IoError, LossyOemCpConverter};
use hv_abi::Errno;

type Inner = fatfs::FileSystem<Storage, DefaultTimeProvider, LossyOemCpConverter>;
type Folder<'a> = Dir<'a, Storage, DefaultTimeProvider, LossyOemCpConverter>;
type Found<'a> = DirEntry<'a, Storage, DefaultTimeProvider, LossyOemCpConverter>;

#[derive(Clone)]
pub(super) struct Fat {
    inner: Rc<Inner>,
    disk: Disk,
    recent: Rc<RefCell<Recent>>,
}

/// Files by the path they were asked for, the last one first.
type Recent = VecDeque<(String, Rc<Opened>)>;

/// Files whose place on the disk is remembered, and the most runs that each
/// may have: finding them out means to read the table along the whole file.
const RECENT: usize = 16;
const RECENT_RUNS: usize = 1024;

/// The disk as the crate wants it.
pub(super) struct Storage(DiskReader);

#[derive(Debug)]
pub(super) struct StorageError(Errno);

impl IoError for StorageError {
    fn is_interrupted(&self) -> bool {
        false
    }
    fn new_unexpected_eof_error() -> Self {
        StorageError(Errno::Invalid)
    }
    fn new_write_zero_error() -> Self {
        StorageError(Errno::ReadOnly)
    }
}

impl IoBase for Storage {
    type Error = StorageError;
}

impl fatfs::Read for Storage {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StorageError> {
        embedded_io::Read::read(&mut self.0, buffer).map_err(|error| StorageError(error.0))
    }
}

impl fatfs::Seek for Storage {
    fn seek(&mut self, to: fatfs::SeekFrom) -> Result<u64, StorageError> {
        let to = match to {
            fatfs::SeekFrom::Start(offset) => embedded_io::SeekFrom::Start(offset),
            fatfs::SeekFrom::End(offset) => embedded_io::SeekFrom::End(offset),
            fatfs::SeekFrom::Current(offset) => embedded_io::SeekFrom::Current(offset),
        };
        embedded_io::Seek::seek(&mut self.0, to).map_err(|error| StorageError(error.0))
    }
}

/// The crate asks for a storage that can be written, and does not write as
/// long as nothing is created, changed or removed.
impl fatfs::Write for Storage {
    fn write(&mut self, _: &[u8]) -> Result<usize, StorageError> {
        Err(StorageError(Errno::ReadOnly))
    }
    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}

impl From<fatfs::Error<StorageError>> for Error {
    fn from(error: fatfs::Error<StorageError>) -> Self {
        match error {
            fatfs::Error::Io(StorageError(errno)) => Error::Disk(errno),
            fatfs::Error::NotFound | fatfs::Error::InvalidFileNameLength => Error::NotFound,
            fatfs::Error::UnsupportedFileNameCharacter => Error::NotFound,
            _ => Error::Corrupt,
        }
    }
}

fn metadata(entry: &Found<'_>) -> Metadata {
    Metadata { len: entry.len(), is_dir: entry.is_dir(), modified: seconds(&entry.modified()) }
}

/// Seconds since 1970-01-01 of a date and time.
fn seconds(time: &fatfs::DateTime) -> i64 {
    // Days by the Gregorian calendar, with years that start in March, so that
    // the leap day is the last of a year.
    let (year, month) = (i64::from(time.date.year), i64::from(time.date.month));
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + i64::from(time.date.day) - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    let (hour, minute) = (i64::from(time.time.hour), i64::from(time.time.min));
    days * 86400 + hour * 3600 + minute * 60 + i64::from(time.time.sec)
}

/// What a path leads to.
enum Place<'a> {
    Root(Folder<'a>),
    Entry(Found<'a>),
}

impl Fat {
    pub(super) fn open(reader: DiskReader) -> Result<Fat, Error> {
        let disk = reader.disk();
        let options = FsOptions::new().strict(false);
        match Inner::new(Storage(reader), options) {
            Ok(inner) => Ok(Fat { inner: Rc::new(inner), disk, recent: Rc::default() }),
            // What is no boot sector of FAT is damaged in its eyes.
            Err(fatfs::Error::CorruptedFileSystem) => Err(Error::Unsupported),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.inner.fat_type() {
            FatType::Fat12 => "FAT12",
            FatType::Fat16 => "FAT16",
            FatType::Fat32 => "FAT32",
        }
    }

    fn find(&self, path: &str) -> Result<Place<'_>, Error> {
        let mut place = Place::Root(self.inner.root_dir());
        for part in components(path)? {
            let folder = match place {
                Place::Root(root) => root,
                Place::Entry(entry) if entry.is_dir() => entry.to_dir(),
                Place::Entry(_) => return Err(Error::NotFound),
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

    pub(super) fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        match self.find(path)? {
            Place::Root(_) => Ok(Metadata { len: 0, is_dir: true, modified: 0 }),
            Place::Entry(entry) => Ok(metadata(&entry)),
        }
    }

    pub(super) fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
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

    pub(super) fn open_file(&self, path: &str) -> Result<File, Error> {
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
        Ok(File { disk: self.disk, opened })
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
            // A chain that goes on beyond the file's end may go on for ever.
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

/// A run of a file: its bytes from `from` on lie at `at` on the disk, up to
/// the start of the next run.
struct Extent {
    from: u64,
    at: u64,
}

/// Where a file lies.
struct Opened {
    metadata: Metadata,
    extents: Vec<Extent>,
}

pub(super) struct File {
    disk: Disk,
    opened: Rc<Opened>,
}

/// A piece of a read, within one run.
struct Piece {
    /// The sectors to read …
    sector: u64,
    /// … and what of them was asked for.
    skip: usize,
    len: usize,
}

impl File {
    pub(super) fn metadata(&self) -> Metadata {
        self.opened.metadata
    }

    /// What to read next, for `len` bytes from `offset` on.
    fn piece(&self, offset: u64, len: usize) -> Piece {
        let extents = &self.opened.extents;
        let index = extents.partition_point(|extent| extent.from <= offset) - 1;
        let extent = &extents[index];
        let end = extents.get(index + 1).map_or(u64::MAX, |next| next.from);
        let at = extent.at + (offset - extent.from);
        let sector_size = self.disk.sector_size() as u64;
        let len = usize::try_from(end - offset).map_or(len, |left| left.min(len));
        Piece { sector: at / sector_size, skip: (at % sector_size) as usize, len }
    }

    /// How many bytes of the piece can be read in place: whole sectors.
    fn in_place(&self, piece: &Piece) -> usize {
        let sector_size = self.disk.sector_size();
        if piece.skip == 0 { piece.len - piece.len % sector_size } else { 0 }
    }

    /// Fills the buffer, all of which lies within the file.
    pub(super) async fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let piece = self.piece(offset, buffer.len());
            let mut done = self.in_place(&piece);
            if done > 0 {
                self.disk.read(piece.sector, &mut buffer[..done]).await?;
            } else {
                let mut sector = vec![0; self.disk.sector_size()];
                self.disk.read(piece.sector, &mut sector).await?;
                done = copy_out(&sector, &piece, buffer);
            }
            offset += done as u64;
            buffer = &mut buffer[done..];
        }
        Ok(())
    }

    /// As `read`, without an executor.
    pub(super) fn read_blocking(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            let piece = self.piece(offset, buffer.len());
            let mut done = self.in_place(&piece);
            if done > 0 {
                self.disk.read_blocking(piece.sector, &mut buffer[..done])?;
            } else {
                let mut sector = vec![0; self.disk.sector_size()];
                self.disk.read_blocking(piece.sector, &mut sector)?;
                done = copy_out(&sector, &piece, buffer);
            }
            offset += done as u64;
            buffer = &mut buffer[done..];
        }
        Ok(())
    }
}

/// Copies what was asked for of one sector.
fn copy_out(sector: &[u8], piece: &Piece, buffer: &mut [u8]) -> usize {
    let count = piece.len.min(sector.len() - piece.skip);
    buffer[..count].copy_from_slice(&sector[piece.skip..][..count]);
    count
}
