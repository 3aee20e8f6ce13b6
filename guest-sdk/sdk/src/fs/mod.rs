//! Files: on a disk with FAT12, FAT16 or FAT32 (long names), or ext2 to ext4 (read-only), in a share, a folder of the host, and in memory. [`Mounts`]
//! puts several of them into one tree.
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
//! Names are those of `std::fs`:
//!
//! ```ignore
//! let files = fs::open_share(share::share("work").ok_or("no share")?);
//! files.create_dir_all("/out/today")?;
//! files.write("/out/today/result.txt", b"42\n").await?;
//! let mut log = files.open_with("/log", OpenOptions::new().append(true).create(true))?;
//! log.write_all(b"done\n").await?;
//! log.sync_all().await?;
//! ```
//!
//! A folder of a share can be watched:
//!
//! ```ignore
//! let mut watch = files.watch("/incoming")?;
//! loop {
//!     let change = watch.next().await?;
//!     println!("{:?} {}", change.kind, change.name);
//! }
//! ```
//!
//! What changes in a share meanwhile is seen: a file that is opened, a folder that is read and metadata are
//! what the host has at that moment, and so are the bytes of an open file. Its length stays what it was when it was opened, or written last.
//! On FAT a file that is open to be read must not be changed meanwhile by another handle.
//!
//! Paths are separated by `/` and start at the root, with or without a leading `/`. A path with `..` is not found. Names
//! are compared by the rules of the file system: FAT ignores the case of letters.
//!
//! # What blocks
//!
//! The data of a file is read directly into the buffer, asynchronously. Its place on the disk is looked up when the file
//! is opened, so that errors in it are reported then. Bytes of a share are written asynchronously, too. Everything else (folders, opening,
//! writing on FAT, on ext4 the block maps) goes through a small cache, or to the host, and blocks other tasks meanwhile. With
//! [`FileSystem::into_async`] nothing of a share does.
#![forbid(unsafe_code)]

mod asynchronous;
mod error;
mod ext;
mod fat;
mod file;
mod foreign;
mod found;
mod layout;
mod memory;
mod mounts;
mod options;
mod shared;
mod tree;
mod watch;

use crate::block::{Disk, DiskReader, disks};
use crate::share::Share;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use tree::Tree;

pub use asynchronous::AsyncFileSystem;
pub use embedded_io::SeekFrom;
pub use error::Error;
pub use file::File;
pub use mounts::Mounts;
pub use options::OpenOptions;
pub use watch::{Change, ChangeKind, Watch};

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
pub struct FileSystem(Rc<dyn Tree>);

/// The files of a share. Of one with `cache=always`, in which nothing changes, what was found is kept: names, metadata and up to 64 open files.
pub fn open_share(share: Share) -> FileSystem {
    FileSystem(Rc::new(shared::Shared::new(share)))
}

/// An empty file system in the guest's memory, as Linux' tmpfs. Its files take at most so many bytes, with some 256 for each name.
pub fn memory(limit: u64) -> FileSystem {
    FileSystem(Rc::new(memory::Memory::new(limit)))
}

/// Opens the file system with this label: that of a disk, or the tag of a share.
///
/// # Errors
///
/// [`Error::NotFound`] if there is none. Disks that hold nothing known are passed over.
pub fn open_labelled(label: &str) -> Result<FileSystem, Error> {
    let disks = disks().filter_map(|disk| open_root(disk).ok());
    let mut all = disks.chain(crate::share::shares().map(open_share));
    all.find(|files| files.label().as_deref() == Some(label)).ok_or(Error::NotFound)
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
        EXT_MAGIC => Rc::new(ext::Ext::open(reader)?),
        _ => match fat::Fat::open(reader) {
            Ok(fat) => Rc::new(fat),
            Err(Error::Unsupported) => return Err(foreign::name(disk)?),
            Err(error) => return Err(error),
        },
    }))
}

impl FileSystem {
    /// The same file system, with operations that let other tasks run.
    pub fn into_async(self) -> AsyncFileSystem {
        AsyncFileSystem::new(self)
    }

    /// Its kind, for display, such as "FAT32".
    pub fn kind(&self) -> &'static str {
        self.0.kind()
    }

    /// The label of its disk, or the tag of its share.
    pub fn label(&self) -> Option<String> {
        self.0.label()
    }

    /// Metadata of a file or folder. Symbolic links are followed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the path does not exist, [`Error::NotAFolder`] if it leads through a file, and the errors
    /// of a disk or a file system that cannot be read: [`Error::Feature`], [`Error::Corrupt`], [`Error::Disk`], [`Error::Host`].
    pub fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        self.0.metadata(path)
    }

    /// The entries of a folder, without itself and its parent, in the order on the disk.
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata); [`Error::NotAFolder`] also for a file.
    pub fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        self.0.read_dir(path)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// As [`metadata`](Self::metadata); [`Error::IsAFolder`] for a folder.
    pub fn open(&self, path: &str) -> Result<File, Error> {
        self.open_with(path, OpenOptions::new().read(true))
    }

    /// Opens a file for writing. It is made if it is not there, and emptied if it is.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn create(&self, path: &str) -> Result<File, Error> {
        self.open_with(path, OpenOptions::new().write(true).create(true).truncate(true))
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and for files that are written [`Error::ReadOnly`], [`Error::NoSpace`], [`Error::Exists`], and [`Error::Invalid`] for options that
    /// contradict each other and names that the file system does not take.
    pub fn open_with(&self, path: &str, options: OpenOptions) -> Result<File, Error> {
        Ok(File::new(self.0.open(path, options.check()?)?, options))
    }

    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.clone().into_async().read(path).await
    }

    /// Writes a whole file, which has nothing else afterwards.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with) and [`File::write_all_at`].
    pub async fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.clone().into_async().write(path, bytes).await
    }

    /// Makes a folder in one that is there.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::ReadOnly`], [`Error::NoSpace`], and as [`metadata`](Self::metadata).
    pub fn create_dir(&self, path: &str) -> Result<(), Error> {
        self.0.create_dir(path)
    }

    /// Makes a folder, and those that it is in.
    ///
    /// # Errors
    ///
    /// As [`create_dir`](Self::create_dir), but for folders that are there.
    pub fn create_dir_all(&self, path: &str) -> Result<(), Error> {
        let path = tree::relative(path)?;
        for folder in tree::above(&path) {
            match self.create_dir(folder) {
                Err(_) if self.metadata(folder).is_ok_and(|found| found.is_dir) => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// Removes a file. On FAT it must not be open.
    ///
    /// # Errors
    ///
    /// [`Error::IsAFolder`], [`Error::ReadOnly`], [`Error::Busy`], and as [`metadata`](Self::metadata).
    pub fn remove_file(&self, path: &str) -> Result<(), Error> {
        self.0.remove_file(path)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`], [`Error::NotAFolder`], [`Error::ReadOnly`], [`Error::Busy`], and as [`metadata`](Self::metadata).
    pub fn remove_dir(&self, path: &str) -> Result<(), Error> {
        self.0.remove_dir(path)
    }

    /// Renames a file or folder. A file, or an empty folder for a folder, that has the new name is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::CrossesFileSystems`], [`Error::Invalid`] for a folder into itself, [`Error::Unsupported`] for a folder into another one on FAT, and
    /// those of [`create_dir`](Self::create_dir) and [`remove_file`](Self::remove_file).
    pub fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.0.rename(from, to)
    }

    /// Watches the entries of a folder, or a file, from now on. What changes meanwhile is kept, so that nothing is missed by who watches a folder first
    /// and reads it then.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] but for shares; as [`metadata`](Self::metadata).
    pub fn watch(&self, path: &str) -> Result<Watch, Error> {
        self.0.watch(path)
    }

    /// Returns once everything that was written to its disk outlasts the host. Files of shares have [`File::sync_all`]. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`] if that failed.
    pub fn sync(&self) -> Result<(), Error> {
        self.0.sync()
    }
}
