//! ext2, ext3 and ext4, to read.
//!
//! ```text
//! superblock: features, sizes ─▶ inode: by number ─▶ map: blocks of a file ─▶ directory: names ─▶ path
//!                     journal: blocks that were not yet written to their place ─▲
//! ```
//!
//! What Linux mounts is read, or refused by the name of the feature that is missing here; "damaged" is only what
//! contradicts the format. Whatever is on the disk, nothing here panics, reads outside the disk, or goes round in a circle.
//!
//! Own code rather than a crate: `ext4-view`, the one that builds for guests, reads no file with a hole as large as an
//! indirect block, which is an ordinary file of ext2 and ext3, and no inodes of 128 bytes with checksums, and shows neither inodes
//! nor blocks, so that neither could be added beside it. With the blocks of a file known, its data is also read straight into
//! the reader's buffer.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::missing_errors_doc)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bytes;
mod checksum;
mod directory;
mod inode;
mod journal;
mod map;
mod path;
mod superblock;
#[cfg(test)]
mod tests;

pub use directory::DirEntry;
pub use inode::Inode;
pub use map::{Run, copy_inline};

use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use journal::Replay;
use superblock::Superblock;

/// A disk, or a part of one.
pub trait Disk {
    /// Why it cannot be read.
    type Error;

    /// Fills the buffer with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// Whatever keeps the disk from being read.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Self::Error>;
}

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// There is no such file or directory.
    NotFound,
    /// It is a directory.
    IsADirectory,
    /// It is no directory.
    NotADirectory,
    /// It is neither a file nor a directory: a device, a pipe, a socket.
    Special,
    /// It uses this feature, by the name that `mke2fs -O` gives it.
    Feature(&'static str),
    /// This contradicts the format.
    Damaged(&'static str),
    /// The disk failed.
    Disk(E),
}

/// The errors that come of bytes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Feature(&'static str),
    Damaged(&'static str),
}

impl<E> From<Fault> for Error<E> {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Feature(name) => Error::Feature(name),
            Fault::Damaged(what) => Error::Damaged(what),
        }
    }
}

/// A file system.
pub struct FileSystem<D> {
    disk: RefCell<D>,
    superblock: Superblock,
    replay: Replay,
}

impl<D: Disk> FileSystem<D> {
    /// Takes up the file system that fills a disk.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] and [`Error::Feature`] for what cannot be read, [`Error::Disk`] if the disk failed.
    pub fn open(mut disk: D) -> Result<Self, Error<D::Error>> {
        let mut bytes = [0; superblock::SIZE];
        disk.read(superblock::AT, &mut bytes).map_err(Error::Disk)?;
        let superblock = Superblock::parse(&bytes)?;
        let mut system = FileSystem { disk: RefCell::new(disk), superblock, replay: Replay::default() };
        system.replay = system.load_journal()?;
        Ok(system)
    }

    /// Bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.superblock.block_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error<D::Error>> {
        self.disk.borrow_mut().read(offset, buffer).map_err(Error::Disk)
    }

    /// A block of the file system, as it is once the journal has been replayed.
    pub(crate) fn block(&self, block: u64) -> Result<Vec<u8>, Error<D::Error>> {
        if block == 0 || block >= self.superblock.blocks {
            return Err(Error::Damaged("a block outside the disk"));
        }
        let (place, escaped) = self.replay.place(block);
        let mut bytes = self.block_in_place(place)?;
        if escaped {
            bytes[..4].copy_from_slice(&journal::MAGIC.to_be_bytes());
        }
        Ok(bytes)
    }

    /// A block as it is on the disk.
    pub(crate) fn block_in_place(&self, block: u64) -> Result<Vec<u8>, Error<D::Error>> {
        let mut bytes = vec![0; self.block_size() as usize];
        self.read_at(block.saturating_mul(self.block_size()), &mut bytes)?;
        Ok(bytes)
    }
}
