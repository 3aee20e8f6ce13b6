//! Files that are written.
#![forbid(unsafe_code)]

use super::{Error, Fat, Metadata, Place, StorageError, WallClock, metadata};
use super::{FatStorage, oem::Cp437};
use alloc::string::String;
use fatfs::{Read, Seek, SeekFrom, Write};

type Handle<'a> = fatfs::File<'a, FatStorage, WallClock, Cp437>;

/// Most bytes of a file: its size is a number of 32 bits.
const MAX_LEN: u64 = u32::MAX as u64;

/// Zeros that are written at a time.
const ZEROS: [u8; 4096] = [0; 4096];

/// A file that is opened to be written. It is looked up by its name each time, so that it always is what the folder says; one that was
/// renamed or removed is no longer found.
pub(in crate::fs) struct WrittenFile {
    fat: Fat,
    path: String,
    metadata: Metadata,
}

impl WrittenFile {
    pub(super) fn new(fat: Fat, path: String) -> Result<Self, Error> {
        let mut file = WrittenFile { fat, path, metadata: Metadata { len: 0, is_dir: false, modified: 0 } };
        file.refresh()?;
        Ok(file)
    }

    pub(in crate::fs) fn metadata(&self) -> Metadata {
        self.metadata
    }

    fn refresh(&mut self) -> Result<(), Error> {
        let Place::Entry(entry) = self.fat.find(&self.path)? else { return Err(Error::IsAFolder) };
        self.metadata = metadata(&entry);
        Ok(())
    }

    /// Its length by now.
    pub(in crate::fs) fn present_len(&mut self) -> Result<u64, Error> {
        self.refresh()?;
        Ok(self.metadata.len)
    }

    fn handle(&self) -> Result<Handle<'_>, Error> {
        match self.fat.find(&self.path)? {
            Place::Entry(entry) if !entry.is_dir() => Ok(entry.to_file()),
            _ => Err(Error::IsAFolder),
        }
    }

    /// Reads until the buffer is full or the file ends.
    pub(in crate::fs) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut file = self.handle()?;
        if file.seek(SeekFrom::Start(offset))? != offset {
            return Ok(0);
        }
        let mut done = 0;
        while done < buffer.len() {
            match file.read(&mut buffer[done..])? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    pub(in crate::fs) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= MAX_LEN);
        end.ok_or(Error::TooLarge)?;
        self.fat.change()?;
        let written = self.handle().and_then(|mut file| {
            lengthen(&mut file, offset)?;
            file.seek(SeekFrom::Start(offset))?;
            write_all(&mut file, bytes)?;
            Ok(file.flush()?)
        });
        // What was written before it failed counts as well.
        self.refresh()?;
        written
    }

    pub(in crate::fs) fn set_len(&mut self, len: u64) -> Result<(), Error> {
        if len > MAX_LEN {
            return Err(Error::TooLarge);
        }
        self.fat.change()?;
        let set = self.handle().and_then(|mut file| {
            if len < self.metadata.len {
                file.seek(SeekFrom::Start(len))?;
                file.truncate()?;
            } else {
                lengthen(&mut file, len)?;
            }
            Ok(file.flush()?)
        });
        self.refresh()?;
        set
    }

    pub(in crate::fs) async fn sync(&self) -> Result<(), Error> {
        Ok(self.fat.disk.flush().await?)
    }
}

fn write_all(file: &mut Handle<'_>, mut bytes: &[u8]) -> Result<(), fatfs::Error<StorageError>> {
    while !bytes.is_empty() {
        match file.write(bytes)? {
            0 => return Err(fatfs::Error::WriteZero),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}

/// Writes zeros up to this length, if the file is shorter.
fn lengthen(file: &mut Handle<'_>, len: u64) -> Result<(), Error> {
    // The crate stops at the file's end.
    let mut end = file.seek(SeekFrom::End(0))?;
    while end < len {
        let count = (len - end).min(ZEROS.len() as u64);
        write_all(file, &ZEROS[..count as usize])?;
        end += count;
    }
    Ok(())
}
