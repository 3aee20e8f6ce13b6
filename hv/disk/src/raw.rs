//! Raw images: the bytes of the file are the disk's.
#![forbid(unsafe_code)]

use crate::image::{Access, Guard, Image, Numbered, Run, within};
use rustix::fs::SeekFrom;
use std::io;

/// A raw image that is open.
#[derive(Debug)]
pub struct RawImage {
    file: Numbered,
    size: u64,
    writable: bool,
}

impl RawImage {
    pub(crate) fn new(file: Numbered, writable: bool) -> Self {
        RawImage { size: file.length(), file, writable }
    }

    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        within(self.size, offset, len)
    }
}

impl Image for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn find(&self, offset: u64, len: u64, access: Access) -> Run {
        if within(self.size, offset, len).is_err() || (access == Access::Write && !self.writable) {
            return Run::Other;
        }
        Run::Data { file: self.file.number, offset, len, guard: Guard::default() }
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Run> {
        within(self.size, offset, len)?;
        let data = match rustix::fs::seek(&*self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => self.size,
            Err(_) => offset,
        };
        if data > offset {
            return Ok(Run::Zeroes(len.min(data - offset)));
        }
        let hole = rustix::fs::seek(&*self.file, SeekFrom::Hole(offset)).unwrap_or(self.size);
        let len = len.min(hole.max(offset + 1) - offset);
        Ok(Run::Data { file: self.file.number, offset, len, guard: Guard::default() })
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        within(self.size, offset, bytes.len() as u64)?;
        self.file.read(bytes, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check(offset, bytes.len() as u64)?;
        self.file.write(bytes, offset)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        self.file.zero(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(offset, len)?;
        self.file.punch(offset, len);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn is_clean(&self) -> bool {
        true
    }

    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}
