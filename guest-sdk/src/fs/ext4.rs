//! ext2, ext3 and ext4, by the crate `ext4-view`.

use super::{Entry, Error, Metadata, components};
use crate::block::DiskReader;
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use ext4_view::{Ext4Error, Ext4Read};
use hv_abi::Errno;

#[derive(Clone)]
pub(super) struct Ext4(ext4_view::Ext4);

impl Ext4Read for DiskReader {
    fn read(
        &mut self,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<(), Box<dyn core::error::Error + Send + Sync + 'static>> {
        Ok(self.read_exact_at(start, buffer)?)
    }
}

impl From<Ext4Error> for Error {
    fn from(error: Ext4Error) -> Self {
        match error {
            Ext4Error::NotFound | Ext4Error::MalformedPath | Ext4Error::PathTooLong => Error::NotFound,
            Ext4Error::TooManySymlinks | Ext4Error::NotASymlink | Ext4Error::NotUtf8 => Error::NotFound,
            Ext4Error::IsADirectory => Error::IsAFolder,
            Ext4Error::NotADirectory => Error::NotAFolder,
            Ext4Error::Io(error) => Error::Disk(error.downcast_ref().copied().unwrap_or(Errno::Io)),
            Ext4Error::Corrupt(_) => Error::Corrupt,
            _ => Error::Unsupported,
        }
    }
}

fn metadata(from: &ext4_view::Metadata) -> Metadata {
    Metadata { len: from.len(), is_dir: from.is_dir(), modified: from.modified().seconds() }
}

/// The path as this file system wants it.
fn absolute(path: &str) -> Result<String, Error> {
    let mut absolute = String::from("/");
    for (index, part) in components(path)?.enumerate() {
        if index > 0 {
            absolute.push('/');
        }
        absolute.push_str(part);
    }
    Ok(absolute)
}

impl Ext4 {
    pub(super) fn open(reader: DiskReader) -> Result<Ext4, Error> {
        Ok(Ext4(ext4_view::Ext4::load(Box::new(reader))?))
    }

    pub(super) fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        Ok(metadata(&self.0.metadata(absolute(path)?.as_str())?))
    }

    pub(super) fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for entry in self.0.read_dir(absolute(path)?.as_str())? {
            let entry = entry?;
            // A name that is no text cannot be asked for here either.
            let name = entry.file_name();
            let Ok(name) = name.as_str() else { continue };
            if matches!(name, "." | "..") {
                continue;
            }
            // Through a symbolic link; one that leads nowhere is left out.
            match self.0.metadata(entry.path().as_path()) {
                Ok(found) => entries.push(Entry { name: name.to_owned(), metadata: metadata(&found) }),
                Err(Ext4Error::NotFound | Ext4Error::TooManySymlinks) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    pub(super) fn open_file(&self, path: &str) -> Result<File, Error> {
        Ok(File(self.0.open(absolute(path)?.as_str())?))
    }
}

pub(super) struct File(ext4_view::File);

impl File {
    pub(super) fn metadata(&self) -> Metadata {
        metadata(self.0.metadata())
    }

    /// Fills the buffer, all of which lies within the file.
    pub(super) fn read(&mut self, offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        // Seeking walks the file's blocks from its start: only when needed.
        if self.0.position() != offset {
            self.0.seek_to(offset)?;
        }
        while !buffer.is_empty() {
            match self.0.read_bytes(buffer)? {
                0 => return Err(Error::Corrupt),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }
}
