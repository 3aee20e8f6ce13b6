//! Folders of the host, through a share.

use super::{Entry, Error, Metadata, components};
use crate::share::{Entries, OPEN_DIRECTORY, OPEN_READ, ROOT, Share, WITH_ATTRIBUTES};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use hv_abi::Errno;
use hv_abi::io::share::{ShareAttributes, kind};

/// Bytes of entries that are asked for at a time.
const ENTRIES: usize = 16 << 10;

#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) Share);

/// What the host says of a file. What cannot be opened, or leads out of the share, is not there for a guest.
fn error(errno: Errno) -> Error {
    match errno {
        Errno::NotFound
        | Errno::Outside
        | Errno::TooManyLinks
        | Errno::NameTooLong
        | Errno::Invalid
        | Errno::NotSupported => Error::NotFound,
        Errno::IsDirectory => Error::IsAFolder,
        Errno::NotDirectory => Error::NotAFolder,
        errno => Error::Host(errno),
    }
}

fn metadata(attributes: &ShareAttributes) -> Metadata {
    let is_dir = attributes.mode >> 12 == kind::DIRECTORY;
    Metadata { len: attributes.size, is_dir, modified: attributes.modified }
}

/// The path as the host takes it: empty for the root.
fn relative(path: &str) -> Result<String, Error> {
    let mut relative = String::new();
    for part in components(path)? {
        if !relative.is_empty() {
            relative.push('/');
        }
        relative.push_str(part);
    }
    Ok(relative)
}

/// Something open, given back at the end.
struct Open {
    share: Share,
    handle: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.share.close(self.handle);
    }
}

impl Shared {
    fn attributes(&self, from: u64, path: &[u8]) -> Result<ShareAttributes, Error> {
        let mut attributes = ShareAttributes::default();
        self.0.attributes(from, path, 0, &mut attributes).block().map_err(error)?;
        Ok(attributes)
    }

    fn open(&self, path: &str, flags: u16) -> Result<Open, Error> {
        let path = relative(path)?;
        let handle = self.0.open(ROOT, path.as_bytes(), OPEN_READ | flags).block().map_err(error)?;
        Ok(Open { share: self.0, handle })
    }

    pub(super) fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        Ok(metadata(&self.attributes(ROOT, relative(path)?.as_bytes())?))
    }

    pub(super) fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let folder = self.open(path, OPEN_DIRECTORY)?;
        let mut found = Vec::new();
        let mut buffer = vec![0; ENTRIES];
        let mut cookie = 0;
        loop {
            let filled = self.0.read_dir(folder.handle, cookie, WITH_ATTRIBUTES, &mut buffer).block();
            let filled = buffer.get(..filled.map_err(error)? as usize).unwrap_or_default();
            if filled.is_empty() {
                return Ok(found);
            }
            let before = cookie;
            for entry in Entries::new(filled, WITH_ATTRIBUTES) {
                cookie = entry.cookie;
                // A name that is not valid UTF-8 cannot be looked up here.
                let (Ok(name), Some(attributes)) = (str::from_utf8(entry.name), entry.attributes) else {
                    continue;
                };
                let attributes = match entry.kind {
                    kind::FILE | kind::DIRECTORY => attributes,
                    // For a symbolic link, its target. One that leads nowhere is left out.
                    kind::LINK => match self.attributes(folder.handle, entry.name) {
                        Ok(attributes) => attributes,
                        Err(Error::NotFound | Error::NotAFolder) => continue,
                        Err(error) => return Err(error),
                    },
                    // FIFOs, sockets and devices cannot be opened.
                    _ => continue,
                };
                found.push(Entry { name: name.into(), metadata: metadata(&attributes) });
            }
            if cookie == before {
                return Err(Error::Corrupt);
            }
        }
    }

    pub(super) fn open_file(&self, path: &str) -> Result<SharedFile, Error> {
        let open = self.open(path, 0)?;
        let metadata = metadata(&self.attributes(open.handle, b"")?);
        if metadata.is_dir {
            return Err(Error::IsAFolder);
        }
        Ok(SharedFile { open, metadata })
    }
}

/// An open file. Its length is that when it was opened.
pub(super) struct SharedFile {
    open: Open,
    metadata: Metadata,
}

impl SharedFile {
    pub(super) fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// The next part of a buffer that is filled from `offset` on, and where that is in the file.
    fn part<'a>(&self, offset: u64, buffer: &'a mut [u8], done: usize) -> (u64, &'a mut [u8]) {
        let rest = &mut buffer[done..];
        let len = rest.len().min(self.open.share.max_transfer());
        (offset + done as u64, &mut rest[..len])
    }

    /// Reads until the buffer is full or the file ends, and returns the number of bytes.
    pub(super) async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            let (at, part) = self.part(offset, buffer, done);
            match self.open.share.read(self.open.handle, at, part).await.map_err(error)? {
                0 => break,
                count => done += count as usize,
            }
        }
        Ok(done)
    }

    /// Like `read`, without an executor.
    pub(super) fn read_blocking(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            let (at, part) = self.part(offset, buffer, done);
            match self.open.share.read(self.open.handle, at, part).block().map_err(error)? {
                0 => break,
                count => done += count as usize,
            }
        }
        Ok(done)
    }
}
