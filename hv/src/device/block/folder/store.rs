//! A small write-back cache between the FAT crate and the image.
//!
//! The crate writes tables and directories four to 32 bytes at a time. With
//! this cache, a folder of a few files is a handful of system calls. It holds
//! as many lines as there are places that are written by turns: two tables, a
//! directory, the data, and a few to spare.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const LINE: u64 = 64 << 10;
const LINES: usize = 8;

struct Line {
    /// Which line of the file this is.
    index: u64,
    dirty: bool,
    used: u64,
    bytes: Vec<u8>,
}

/// See the [module](self). Nothing is certain to be in the file before [`finish`](Self::finish).
pub(super) struct Store<'a> {
    file: &'a mut File,
    size: u64,
    position: u64,
    clock: u64,
    lines: Vec<Line>,
}

impl<'a> Store<'a> {
    /// A store over a file whose size does not change.
    pub(super) fn new(file: &'a mut File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Store { file, size, position: 0, clock: 0, lines: Vec::new() })
    }

    /// Writes what is not in the file yet.
    pub(super) fn finish(mut self) -> io::Result<()> {
        for at in 0..self.lines.len() {
            self.clean(at)?;
        }
        Ok(())
    }

    fn clean(&mut self, at: usize) -> io::Result<()> {
        let line = &mut self.lines[at];
        if line.dirty {
            self.file.write_all_at(&line.bytes, line.index * LINE)?;
            line.dirty = false;
        }
        Ok(())
    }

    /// The line with the current position, and the bytes from there to its end.
    fn here(&mut self, write: bool) -> io::Result<&mut [u8]> {
        let index = self.position / LINE;
        self.clock += 1;
        let found = self.lines.iter().position(|line| line.index == index);
        let at = match found {
            Some(at) => at,
            None => self.fetch(index)?,
        };
        let line = &mut self.lines[at];
        line.used = self.clock;
        line.dirty |= write;
        Ok(&mut line.bytes[(self.position % LINE) as usize..])
    }

    fn fetch(&mut self, index: u64) -> io::Result<usize> {
        let at = if self.lines.len() < LINES {
            self.lines.push(Line { index, dirty: false, used: 0, bytes: Vec::new() });
            self.lines.len() - 1
        } else {
            let oldest = (0..LINES).min_by_key(|&at| self.lines[at].used).unwrap_or(0);
            self.clean(oldest)?;
            oldest
        };
        let line = &mut self.lines[at];
        line.index = index;
        line.bytes.resize((self.size - index * LINE).min(LINE) as usize, 0);
        self.file.read_exact_at(&mut line.bytes, index * LINE)?;
        Ok(at)
    }
}

impl Read for Store<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || bytes.is_empty() {
            return Ok(0);
        }
        let here = self.here(false)?;
        let count = bytes.len().min(here.len());
        bytes[..count].copy_from_slice(&here[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Store<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.position >= self.size || bytes.is_empty() {
            return Ok(0);
        }
        let here = self.here(true)?;
        let count = bytes.len().min(here.len());
        here[..count].copy_from_slice(&bytes[..count]);
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Store<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
