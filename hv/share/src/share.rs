//! The operations of a share.

use super::attributes::{attributes, kind};
use super::directory;
use super::errno::errno;
use super::folder::Folder;
use super::handles::{Handles, Node};
use super::path::{RelativePath, look_up, look_up_now};
use super::watch::Watches;
use hv_abi::Errno;
use hv_abi::io::share::{
    NO_FOLLOW, OPEN_CREATE, OPEN_DIRECTORY, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE, ROOT,
    ShareAttributes, ShareSpace, kind,
};
use rustix::fs::{Mode, OFlags};
use rustix::rand::GetRandomFlags;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A folder with what one guest has open in it. All methods may be called from several threads; each may block for as long as the host's
/// file system does.
#[derive(Debug)]
pub struct Share {
    folder: Folder,
    handles: Handles,
    watches: Watches,
}

/// A handle that was given back, whose file is not closed yet.
#[derive(Debug)]
pub struct Closing {
    handle: u64,
    node: Arc<Node>,
}

/// What a path starts from: the root, or a handle.
pub(crate) enum Start {
    Root,
    Node(Arc<Node>),
}

impl Share {
    /// The folder, with nothing open. Its handles begin at a random number: a guest that was saved, and goes on with a new share, is told that
    /// its old handles are gone.
    ///
    /// # Errors
    ///
    /// If the host has no random numbers.
    pub fn new(folder: Folder) -> std::io::Result<Self> {
        let mut serial = [0; 8];
        rustix::rand::getrandom(&mut serial, GetRandomFlags::empty())?;
        let handles = Handles::new(u64::from_ne_bytes(serial));
        Ok(Share { folder, handles, watches: Watches::default() })
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    fn uid(&self) -> Option<u32> {
        self.folder.spec().uid
    }

    pub(crate) fn start(&self, handle: u64) -> Result<Start, Errno> {
        Ok(if handle == ROOT { Start::Root } else { Start::Node(self.handles.get(handle)?) })
    }

    pub(crate) fn descriptor<'a>(&'a self, start: &'a Start) -> BorrowedFd<'a> {
        match start {
            Start::Root => self.folder.root(),
            Start::Node(node) => node.as_fd(),
        }
    }

    /// What a path leads to; without one, what it starts from.
    pub(crate) fn find(&self, at: u64, path: Option<&RelativePath>, follow: bool) -> Result<OwnedFd, Errno> {
        let start = self.start(at)?;
        let from = self.descriptor(&start);
        let flags = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        match path {
            None => rustix::io::fcntl_dupfd_cloexec(from, 0),
            Some(path) => look_up(from, path.as_c_str(), flags),
        }
        .map_err(errno)
    }

    /// Opens what a path from a handle leads to, with [`OPEN_READ`] and its kin; `mode` is that of a file that is made. Returns its handle.
    ///
    /// # Errors
    ///
    /// [`Errno::NotSupported`] for a FIFO, a socket or a device that is to be read or written, [`Errno::TooManyLinks`] for a link that is not to be
    /// followed, [`Errno::Exists`] for a link that leads nowhere where a file is to be made, [`Errno::IsDirectory`] for a folder that is to be written,
    /// [`Errno::ReadOnly`], [`Errno::TooManyOpen`], [`Errno::BadHandle`], [`Errno::Outside`], and what the host says.
    pub fn open(&self, at: u64, path: Option<&RelativePath>, flags: u16, mode: u32) -> Result<u64, Errno> {
        let has = |bit: u16| flags & bit != 0;
        let of_write = OPEN_CREATE | OPEN_EXCLUSIVE | OPEN_TRUNCATE;
        let contradiction = has(of_write) && !has(OPEN_WRITE)
            || has(OPEN_EXCLUSIVE) && !has(OPEN_CREATE)
            || has(OPEN_CREATE) && has(OPEN_DIRECTORY);
        if has(!(OPEN_READ | OPEN_WRITE | of_write | OPEN_DIRECTORY | NO_FOLLOW)) || contradiction {
            return Err(Errno::Invalid);
        }
        let access = match (has(OPEN_READ), has(OPEN_WRITE)) {
            (true, true) => OFlags::RDWR,
            (true, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
            (false, false) => OFlags::PATH,
        };
        if has(OPEN_WRITE) {
            self.writable()?;
        }
        // A guest that is at its limit has no file opened for it.
        if !self.handles.has_room() {
            return Err(Errno::TooManyOpen);
        }
        if has(OPEN_EXCLUSIVE) {
            return self.handles.insert(self.create(at, path, access, mode)?);
        }
        match self.open_found(at, path, flags, access) {
            Err(Errno::NotFound) if has(OPEN_CREATE) => {}
            opened => return self.handles.insert(opened?),
        }
        match self.create(at, path, access, mode) {
            // Somebody else has made it meanwhile; or it is a link that leads nowhere.
            Err(Errno::Exists) => match self.open_found(at, path, flags, access) {
                Err(Errno::NotFound) => Err(Errno::Exists),
                opened => self.handles.insert(opened?),
            },
            made => self.handles.insert(made?),
        }
    }

    /// Opens what is there.
    fn open_found(
        &self,
        at: u64,
        path: Option<&RelativePath>,
        flags: u16,
        access: OFlags,
    ) -> Result<Node, Errno> {
        let found = self.find(at, path, flags & NO_FOLLOW == 0)?;
        let attributes = attributes(found.as_fd(), c"", None).map_err(errno)?;
        let kind = kind(attributes.mode);
        if flags & OPEN_DIRECTORY != 0 && kind != kind::DIRECTORY {
            return Err(Errno::NotDirectory);
        }
        let fd = match kind {
            _ if access == OFlags::PATH => found,
            kind::FILE | kind::DIRECTORY => self.reopen(found.as_fd(), access)?,
            kind::LINK => return Err(Errno::TooManyLinks),
            _ => return Err(Errno::NotSupported),
        };
        if flags & OPEN_TRUNCATE != 0 {
            rustix::fs::ftruncate(&fd, 0).map_err(errno)?;
        }
        let is_local = self.folder.local_device() == Some(attributes.device);
        let mut node = Node::new(fd, kind, access);
        node.is_local = is_local;
        Ok(node)
    }

    /// Opens what was found, and nothing else that has come by its name meanwhile.
    pub(crate) fn reopen(&self, found: BorrowedFd<'_>, access: OFlags) -> Result<OwnedFd, Errno> {
        let name = found.as_raw_fd().to_string();
        rustix::fs::openat(self.folder.descriptors(), name, access | OFlags::CLOEXEC, Mode::empty())
            .map_err(errno)
    }

    /// Gives a handle back. What is under way on it goes on.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`]; [`Errno::Invalid`] for the root.
    pub fn close(&self, handle: u64) -> Result<(), Errno> {
        self.begin_close(handle).map(|closing| self.end_close(closing))
    }

    /// The part of [`close`](Self::close) that never waits: from now on there is no such handle.
    ///
    /// # Errors
    ///
    /// Those of [`close`](Self::close).
    pub fn begin_close(&self, handle: u64) -> Result<Closing, Errno> {
        if handle == ROOT {
            return Err(Errno::Invalid);
        }
        Ok(Closing { handle, node: self.handles.remove(handle)? })
    }

    /// The rest of it.
    pub fn end_close(&self, closing: Closing) {
        self.watches.forget(closing.handle);
        // Unless something is under way on it, this closes the file, for which network file systems wait.
        drop(closing.node);
    }

    /// The file of a handle, for the caller to read.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`], also if it was not opened to be read; [`Errno::IsDirectory`].
    pub fn file(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        let node = self.readable(handle)?;
        if node.kind == kind::DIRECTORY { Err(Errno::IsDirectory) } else { Ok(node) }
    }

    /// What has this handle, which is not the root's.
    pub(crate) fn node(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        if handle == ROOT { Err(Errno::BadHandle) } else { self.handles.get(handle) }
    }

    pub(crate) fn readable(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        let node = self.node(handle)?;
        if node.readable { Ok(node) } else { Err(Errno::BadHandle) }
    }

    /// The entries of a folder from a cookie on: whole ones, at most `limit` bytes; none at the end.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`], also if it was not opened to be read; [`Errno::NotDirectory`]; [`Errno::Invalid`] for a cookie that no entry had;
    /// what the host says.
    pub fn read_dir(
        &self,
        handle: u64,
        cookie: u64,
        with_attributes: bool,
        limit: usize,
    ) -> Result<Vec<u8>, Errno> {
        let node = self.readable(handle)?;
        if node.kind != kind::DIRECTORY {
            return Err(Errno::NotDirectory);
        }
        if i64::try_from(cookie).is_err() {
            return Err(Errno::Invalid);
        }
        directory::entries(&node, cookie, with_attributes, self.uid(), limit)
    }

    /// Attributes of what a path from a handle leads to, or of the handle itself.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] for unknown flags, [`Errno::BadHandle`], [`Errno::Outside`], and what the host says.
    pub fn attributes(
        &self,
        at: u64,
        path: Option<&RelativePath>,
        flags: u16,
    ) -> Result<ShareAttributes, Errno> {
        if flags & !NO_FOLLOW != 0 {
            return Err(Errno::Invalid);
        }
        let uid = self.uid();
        match path {
            None => {
                let start = self.start(at)?;
                attributes(self.descriptor(&start), c"", uid)
            }
            Some(_) => attributes(self.find(at, path, flags & NO_FOLLOW == 0)?.as_fd(), c"", uid),
        }
        .map_err(errno)
    }

    /// The same, if the host has all that it takes in memory. Never waits for a file system, and may be called on a thread that others wait for.
    /// `None`: the host does not, or cannot say so, or it is an error that [`Share::attributes`] finds again.
    pub fn attributes_now(
        &self,
        at: u64,
        path: Option<&RelativePath>,
        flags: u16,
    ) -> Option<Result<ShareAttributes, Errno>> {
        let start = self.start(at).ok().filter(|_| flags & !NO_FOLLOW == 0)?;
        let is_local = match &start {
            Start::Root => self.folder.local_device().is_some(),
            Start::Node(node) => node.is_local,
        };
        if !is_local {
            return None;
        }
        let from = self.descriptor(&start);
        let Some(path) = path else { return Some(attributes(from, c"", self.uid()).map_err(errno)) };
        let flags = if flags & NO_FOLLOW == 0 { OFlags::empty() } else { OFlags::NOFOLLOW };
        let found = look_up_now(from, path.as_c_str(), flags)?;
        Some(found.and_then(|found| attributes(found.as_fd(), c"", self.uid())).map_err(errno))
    }

    /// Where a symbolic link leads: its own bytes, whatever they are.
    ///
    /// # Errors
    ///
    /// [`Errno::Invalid`] if it is no link, [`Errno::BadHandle`], [`Errno::Outside`], and what the host says.
    pub fn read_link(&self, at: u64, path: Option<&RelativePath>) -> Result<Vec<u8>, Errno> {
        let link = self.find(at, path, false)?;
        if kind(attributes(link.as_fd(), c"", None).map_err(errno)?.mode) != kind::LINK {
            return Err(Errno::Invalid);
        }
        let target = rustix::fs::readlinkat(link, c"", Vec::new()).map_err(errno)?;
        Ok(target.into_bytes())
    }

    /// How much room there is where the handle is.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`], and what the host says.
    pub fn space(&self, handle: u64) -> Result<ShareSpace, Errno> {
        let start = self.start(handle)?;
        let found = rustix::fs::fstatvfs(self.descriptor(&start)).map_err(errno)?;
        Ok(ShareSpace {
            block_size: found.f_frsize,
            blocks: found.f_blocks,
            free: found.f_bfree,
            available: found.f_bavail,
            files: found.f_files,
            free_files: found.f_ffree,
        })
    }

    /// Forgets all handles: the guest is another one from now on.
    pub fn clear(&self) {
        self.handles.clear();
        self.watches.clear();
    }
}

#[cfg(test)]
mod tests;
