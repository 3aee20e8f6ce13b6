//! Reads and writes of any bytes of a disk, through a small cache. File systems use this.

use super::Disk;
use crate::start_info::heap_size;
use alloc::vec;
use alloc::vec::Vec;
use embedded_io::{ErrorType, Read, Seek, SeekFrom};
use hv_abi::Errno;

/// Bytes of a cache line: what a small read loads around it.
const LINE: usize = 64 << 10;

/// Reads any bytes of a disk. Small reads go through a cache of lines of 64 KiB. The whole sectors of large reads go
/// directly into the buffer.
///
/// Cache lines are not invalidated: writes to the disk by other means may not be seen.
#[derive(Debug)]
pub struct DiskReader {
    disk: Disk,
    position: u64,
    lines: Vec<Line>,
    /// Most lines in the cache.
    limit: usize,
    /// Counts uses, to find the least recently used line.
    clock: u64,
}

#[derive(Debug)]
struct Line {
    number: u64,
    used: u64,
    bytes: Vec<u8>,
}

impl DiskReader {
    /// A reader at the start of the disk. Its cache takes at most 1/32 of the guest's heap, and at most 1 MiB.
    pub fn new(disk: Disk) -> Self {
        let limit = (heap_size() / 32 / LINE).clamp(2, 16);
        DiskReader { disk, position: 0, lines: Vec::new(), limit, clock: 0 }
    }

    /// The disk.
    pub fn disk(&self) -> Disk {
        self.disk
    }

    /// Fills the buffer from this offset (in bytes) of the disk on.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] if the disk ends before that, [`Errno::Io`] if the host failed.
    pub fn read_exact_at(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Errno> {
        let end = offset.checked_add(buffer.len() as u64).ok_or(Errno::Invalid)?;
        if end > self.disk.size() {
            return Err(Errno::Invalid);
        }
        let sector = self.disk.sector_size();
        while !buffer.is_empty() {
            let whole = buffer.len() - buffer.len() % sector;
            let taken = if whole >= LINE && offset.is_multiple_of(sector as u64) {
                self.disk.read_blocking(offset / sector as u64, &mut buffer[..whole])?;
                whole
            } else {
                let line = self.line(offset / LINE as u64)?;
                let bytes = &line[(offset % LINE as u64) as usize..];
                let taken = bytes.len().min(buffer.len());
                buffer[..taken].copy_from_slice(&bytes[..taken]);
                taken
            };
            offset += taken as u64;
            buffer = &mut buffer[taken..];
        }
        Ok(())
    }

    /// Writes bytes at this offset of the disk: they are with the host when this returns. What a sector has besides is read first, and written again.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] if the disk ends before that, [`Errno::ReadOnly`], [`Errno::NoSpace`], [`Errno::Io`].
    pub fn write_all_at(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::Invalid)?;
        if end > self.disk.size() {
            return Err(Errno::Invalid);
        }
        let sector = self.disk.sector_size();
        while !bytes.is_empty() {
            let (number, skip) = (offset / sector as u64, (offset % sector as u64) as usize);
            let whole = bytes.len() - bytes.len() % sector;
            let count = if skip == 0 && whole > 0 {
                self.disk.write_blocking(number, &bytes[..whole])?;
                whole
            } else {
                let count = bytes.len().min(sector - skip);
                let mut all = vec![0; sector];
                self.read_exact_at(number * sector as u64, &mut all)?;
                all[skip..skip + count].copy_from_slice(&bytes[..count]);
                self.disk.write_blocking(number, &all)?;
                count
            };
            self.note_written(offset, &bytes[..count]);
            offset += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Puts what was written into the lines that have it.
    fn note_written(&mut self, offset: u64, bytes: &[u8]) {
        for line in &mut self.lines {
            let start = line.number * LINE as u64;
            let (from, to) =
                (offset.max(start), (offset + bytes.len() as u64).min(start + line.bytes.len() as u64));
            if from < to {
                let new = &bytes[(from - offset) as usize..(to - offset) as usize];
                line.bytes[(from - start) as usize..(to - start) as usize].copy_from_slice(new);
            }
        }
    }

    fn line(&mut self, number: u64) -> Result<&[u8], Errno> {
        self.clock += 1;
        let index = match self.lines.iter().position(|line| line.number == number) {
            Some(index) => index,
            None => self.load(number)?,
        };
        let line = &mut self.lines[index];
        line.used = self.clock;
        Ok(&line.bytes)
    }

    fn load(&mut self, number: u64) -> Result<usize, Errno> {
        let start = number * LINE as u64;
        let len = (self.disk.size() - start).min(LINE as u64) as usize;
        let mut bytes = if self.lines.len() < self.limit {
            vec![0; len]
        } else {
            let oldest = (0..self.lines.len()).min_by_key(|&index| self.lines[index].used).unwrap_or(0);
            let mut bytes = self.lines.swap_remove(oldest).bytes;
            bytes.resize(len, 0);
            bytes
        };
        self.disk.read_blocking(start / self.disk.sector_size() as u64, &mut bytes)?;
        self.lines.push(Line { number, used: self.clock, bytes });
        Ok(self.lines.len() - 1)
    }
}

/// What [`DiskReader`] reports through `embedded_io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError(pub Errno);

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl core::error::Error for ReadError {}

impl embedded_io::Error for ReadError {
    fn kind(&self) -> embedded_io::ErrorKind {
        match self.0 {
            Errno::Invalid => embedded_io::ErrorKind::InvalidInput,
            Errno::NotSupported => embedded_io::ErrorKind::Unsupported,
            _ => embedded_io::ErrorKind::Other,
        }
    }
}

impl ErrorType for DiskReader {
    type Error = ReadError;
}

impl Read for DiskReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let left = self.disk.size().saturating_sub(self.position);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.read_exact_at(self.position, &mut buffer[..count]).map_err(ReadError)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for DiskReader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64, ReadError> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.disk.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(ReadError(Errno::Invalid))?;
        Ok(self.position)
    }
}
