//! Folders of the host, through a share.
#![forbid(unsafe_code)]

use super::file::Source;
use super::tree::{Tree, relative};
use super::{Entry, Error, Metadata, OpenOptions};
use crate::share::{
    Call, Entries, OPEN_CREATE, OPEN_DIRECTORY, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE,
    REMOVE_DIRECTORY, ROOT, Share, WITH_ATTRIBUTES, WRITE_APPEND,
};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use hv_abi::Errno;
use hv_abi::io::share::{SET_SIZE, ShareAttributes, ShareChange, kind};

/// Permissions of new files and folders, less the umask of hv.
const FILE_MODE: u32 = 0o666;
const FOLDER_MODE: u32 = 0o777;

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
        Errno::Exists => Error::Exists,
        Errno::NotEmpty => Error::NotEmpty,
        Errno::ReadOnly => Error::ReadOnly,
        Errno::NoSpace | Errno::Quota => Error::NoSpace,
        Errno::TooLarge => Error::TooLarge,
        errno => Error::Host(errno),
    }
}

fn metadata(attributes: &ShareAttributes) -> Metadata {
    let is_dir = attributes.mode >> 12 == kind::DIRECTORY;
    Metadata { len: attributes.size, is_dir, modified: attributes.modified }
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
        let handle = self.0.create(ROOT, path.as_bytes(), flags, FILE_MODE).block().map_err(error)?;
        Ok(Open { share: self.0, handle })
    }
}

impl Tree for Shared {
    fn kind(&self) -> &'static str {
        "share"
    }

    fn label(&self) -> Option<String> {
        Some(self.0.tag().to_string())
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        Ok(metadata(&self.attributes(ROOT, relative(path)?.as_bytes())?))
    }

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let folder = self.open(path, OPEN_READ | OPEN_DIRECTORY)?;
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

    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        let flags = flag(options.read, OPEN_READ)
            | flag(options.writes(), OPEN_WRITE)
            | flag(options.makes(), OPEN_CREATE)
            | flag(options.create_new, OPEN_EXCLUSIVE)
            | flag(options.truncate, OPEN_TRUNCATE);
        let open = Shared::open(self, path, flags)?;
        let metadata = metadata(&self.attributes(open.handle, b"")?);
        if metadata.is_dir {
            return Err(Error::IsAFolder);
        }
        Ok(Source::Share(SharedFile { open, metadata }))
    }

    fn create_dir(&self, path: &str) -> Result<(), Error> {
        done(self.0.make_dir(ROOT, relative(path)?.as_bytes(), FOLDER_MODE))
    }

    fn remove_file(&self, path: &str) -> Result<(), Error> {
        done(self.0.remove(ROOT, relative(path)?.as_bytes(), 0))
    }

    fn remove_dir(&self, path: &str) -> Result<(), Error> {
        done(self.0.remove(ROOT, relative(path)?.as_bytes(), REMOVE_DIRECTORY))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (relative(from)?, relative(to)?);
        done(self.0.rename((ROOT, from.as_bytes()), (ROOT, to.as_bytes()), 0))
    }
}

/// A change of a name.
fn done(call: Call<'_>) -> Result<(), Error> {
    match call.block() {
        Ok(_) => Ok(()),
        Err(Errno::Invalid | Errno::NameTooLong) => Err(Error::Invalid),
        Err(errno) => Err(error(errno)),
    }
}

/// An open file. Its metadata are as they were when it was opened, and as it was changed since through this handle.
pub(super) struct SharedFile {
    open: Open,
    metadata: Metadata,
}

impl SharedFile {
    pub(super) fn metadata(&self) -> Metadata {
        self.metadata
    }

    /// Notes that so many bytes were written there, or at the end.
    fn note_written(&mut self, offset: u64, count: u64, appends: bool) -> Result<(), Error> {
        if appends {
            // Others may append, too.
            let mut attributes = ShareAttributes::default();
            let call = self.open.share.attributes(self.open.handle, b"", 0, &mut attributes);
            call.block().map_err(error)?;
            self.metadata = metadata(&attributes);
        } else {
            self.metadata.len = self.metadata.len.max(offset + count);
        }
        Ok(())
    }

    /// The write of the next part of these bytes.
    fn write_part<'a>(&self, offset: u64, bytes: &'a [u8], done: usize, appends: bool) -> Call<'a> {
        let rest = &bytes[done..];
        let part = &rest[..rest.len().min(self.open.share.max_transfer())];
        let flags = if appends { WRITE_APPEND } else { 0 };
        self.open.share.write(self.open.handle, offset.saturating_add(done as u64), part, flags)
    }

    /// Writes all of the bytes.
    pub(super) async fn write(&mut self, offset: u64, bytes: &[u8], appends: bool) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            match self.write_part(offset, bytes, done, appends).await.map_err(error)? {
                0 => return Err(Error::NoSpace),
                count => done += count as usize,
            }
        }
        self.note_written(offset, done as u64, appends)
    }

    /// Like `write`, without an executor.
    pub(super) fn write_blocking(&mut self, offset: u64, bytes: &[u8], appends: bool) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            match self.write_part(offset, bytes, done, appends).block().map_err(error)? {
                0 => return Err(Error::NoSpace),
                count => done += count as usize,
            }
        }
        self.note_written(offset, done as u64, appends)
    }

    pub(super) fn set_len(&mut self, len: u64) -> Result<(), Error> {
        let change = ShareChange { what: SET_SIZE, size: len, ..ShareChange::default() };
        done(self.open.share.change(self.open.handle, b"", 0, &change))?;
        self.metadata.len = len;
        Ok(())
    }

    /// Locks the whole file like this, or gives it back.
    pub(super) fn lock(&self, flags: u16) -> Result<(), Error> {
        match self.open.share.lock(self.open.handle, flags, 0, 0).block() {
            Err(Errno::Busy) => Err(Error::Busy),
            Err(Errno::BadHandle) => Err(Error::Invalid),
            locked => locked.map(drop).map_err(error),
        }
    }

    pub(super) async fn sync(&self) -> Result<(), Error> {
        self.open.share.sync(self.open.handle, 0).await.map(drop).map_err(error)
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
