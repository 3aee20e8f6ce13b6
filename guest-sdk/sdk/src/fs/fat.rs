//! FAT12, FAT16 and FAT32 with long names, with the crate `starry-fatfs`.
//!
//! The crate is a version of rust-fatfs that builds without `std` on a stable compiler. It reads folders and the table.
//! The data of files is not read through it, which would be one request per cluster. It is read directly from the extents
//! that the crate reports.

use super::layout::{Laid, Layout, Span};
use super::oem::Cp437;
use super::{Entry, Error, Metadata, components};
use crate::block::{Disk, DiskReader};
use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;
use fatfs::{DefaultTimeProvider, Dir, DirEntry, FatType, FsOptions, IoBase, IoError};
use hv_abi::Errno;

type Inner = fatfs::FileSystem<FatStorage, DefaultTimeProvider, Cp437>;
type Folder<'a> = Dir<'a, FatStorage, DefaultTimeProvider, Cp437>;
type Found<'a> = DirEntry<'a, FatStorage, DefaultTimeProvider, Cp437>;

#[derive(Clone)]
pub(super) struct Fat {
    inner: Rc<Inner>,
    disk: Disk,
    recent: Rc<RefCell<Recent>>,
}

/// Files by the path that was asked for. The last one is first.
type Recent = VecDeque<(String, Rc<Opened>)>;

/// How many files have their extents cached, and the most extents that each may have. Finding them out requires reading
/// the table for the whole file.
const RECENT: usize = 16;
const RECENT_RUNS: usize = 1024;

/// The disk, as the crate requires it.
pub(super) struct FatStorage {
    reader: DiskReader,
    /// The beginning of the boot sector.
    head: BootHead,
}

/// The boot sector up to the count of sectors in 32 bits, and the length of a table on FAT32.
type BootHead = [u8; BOOT_HEAD];
const BOOT_HEAD: usize = 40;
const SECTORS_16: Range<usize> = 19..21;
const SECTORS_32: Range<usize> = 32..36;

/// Fewest clusters of a FAT32 volume, by its specification.
const FAT32_CLUSTERS: u32 = 65_525;

/// Makes a FAT32 volume that is smaller than the specification allows appear larger to the crate.
///
/// The crate detects FAT32 by the number of clusters, and refuses a volume whose boot sector contradicts that. Linux uses
/// the boot sector, and `mkfs.fat -F 32` makes such volumes. For read-only use the number has no other purpose: a cluster
/// beyond the disk cannot be read.
fn enlarge_small_fat32(head: &mut BootHead) {
    let word = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let long = |at: usize| word(at) | word(at + 2) << 16;
    let (cluster, tables, tables_16) = (u32::from(head[13]), u32::from(head[16]), word(22));
    let sectors = match word(SECTORS_16.start) {
        0 => long(SECTORS_32.start),
        sectors => sectors,
    };
    let before = tables.checked_mul(long(36)).and_then(|tables| tables.checked_add(word(14)));
    let least = before.and_then(|before| before.checked_add(FAT32_CLUSTERS.checked_mul(cluster)?));
    if let Some(least) = least
        && tables_16 == 0
        && sectors != 0
    {
        head[SECTORS_16].fill(0);
        head[SECTORS_32].copy_from_slice(&sectors.max(least).to_le_bytes());
    }
}

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

impl IoBase for FatStorage {
    type Error = StorageError;
}

impl fatfs::Read for FatStorage {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let at = fatfs::Seek::seek(self, fatfs::SeekFrom::Current(0))?;
        let count =
            embedded_io::Read::read(&mut self.reader, buffer).map_err(|error| StorageError(error.0))?;
        let head = usize::try_from(at).ok().and_then(|at| self.head.get(at..));
        for (byte, told) in buffer[..count].iter_mut().zip(head.unwrap_or_default()) {
            *byte = *told;
        }
        Ok(count)
    }
}

impl fatfs::Seek for FatStorage {
    fn seek(&mut self, to: fatfs::SeekFrom) -> Result<u64, StorageError> {
        let to = match to {
            fatfs::SeekFrom::Start(offset) => embedded_io::SeekFrom::Start(offset),
            fatfs::SeekFrom::End(offset) => embedded_io::SeekFrom::End(offset),
            fatfs::SeekFrom::Current(offset) => embedded_io::SeekFrom::Current(offset),
        };
        embedded_io::Seek::seek(&mut self.reader, to).map_err(|error| StorageError(error.0))
    }
}

/// The crate requires a storage that can be written. It does not write as long as nothing is created, changed or removed.
impl fatfs::Write for FatStorage {
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
    // Days by the Gregorian calendar, with years that start in March, so that the leap day is the last day of a year.
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
    pub(super) fn open(mut reader: DiskReader) -> Result<Fat, Error> {
        let disk = reader.disk();
        let mut head = [0; BOOT_HEAD];
        reader.read_exact_at(0, &mut head)?;
        enlarge_small_fat32(&mut head);
        let options = FsOptions::new().strict(false).oem_cp_converter(Cp437);
        match Inner::new(FatStorage { reader, head }, options) {
            Ok(inner) => Ok(Fat { inner: Rc::new(inner), disk, recent: Rc::default() }),
            // The crate reports a boot sector that is not FAT's as corrupt.
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

    pub(super) fn open_file(&self, path: &str) -> Result<FatFile, Error> {
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
