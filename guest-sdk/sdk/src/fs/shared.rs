//! Folders of the host, through a share.
#![forbid(unsafe_code)]

use super::file::Source;
use super::found::Found;
use super::tree::{Answer, Tree, relative};
use super::{Entry, Error, Metadata, OpenOptions, Watch};
use crate::share::{
    self, Call, Entries, OPEN_CREATE, OPEN_DIRECTORY, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE,
    REMOVE_DIRECTORY, ROOT, Share, WITH_ATTRIBUTES, WRITE_APPEND,
};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use hv_abi::Errno;
use hv_abi::io::share::{SET_SIZE, ShareAttributes, ShareChange, kind};

/// Permissions of new files and folders, less the umask of hv.
const FILE_MODE: u32 = 0o666;
const FOLDER_MODE: u32 = 0o777;

/// Bytes of entries that are asked for at a time.
const ENTRIES: usize = 16 << 10;

pub(super) struct Shared {
    share: Share,
    /// What was found, of a share in which nothing changes.
    found: Option<Found>,
}

/// What the host says of a file. What cannot be opened, or leads out of the share, is not there for a guest.
pub(super) fn error(errno: Errno) -> Error {
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
    pub(super) fn new(share: Share) -> Self {
        Shared { share, found: share.unchanging().then(Found::default) }
    }

    async fn attributes(&self, from: u64, path: &[u8]) -> Result<ShareAttributes, Error> {
        let mut attributes = ShareAttributes::default();
        self.share.attributes(from, path, 0, &mut attributes).await.map_err(error)?;
        Ok(attributes)
    }

    async fn open_at(&self, path: &str, flags: u16) -> Result<Open, Error> {
        let handle = self.share.create(ROOT, path.as_bytes(), flags, FILE_MODE).await.map_err(error)?;
        Ok(Open { share: self.share, handle })
    }

    async fn find(&self, path: &str) -> Result<Metadata, Error> {
        let path = relative(path)?;
        if let Some(known) = self.found.as_ref().and_then(|found| found.metadata(&path)) {
            return known;
        }
        let answer = self.attributes(ROOT, path.as_bytes()).await.map(|attributes| metadata(&attributes));
        if let Some(found) = &self.found {
            found.note(&path, &answer);
        }
        answer
    }

    async fn open_file(&self, path: &str, flags: u16) -> Result<SharedFile, Error> {
        let open = self.open_at(path, flags).await?;
        let metadata = metadata(&self.attributes(open.handle, b"").await?);
        match metadata.is_dir {
            true => Err(Error::IsAFolder),
            false => Ok(SharedFile { open: Arc::new(open), metadata }),
        }
    }

    async fn open_as(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        let flag = |wanted, flag| if wanted { flag } else { 0 };
        let flags = flag(options.read, OPEN_READ)
            | flag(options.writes(), OPEN_WRITE)
            | flag(options.makes(), OPEN_CREATE)
            | flag(options.create_new, OPEN_EXCLUSIVE)
            | flag(options.truncate, OPEN_TRUNCATE);
        let path = relative(path)?;
        let found = self.found.as_ref().filter(|_| flags == OPEN_READ);
        if let Some(known) = found.and_then(|found| found.file(&path)) {
            return known.map(Source::Share);
        }
        let opened = self.open_file(&path, flags).await;
        if let Some(found) = found {
            found.note_file(&path, &opened);
        }
        opened.map(Source::Share)
    }

    async fn list(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let path = relative(path)?;
        let folder = self.open_at(&path, OPEN_READ | OPEN_DIRECTORY).await?;
        let mut all = Vec::new();
        let mut buffer = vec![0; ENTRIES];
        let mut cookie = 0;
        loop {
            let filled = self.share.read_dir(folder.handle, cookie, WITH_ATTRIBUTES, &mut buffer).await;
            let filled = buffer.get(..filled.map_err(error)? as usize).unwrap_or_default();
            if filled.is_empty() {
                return Ok(all);
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
                    kind::LINK => match self.attributes(folder.handle, entry.name).await {
                        Ok(attributes) => attributes,
                        Err(Error::NotFound | Error::NotAFolder) => continue,
                        Err(error) => return Err(error),
                    },
                    // FIFOs, sockets and devices cannot be opened.
                    _ => continue,
                };
                let metadata = metadata(&attributes);
                if let Some(found) = &self.found {
                    found.note(&under(&path, name), &Ok(metadata));
                }
                all.push(Entry { name: name.into(), metadata });
            }
            if cookie == before {
                return Err(Error::Corrupt);
            }
        }
    }

    async fn make_dir(&self, path: &str) -> Result<(), Error> {
        done(self.share.make_dir(ROOT, relative(path)?.as_bytes(), FOLDER_MODE).await)
    }

    async fn remove(&self, path: &str, flags: u16) -> Result<(), Error> {
        done(self.share.remove(ROOT, relative(path)?.as_bytes(), flags).await)
    }

    async fn rename_to(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (relative(from)?, relative(to)?);
        done(self.share.rename((ROOT, from.as_bytes()), (ROOT, to.as_bytes()), 0).await)
    }
}

impl Tree for Shared {
    fn kind(&self) -> &'static str {
        "share"
    }

    fn label(&self) -> Option<String> {
        Some(self.share.tag().to_string())
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        self.share.drive(self.find(path))
    }

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        self.share.drive(self.list(path))
    }

    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        self.share.drive(self.open_as(path, options))
    }

    fn create_dir(&self, path: &str) -> Result<(), Error> {
        self.share.drive(self.make_dir(path))
    }

    fn remove_file(&self, path: &str) -> Result<(), Error> {
        self.share.drive(self.remove(path, 0))
    }

    fn remove_dir(&self, path: &str) -> Result<(), Error> {
        self.share.drive(self.remove(path, REMOVE_DIRECTORY))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.share.drive(self.rename_to(from, to))
    }

    fn metadata_async<'a>(&'a self, path: &'a str) -> Answer<'a, Metadata> {
        Box::pin(self.find(path))
    }

    fn read_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Entry>> {
        Box::pin(self.list(path))
    }

    fn open_async<'a>(&'a self, path: &'a str, options: OpenOptions) -> Answer<'a, Source> {
        Box::pin(self.open_as(path, options))
    }

    fn create_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(self.make_dir(path))
    }

    fn remove_file_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(self.remove(path, 0))
    }

    fn remove_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(self.remove(path, REMOVE_DIRECTORY))
    }

    fn rename_async<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        Box::pin(self.rename_to(from, to))
    }

    fn watch(&self, path: &str) -> Result<Watch, Error> {
        let path = relative(path)?;
        share::Watch::new(self.share, ROOT, path.as_bytes()).map(Watch::new).map_err(error)
    }
}

/// The path of an entry of a folder, relative to the root.
fn under(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.into() } else { [folder, "/", name].concat() }
}

/// A change of a name.
fn done(outcome: Result<u64, Errno>) -> Result<(), Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(Errno::Invalid | Errno::NameTooLong) => Err(Error::Invalid),
        Err(errno) => Err(error(errno)),
    }
}

/// An open file. Its metadata are as they were when it was opened, and as it was changed since through this handle.
#[derive(Clone)]
pub(super) struct SharedFile {
    open: Arc<Open>,
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
        done(self.open.share.change(self.open.handle, b"", 0, &change).block())?;
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
