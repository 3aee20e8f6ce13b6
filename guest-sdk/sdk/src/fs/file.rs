//! Open files.
#![forbid(unsafe_code)]

use super::{Error, Metadata, ext, fat, memory, shared};
use crate::share::{LOCK_EXCLUSIVE, LOCK_SHARED};
use alloc::boxed::Box;
use embedded_io::SeekFrom;

/// Where an open file is.
pub(super) enum Source {
    Fat(fat::FatFile),
    FatWritten(fat::WrittenFile),
    Ext(Box<ext::ExtFile>),
    Share(shared::SharedFile),
    Memory(memory::MemoryFile),
}

/// An open file. It also implements the traits of `embedded-io-async`.
pub struct File {
    source: Source,
    position: u64,
    /// Whether it may be read.
    reads: bool,
    /// Whether it may be written.
    writes: bool,
    /// Whether all writes go to its end.
    appends: bool,
}

impl File {
    pub(super) fn new(source: Source, options: super::OpenOptions) -> Self {
        File { source, position: 0, reads: options.read, writes: options.writes(), appends: options.append }
    }

    /// The file's metadata: as it was when it was opened, and as it was changed through this handle.
    pub fn metadata(&self) -> Metadata {
        match &self.source {
            Source::Fat(file) => file.metadata(),
            Source::FatWritten(file) => file.metadata(),
            Source::Ext(file) => file.metadata(),
            Source::Share(file) => file.metadata(),
            Source::Memory(file) => file.metadata(),
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
    fn clip(&self, offset: u64, len: usize) -> Result<usize, Error> {
        if !self.reads {
            return Err(Error::Invalid);
        }
        Ok(usize::try_from(self.len().saturating_sub(offset)).map_or(len, |left| left.min(len)))
    }

    /// Reads from `offset` on, until the buffer is full or the file ends.
    /// Returns the number of bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`] or [`Error::Host`] if the disk or the host failed, [`Error::Corrupt`] if the file's place on the disk is invalid,
    /// [`Error::Invalid`] if the file was not opened to be read.
    pub async fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.clip(offset, buffer.len())?;
        let buffer = &mut buffer[..count];
        match &mut self.source {
            Source::Fat(file) => file.read(offset, buffer).await?,
            Source::FatWritten(file) => return file.read(offset, buffer),
            Source::Ext(file) => file.read(offset, buffer).await?,
            Source::Share(file) => return file.read(offset, buffer).await,
            Source::Memory(file) => return Ok(file.read(offset, buffer)),
        }
        Ok(count)
    }

    /// Like [`read_at`](Self::read_at), for code that is not async.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    pub fn read_at_blocking(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.clip(offset, buffer.len())?;
        let buffer = &mut buffer[..count];
        match &mut self.source {
            Source::Fat(file) => file.read_blocking(offset, buffer)?,
            Source::FatWritten(file) => return file.read(offset, buffer),
            Source::Ext(file) => file.read_blocking(offset, buffer)?,
            Source::Share(file) => return file.read_blocking(offset, buffer),
            Source::Memory(file) => return Ok(file.read(offset, buffer)),
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

    /// Continues to read where the last read or write ended. Returns 0 bytes at the end of the file.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let count = self.read_at(self.position, buffer).await?;
        self.position += count as u64;
        Ok(count)
    }

    /// Writes all of the bytes at `offset`, which may be behind the end: what is between reads as zeros. A file that was opened to be
    /// appended to is written at its end instead.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] if the file was not opened to be written, [`Error::NoSpace`], [`Error::TooLarge`], [`Error::Disk`], [`Error::Host`]. Some of the
    /// bytes may have been written then.
    pub async fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let offset = self.place(offset)?;
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.source {
            Source::Share(file) => file.write(offset, bytes, self.appends).await,
            _ => self.write_here(offset, bytes),
        }
    }

    /// Like [`write_all_at`](Self::write_all_at), for code that is not async.
    ///
    /// # Errors
    ///
    /// As [`write_all_at`](Self::write_all_at).
    pub fn write_all_at_blocking(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let offset = self.place(offset)?;
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.source {
            Source::Share(file) => file.write_blocking(offset, bytes, self.appends),
            _ => self.write_here(offset, bytes),
        }
    }

    /// Where a write goes.
    fn place(&mut self, offset: u64) -> Result<u64, Error> {
        match (self.writes, self.appends, &mut self.source) {
            (false, ..) => Err(Error::ReadOnly),
            (true, false, _) => Ok(offset),
            // Another handle may have appended to it.
            (true, true, Source::FatWritten(file)) => file.present_len(),
            (true, true, _) => Ok(self.len()),
        }
    }

    /// Writes where that does not wait for the host as a task could.
    fn write_here(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        match &mut self.source {
            Source::FatWritten(file) => file.write(offset, bytes),
            Source::Memory(file) => file.write(offset, bytes),
            Source::Fat(_) | Source::Ext(_) | Source::Share(_) => Err(Error::ReadOnly),
        }
    }

    /// Continues to write where the last read or write ended, or at the end of a file that is appended to.
    ///
    /// # Errors
    ///
    /// As [`write_all_at`](Self::write_all_at).
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write_all_at(self.position, bytes).await?;
        self.position = if self.appends { self.len() } else { self.position + bytes.len() as u64 };
        Ok(())
    }

    /// Cuts the file to this length, or lengthens it by zeros.
    ///
    /// # Errors
    ///
    /// As [`write_all_at`](Self::write_all_at).
    pub fn set_len(&mut self, len: u64) -> Result<(), Error> {
        if !self.writes {
            return Err(Error::ReadOnly);
        }
        match &mut self.source {
            Source::FatWritten(file) => file.set_len(len),
            Source::Share(file) => file.set_len(len),
            Source::Memory(file) => file.set_len(len),
            Source::Fat(_) | Source::Ext(_) => Err(Error::ReadOnly),
        }
    }

    /// Completes once all that was written is where it outlasts the guest and its host: on the disk. What is in the guest's memory stays there.
    ///
    /// # Errors
    ///
    /// [`Error::Disk`] or [`Error::Host`] if that failed.
    pub async fn sync_all(&mut self) -> Result<(), Error> {
        match &mut self.source {
            Source::FatWritten(file) => file.sync().await,
            Source::Share(file) => file.sync().await,
            Source::Fat(_) | Source::Ext(_) | Source::Memory(_) => Ok(()),
        }
    }

    /// Locks the file, so that no other handle, guest or program of the host that looks for locks has it meanwhile. Does not wait. It is given back by
    /// [`unlock`](Self::unlock), and when the file is dropped. Files of shares only.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if another one has locked it, [`Error::Invalid`] if the file was not opened to be written, [`Error::Unsupported`] for other files.
    pub fn try_lock(&self) -> Result<(), Error> {
        self.lock(LOCK_EXCLUSIVE)
    }

    /// Like [`try_lock`](Self::try_lock), while others may do the same; the file has to be opened to be read.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    pub fn try_lock_shared(&self) -> Result<(), Error> {
        self.lock(LOCK_SHARED)
    }

    /// Gives a lock back.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Self::try_lock).
    pub fn unlock(&self) -> Result<(), Error> {
        self.lock(0)
    }

    fn lock(&self, flags: u16) -> Result<(), Error> {
        match &self.source {
            Source::Share(file) => file.lock(flags),
            _ => Err(Error::Unsupported),
        }
    }

    /// Makes the next [`read`](Self::read) or [`write_all`](Self::write_all) start there. Returns the offset from the file's beginning.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a place before the beginning.
    pub fn seek(&mut self, to: SeekFrom) -> Result<u64, Error> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(Error::Invalid)?;
        Ok(self.position)
    }
}

impl embedded_io::ErrorType for File {
    type Error = Error;
}

impl embedded_io_async::Read for File {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        File::read(self, buffer).await
    }
}

impl embedded_io_async::Write for File {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.write_all(bytes).await?;
        Ok(bytes.len())
    }

    /// Nothing is kept back: see [`sync_all`](File::sync_all).
    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl embedded_io_async::Seek for File {
    async fn seek(&mut self, to: SeekFrom) -> Result<u64, Error> {
        File::seek(self, to)
    }
}
