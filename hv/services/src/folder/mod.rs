//! Values in files of a folder, each file a value: whoever has the folder can read them.
//!
//! A value is written to a new file, which takes the place of the old one when all of it is on the disk: what was acknowledged is
//! there after a crash of hv or of the host, and nobody ever sees half a value. Changes are made one after the other, also those of
//! another hv that uses the same folder.
//!
//! All of this blocks: it is for the threads of [`Files`](crate::files::Files).

mod names;

pub(crate) use names::{decode, encode};

use crate::list::Page;
use crate::refusal::Refusal;
use hv_abi::io::services::{Condition, Status};
use hv_host::escape::escape;
use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, fdatasync, flock, fstat, fsync, openat,
    renameat, statat, unlinkat,
};
use rustix::io::{Errno, pread, write};
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Whom all changes wait for.
const LOCK: &str = ".lock";

/// What the names of files begin with that are not there yet.
const NEW: &str = ".new-";

/// Files that are not there yet and that nobody has touched for so long are what a crash has left.
const LEFT: Duration = Duration::from_secs(3600);

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}; make the folder, and let hv's user read and write it", escape(path))]
pub struct FolderError {
    /// The folder.
    path: PathBuf,
    /// Why not.
    #[source]
    error: std::io::Error,
}

/// A folder with values.
pub(crate) struct Folder {
    folder: OwnedFd,
    /// Held for each change, and by its file for other processes.
    lock: Mutex<OwnedFd>,
    /// Most bytes of all values.
    most: Option<u64>,
    used: AtomicU64,
}

const FILE: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

impl Folder {
    /// Opens a folder, and counts what is in it.
    pub(crate) fn open(path: &Path, most: Option<u64>) -> Result<Arc<Folder>, FolderError> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = openat(CWD, path, flags, Mode::empty())?;
            let lock = openat(
                &folder,
                LOCK,
                OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::RUSR | Mode::WUSR,
            )?;
            let folder = Folder { folder, lock: Mutex::new(lock), most, used: AtomicU64::new(0) };
            folder.count()?;
            Ok(Arc::new(folder))
        };
        open().map_err(|error: Errno| FolderError { path: path.into(), error: error.into() })
    }

    /// Calls this with the name of each file.
    fn each(&self, mut work: impl FnMut(&CStr)) -> Result<(), Errno> {
        for entry in Dir::read_from(&self.folder)? {
            work(entry?.file_name());
        }
        Ok(())
    }

    /// Adds up what is there, and removes what a crash has left.
    fn count(&self) -> Result<(), Errno> {
        let mut used = 0;
        let long_ago = SystemTime::now()
            .checked_sub(LEFT)
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        self.each(|name| {
            let Ok(stat) = statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
            if decode(name.to_bytes()).is_some() {
                used += stat.st_size as u64;
            } else if name.to_bytes().starts_with(NEW.as_bytes())
                && long_ago.is_some_and(|long_ago| (stat.st_mtime as u64) < long_ago.as_secs())
            {
                let _ = unlinkat(&self.folder, name, AtFlags::empty());
            }
        })?;
        self.used.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// The file of a key, open to be read, and its size.
    pub(crate) fn file(&self, key: &str) -> Result<(OwnedFd, u64), Refusal> {
        let file = openat(&self.folder, name(key)?, OFlags::RDONLY | FILE, Mode::empty())?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Refusal::new(Status::Failed, "what is there is no file"));
        }
        Ok((file, stat.st_size as u64))
    }

    /// The value of a key, of at most so many bytes.
    pub(crate) fn get(&self, key: &str, most: u64) -> Result<Vec<u8>, Refusal> {
        let (file, size) = self.file(key)?;
        if size > most {
            return Err(Refusal::new(
                Status::TooLarge,
                format!("the value has {size} bytes, of {most} that are allowed"),
            ));
        }
        read(&file, 0, size as usize)
    }

    /// Keeps room for so many bytes more.
    fn reserve(&self, bytes: u64) -> Result<(), Refusal> {
        let most = self.most.unwrap_or(u64::MAX);
        let add = |used: u64| used.checked_add(bytes).filter(|used| *used <= most);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(Refusal::new(Status::Limited, format!("the binding is full: it has {most} bytes in all")))
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// Makes the change while nobody else makes one.
    fn alone<T>(&self, change: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
        let lock = self.lock.lock().expect("no panic while held");
        flock(&*lock, FlockOperation::LockExclusive)?;
        let result = change();
        flock(&*lock, FlockOperation::Unlock)?;
        result
    }

    /// Whether the condition holds for what is there now.
    fn check(&self, key: &str, condition: Condition, version: u64) -> Result<(), Refusal> {
        let conflict = || Err(Refusal::new(Status::Conflict, ""));
        match condition {
            Condition::Always => Ok(()),
            Condition::Absent => match self.file(key) {
                Err(Refusal::Status(Status::NotFound, _)) => Ok(()),
                Err(refusal) => Err(refusal),
                Ok(_) => conflict(),
            },
            Condition::Version => match self.get(key, u64::MAX) {
                Ok(value) if crate::store::version(&value) == version => Ok(()),
                Ok(_) | Err(Refusal::Status(Status::NotFound, _)) => conflict(),
                Err(refusal) => Err(refusal),
            },
        }
    }

    /// Begins a file of so many bytes that will have this key.
    pub(crate) fn begin(self: &Arc<Self>, key: &str, size: u64) -> Result<NewFile, Refusal> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (key_name, number) = (name(key)?, NEXT.fetch_add(1, Ordering::Relaxed));
        self.reserve(size)?;
        let name = format!("{NEW}{}-{number}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(NewFile {
                folder: self.clone(),
                file,
                name,
                key: key.into(),
                key_name,
                size,
                written: 0,
                finished: false,
            }),
            Err(error) => {
                self.give_back(size);
                Err(error.into())
            }
        }
    }

    /// Removes a key, if the condition holds.
    pub(crate) fn delete(&self, key: &str, condition: Condition, version: u64) -> Result<(), Refusal> {
        let name = name(key)?;
        let size = self.alone(|| {
            let size = self.file(key).map(|(_, size)| size)?;
            self.check(key, condition, version)?;
            unlinkat(&self.folder, &name, AtFlags::empty())?;
            Ok(size)
        })?;
        self.give_back(size);
        fsync(&self.folder)?;
        Ok(())
    }

    /// Keys that begin with `prefix`.
    pub(crate) fn list(&self, prefix: &str, mut page: Page) -> Result<Page, Refusal> {
        self.each(|name| {
            if let Some(key) = decode(name.to_bytes()).filter(|key| key.starts_with(prefix)) {
                page.offer(key, 0);
            }
        })?;
        let keys: Vec<_> = page.keys().cloned().collect();
        for key in keys {
            if let Some(stat) =
                encode(&key).and_then(|name| statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW).ok())
            {
                page.set_size(&key, stat.st_size as u64);
            }
        }
        Ok(page)
    }
}

fn name(key: &str) -> Result<String, Refusal> {
    encode(key).ok_or_else(|| {
        let why = "a key of a folder has 1 to 240 bytes, where all but letters, digits, -, _ and . count three times";
        Refusal::new(Status::Invalid, why)
    })
}

/// So many bytes of a file from this place on, or fewer if it ends before.
pub(crate) fn read(file: &OwnedFd, offset: u64, len: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match pread(file, &mut bytes[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// A value that is being written. One that is dropped is removed.
pub(crate) struct NewFile {
    folder: Arc<Folder>,
    file: OwnedFd,
    name: String,
    key: String,
    key_name: String,
    size: u64,
    written: u64,
    finished: bool,
}

impl NewFile {
    /// Writes more of it.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        self.written += bytes.len() as u64;
        if self.written > self.size {
            return Err(other_size());
        }
        while !bytes.is_empty() {
            match write(&self.file, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// All of it has been written: it takes its place, if the condition holds.
    pub(crate) fn finish(mut self, condition: Condition, version: u64) -> Result<(), Refusal> {
        if self.written != self.size {
            return Err(other_size());
        }
        fdatasync(&self.file)?;
        let folder = self.folder.clone();
        let old = folder.alone(|| {
            folder.check(&self.key, condition, version)?;
            let old = statat(&folder.folder, &self.key_name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(0, |stat| stat.st_size);
            renameat(&folder.folder, &self.name, &folder.folder, &self.key_name)?;
            Ok(old as u64)
        })?;
        self.finished = true;
        folder.give_back(old);
        // Without this the name could still be lost.
        fsync(&folder.folder)?;
        Ok(())
    }
}

fn other_size() -> Refusal {
    Refusal::new(Status::Invalid, "it has not as many bytes as were announced")
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            let _ = unlinkat(&self.folder.folder, &self.name, AtFlags::empty());
            self.folder.give_back(self.size);
        }
    }
}

#[cfg(test)]
mod tests;
