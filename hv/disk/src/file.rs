//! A file of an image, read and written at offsets.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open file, and how long it is as far as hv knows: what others cut off it is an error, not zeroes.
#[derive(Debug)]
pub struct ImageFile {
    file: Arc<File>,
    path: PathBuf,
    length: AtomicU64,
}

impl ImageFile {
    /// The file, which is so many bytes long.
    pub fn new(file: Arc<File>, path: PathBuf, length: u64) -> Self {
        ImageFile { file, path, length: AtomicU64::new(length) }
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes, as of its opening and what was written since.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// What is about to be written ends here.
    pub(crate) fn reaches(&self, end: u64) {
        self.length.fetch_max(end, Ordering::Relaxed);
    }

    /// Fills `bytes`, all of which have to be there.
    pub(crate) fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Fills `bytes`, with zeroes behind the file's end.
    pub(crate) fn read_padded(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let there = self.length().saturating_sub(offset).min(bytes.len() as u64) as usize;
        let (there, behind) = bytes.split_at_mut(there);
        behind.fill(0);
        self.file.read_exact_at(there, offset)
    }

    /// Writes all of them.
    pub(crate) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.reaches(offset + bytes.len() as u64);
        Ok(())
    }

    /// Writes parts that lie side by side.
    pub(crate) fn write_parts(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let (mut slices, mut at) = (&mut slices[..], offset);
        while slices.iter().any(|slice| !slice.is_empty()) {
            match rustix::io::pwritev(&self.file, slices, at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    at += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.reaches(at);
        Ok(())
    }

    /// Gives the space of a part back; where the file system cannot, nothing happens.
    pub(crate) fn punch(&self, offset: u64, len: u64) {
        use rustix::fs::FallocateFlags as Flags;
        let len = len.min(self.length().saturating_sub(offset));
        if len > 0 {
            let _ = rustix::fs::fallocate(&self.file, Flags::PUNCH_HOLE | Flags::KEEP_SIZE, offset, len);
        }
    }

    /// Makes a part read as zeroes: a hole where the file system has holes.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags as Flags;
        match rustix::fs::fallocate(&self.file, Flags::PUNCH_HOLE | Flags::KEEP_SIZE, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(()),
        }
        let zeroes = [0; 64 << 10];
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let count = (end - at).min(zeroes.len() as u64);
            self.write(&zeroes[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    /// Makes it longer, by a hole.
    pub(crate) fn lengthen(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.reaches(length);
        Ok(())
    }

    /// Has the host bring what was written to its disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The open file.
    pub fn shared(&self) -> &Arc<File> {
        &self.file
    }
}

impl AsFd for ImageFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
