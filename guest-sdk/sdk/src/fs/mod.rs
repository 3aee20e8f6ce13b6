//! Files, read-only: on a disk with FAT12, FAT16 or FAT32 (long names), or ext2 to ext4, and in a share, a folder of the host.
//!
//! ```ignore
//! let files = fs::open_root(block::disk(0).ok_or("no disk")?)?;
//! for entry in files.read_dir("/docs")? {
//!     println!("{} {}", entry.name, entry.metadata.len);
//! }
//! let mut file = files.open("/docs/index.html")?;
//! let mut bytes = vec![0; file.len() as usize];
//! file.read_exact_at(0, &mut bytes).await?;
//! ```
//!
//! [`open_share`] is the same for a share. What changes there meanwhile is seen: a file that is opened, a folder that is read and metadata are
//! what the host has at that moment, and so are the bytes of an open file. Its length stays what it was when it was opened.
//!
//! Paths are separated by `/` and start at the root, with or without a leading `/`. A path with `..` is not found. Names
//! are compared by the rules of the file system: FAT ignores the case of letters.
//!
//! # What blocks
//!
//! The data of a file is read directly into the buffer, asynchronously. Its place on the disk is looked up when the file
//! is opened, so that errors in it are reported then. Everything else (folders, opening, on ext4 the block maps) goes
//! through a small cache, or to the host, and blocks other tasks meanwhile.
#![forbid(unsafe_code)]

mod ext;
mod fat;
mod foreign;
mod layout;
mod oem;
mod shared;

use crate::block::{Disk, DiskReader};
use crate::share::Share;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use hv_abi::Errno;

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such file or folder.
    NotFound,
    /// It is a folder, and a file was asked for.
    IsAFolder,
    /// It is a file, and a folder was asked for.
    NotAFolder,
    /// The disk contains nothing that is known here.
    Unsupported,
    /// The disk contains this: a file system other than FAT and ext2 to ext4, or a partition table.
    Foreign(&'static str),
    /// The file system, or the file, uses this feature, which is not supported here. The name is that of `mke2fs -O`.
    Feature(&'static str),
    /// The metadata of the file system is invalid.
    Corrupt,
    /// The disk failed.
    Disk(Errno),
    /// The host says this of a file in a share.
    Host(Errno),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Error::NotFound => "no such file or folder",
            Error::IsAFolder => "is a folder",
            Error::NotAFolder => "is not a folder",
            Error::Unsupported => "no file system that is known here (FAT, ext2, ext3, ext4)",
            Error::Corrupt => "the file system is damaged",
            Error::Foreign(what) => {
                return write!(
                    f,
                    "holds {what}, which is not read here (known are FAT, ext2, ext3 and ext4, which fill the disk)"
                );
            }
            Error::Feature(name) => return write!(f, "the feature {name} of ext4 is not read here"),
            Error::Disk(errno) => return write!(f, "disk: {errno}"),
            Error::Host(errno) => return write!(f, "host: {errno}"),
        })
    }
}

impl core::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Disk(errno)
    }
}

/// Metadata of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes of a file. Meaningless for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// When it was last changed, in seconds since 1970-01-01 UTC. FAT has local time of an unknown time zone, which is taken as UTC.
    pub modified: i64,
}

/// A file or folder within a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, as it is stored on the disk.
    pub name: String,
    /// Its metadata.
    pub metadata: Metadata,
}

/// A file system. Copies are handles to the same one.
#[derive(Clone)]
pub struct FileSystem(Kind);

#[derive(Clone)]
enum Kind {
    Fat(fat::Fat),
    Ext(ext::Ext),
    Share(shared::Shared),
}

/// The files of a share.
pub fn open_share(share: Share) -> FileSystem {
    FileSystem(Kind::Share(shared::Shared(share)))
}

/// Opens the file system that fills a disk.
///
/// # Errors
///
/// [`Error::Unsupported`] or [`Error::Foreign`] if there is no known file system; [`Error::Feature`], [`Error::Corrupt`], [`Error::Disk`].
pub fn open_root(disk: Disk) -> Result<FileSystem, Error> {
    const EXT_MAGIC_AT: u64 = 1024 + 56;
    const EXT_MAGIC: [u8; 2] = [0x53, 0xef];
    let mut reader = DiskReader::new(disk);
    let mut magic = [0; 2];
    if disk.size() > EXT_MAGIC_AT {
        reader.read_exact_at(EXT_MAGIC_AT, &mut magic)?;
    }
    Ok(FileSystem(match magic {
        EXT_MAGIC => Kind::Ext(ext::Ext::open(reader)?),
        _ => match fat::Fat::open(reader) {
            Ok(fat) => Kind::Fat(fat),
            Err(Error::Unsupported) => return Err(foreign::name(disk)?),
            Err(error) => return Err(error),
        },
    }))
}

/// The components of a path; [`Error::NotFound`] for one with `..`.
fn components(path: &str) -> Result<impl Iterator<Item = &str>, Error> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    if parts.clone().any(|part| part == "..") {
        return Err(Error::NotFound);
    }
    Ok(parts)
}

impl FileSystem {
    /// Its kind, for display, such as "FAT32".
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::Fat(fat) => fat.kind(),
            Kind::Ext(_) => "ext2/3/4",
            Kind::Share(_) => "share",
        }
    }

    /// Metadata of a file or folder. Symbolic links are followed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the path does not exist, [`Error::NotAFolder`] if it leads through a file, and the errors
    /// of a disk or a file system that cannot be read: [`Error::Feature`], [`Error::Corrupt`], [`Error::Disk`], [`Error::Host`].
    pub fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        match &self.0 {
            Kind::Fat(fat) => fat.metadata(path),
            Kind::Ext(ext) => ext.metadata(path),
            Kind::Share(share) => share.metadata(path),
        }
    }

    /// The entries of a folder, without itself and its parent, in the order on the disk.
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata); [`Error::NotAFolder`] also for a file.
    pub fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        match &self.0 {
            Kind::Fat(fat) => fat.read_dir(path),
            Kind::Ext(ext) => ext.read_dir(path),
            Kind::Share(share) => share.read_dir(path),
        }
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata); [`Error::IsAFolder`] for a folder.
    pub fn open(&self, path: &str) -> Result<File, Error> {
        Ok(match &self.0 {
            Kind::Fat(fat) => File::new(fat.open_file(path)?.into()),
            Kind::Ext(ext) => File::new(ext.open_file(path)?.into()),
            Kind::Share(share) => File::new(share.open_file(path)?.into()),
        })
    }

    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut file = self.open(path)?;
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes).await?;
        Ok(bytes)
    }
}

enum Source {
    Fat(fat::FatFile),
    Ext(Box<ext::ExtFile>),
    Share(shared::SharedFile),
}

impl From<shared::SharedFile> for Source {
    fn from(file: shared::SharedFile) -> Self {
        Source::Share(file)
    }
}

impl From<fat::FatFile> for Source {
    fn from(file: fat::FatFile) -> Self {
        Source::Fat(file)
    }
}

impl From<ext::ExtFile> for Source {
    fn from(file: ext::ExtFile) -> Self {
        Source::Ext(Box::new(file))
    }
}

/// An open file.
pub struct File {
    source: Source,
    position: u64,
}

impl File {
    fn new(source: Source) -> Self {
        File { source, position: 0 }
    }

    /// The file's metadata.
    pub fn metadata(&self) -> Metadata {
        match &self.source {
            Source::Fat(file) => file.metadata(),
            Source::Ext(file) => file.metadata(),
            Source::Share(file) => file.metadata(),
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.metadata().len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of a buffer can be filled from here on.
    fn clip(&self, offset: u64, len: usize) -> usize {
        usize::try_from(self.len().saturating_sub(offset)).map_or(len, |left| left.min(len))
    }

    /// Reads from `offset` on, until the buffer is full or the file ends.
    /// Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`] or [`Error::Host`] if the disk or the host failed, [`Error::Corrupt`] if the file's place on the disk is invalid.
    pub async fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.clip(offset, buffer.len());
        let buffer = &mut buffer[..count];
        match &mut self.source {
            Source::Fat(file) => file.read(offset, buffer).await?,
            Source::Ext(file) => file.read(offset, buffer).await?,
            Source::Share(file) => return file.read(offset, buffer).await,
        }
        Ok(count)
    }

    /// Like [`read_at`](Self::read_at), for code that is not async.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    pub fn read_at_blocking(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.clip(offset, buffer.len());
        let buffer = &mut buffer[..count];
        match &mut self.source {
            Source::Fat(file) => file.read_blocking(offset, buffer)?,
            Source::Ext(file) => file.read_blocking(offset, buffer)?,
            Source::Share(file) => return file.read_blocking(offset, buffer),
        }
        Ok(count)
    }

    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at), and [`Error::Corrupt`] if the file ends before the buffer is full.
    pub async fn read_exact_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let count = self.read_at(offset, buffer).await?;
        if count == buffer.len() { Ok(()) } else { Err(Error::Corrupt) }
    }

    /// Continues to read where the last read ended. Returns 0 bytes at the end of the file.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.read_at(self.position, buffer).await?;
        self.position += count as u64;
        Ok(count)
    }

    /// Makes the next [`read`](Self::read) start at this offset.
    pub fn seek(&mut self, offset: u64) {
        self.position = offset;
    }
}
