//! A file system whose storage can stop answering, and come back: FUSE, served by this process.
//!
//! Only another process may use it. One that waits for its own file system cannot end.

use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request,
};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;

const ROOT: u64 = 1;
const DISK: u64 = 2;
const NAME: &str = "disk.img";
/// How long the kernel may cache what it was told of what never changes.
const LONG: Duration = Duration::from_secs(3600);

/// What the file is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its name, its size, to be opened.
    Name,
    /// Data.
    Read,
    /// To take data.
    Write,
    /// To keep the data that it has taken.
    Flush,
}

const DATA: [Ask; 3] = [Ask::Read, Ask::Write, Ask::Flush];
const ALL: [Ask; 4] = [Ask::Name, Ask::Read, Ask::Write, Ask::Flush];

/// A folder with one file, which answers or does not.
pub struct Stalling {
    folder: TempDir,
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
}

#[derive(Default)]
struct State {
    /// What is not answered.
    stalled: &'static [Ask],
    /// Whether answers are errors.
    failed: bool,
    /// Reads that have come.
    asked: u64,
    /// Requests that have come meanwhile.
    held: Vec<Answer>,
}

/// Answers a request: with an error if it is told that the storage has failed.
type Answer = Box<dyn FnOnce(bool) + Send>;

impl Stalling {
    /// Mounts one whose file has so many bytes, all zero. `None`, and a line that says why, where that cannot be.
    pub fn new(size: u64) -> Option<Stalling> {
        Stalling::with(size, LONG)
    }

    /// The same, where the kernel asks for name and size each time.
    pub fn forgotten(size: u64) -> Option<Stalling> {
        Stalling::with(size, Duration::ZERO)
    }

    fn with(size: u64, believed: Duration) -> Option<Stalling> {
        let folder = TempDir::new().expect("room for a folder");
        let file = tempfile::tempfile().expect("room for a file");
        file.set_len(size).expect("room for a file");
        let state = Arc::new(Mutex::new(State::default()));
        let served = Served { file: Arc::new(file), size, believed, state: state.clone() };
        let options = [MountOption::FSName("stalling".into())];
        match fuser::spawn_mount2(served, folder.path(), &options) {
            Ok(session) => Some(Stalling { folder, state, session: Some(session) }),
            Err(error) => {
                crate::skip(format_args!("needs FUSE: {error}"));
                None
            }
        }
    }

    /// The file.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// From now on nothing that concerns the file's data is answered.
    pub fn stall(&self) {
        self.state().stalled = &DATA;
    }

    /// From now on nothing is answered.
    pub fn stall_wholly(&self) {
        self.state().stalled = &ALL;
    }

    /// From now on this is not answered, and all else is.
    pub fn stall_only(&self, ask: Ask) {
        let at = ALL.iter().position(|other| *other == ask).expect("all are there");
        self.state().stalled = &ALL[at..=at];
    }

    /// Answers what has come, and all that comes.
    pub fn release(&self) {
        self.end_stall(false);
    }

    /// Answers what has come, and all that comes, with errors.
    pub fn fail(&self) {
        self.end_stall(true);
    }

    fn end_stall(&self, failed: bool) {
        let held = {
            let mut state = self.state();
            (state.stalled, state.failed) = (&[], failed);
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|answer| answer(failed));
    }

    /// How many reads have come.
    pub fn asked(&self) -> u64 {
        self.state().asked
    }

    /// How many requests wait for an answer.
    pub fn waiting(&self) -> usize {
        self.state().held.len()
    }
}

impl Drop for Stalling {
    fn drop(&mut self) {
        // Before anything else: a process that waits could not even be killed.
        self.release();
        let path = CString::new(self.folder.path().as_os_str().as_bytes()).expect("a path");
        // SAFETY: the string lives during the call.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        drop(self.session.take());
    }
}

struct Served {
    file: Arc<File>,
    size: u64,
    /// How long the kernel may believe what it was told.
    believed: Duration,
    state: Arc<Mutex<State>>,
}

impl Served {
    /// Answers now, or once the storage is back.
    fn answer(&self, ask: Ask, answer: impl FnOnce(bool) + Send + 'static) {
        let mut state = self.state.lock().expect("no panic while held");
        if state.stalled.contains(&ask) {
            return state.held.push(Box::new(answer));
        }
        let failed = state.failed;
        drop(state);
        answer(failed);
    }

    fn attributes(&self, ino: u64) -> FileAttr {
        let (kind, perm, size) = match ino {
            ROOT => (FileType::Directory, 0o755, 0),
            _ => (FileType::RegularFile, 0o644, self.size),
        };
        let (blocks, time) = (size / 512, UNIX_EPOCH);
        let (atime, mtime, ctime, crtime) = (time, time, time, time);
        let (uid, gid, rdev, flags, nlink, blksize) = (0, 0, 0, 0, 1, 4096);
        FileAttr {
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            crtime,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
            flags,
        }
    }
}

fn errno(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

impl Filesystem for Served {
    fn lookup(&mut self, _: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let attributes = (parent == ROOT && name == NAME).then(|| self.attributes(DISK));
        let believed = self.believed;
        self.answer(Ask::Name, move |failed| match attributes {
            _ if failed => reply.error(libc::EIO),
            Some(attributes) => reply.entry(&believed, &attributes, 0),
            None => reply.error(libc::ENOENT),
        });
    }

    fn getattr(&mut self, _: &Request<'_>, ino: u64, _: Option<u64>, reply: ReplyAttr) {
        let attributes = self.attributes(ino);
        // Whoever looks at the folder alone finds it: it could not be taken away otherwise.
        let believed = if ino == ROOT { LONG } else { self.believed };
        self.answer(Ask::Name, move |failed| match failed && attributes.ino != ROOT {
            true => reply.error(libc::EIO),
            false => reply.attr(&believed, &attributes),
        });
    }

    fn open(&mut self, _: &Request<'_>, _: u64, _: i32, reply: ReplyOpen) {
        self.answer(Ask::Name, move |failed| match failed {
            true => reply.error(libc::EIO),
            false => reply.opened(0, 0),
        });
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        size: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        let file = self.file.clone();
        self.state.lock().expect("no panic while held").asked += 1;
        self.answer(Ask::Read, move |failed| {
            let mut bytes = vec![0; size as usize];
            match file.read_at(&mut bytes, offset as u64) {
                _ if failed => reply.error(libc::EIO),
                Ok(count) => reply.data(&bytes[..count]),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        data: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        let (file, data) = (self.file.clone(), data.to_vec());
        self.answer(Ask::Write, move |failed| match file.write_at(&data, offset as u64) {
            _ if failed => reply.error(libc::EIO),
            Ok(count) => reply.written(count as u32),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, _: u64, _: bool, reply: ReplyEmpty) {
        self.answer(Ask::Flush, move |failed| match failed {
            true => reply.error(libc::EIO),
            false => reply.ok(),
        });
    }
}
