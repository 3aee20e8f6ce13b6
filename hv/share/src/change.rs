//! The operations that change something.

use super::attributes::{attributes, kind};
use super::errno::errno;
use super::handles::Node;
use super::path::{RelativePath, look_up};
use super::share::Share;
use hv_abi::Errno;
use hv_abi::io::share::{
    REMOVE_DIRECTORY, RENAME_EXCHANGE, RENAME_NO_REPLACE, SET_ACCESSED, SET_MODE, SET_MODIFIED, SET_OWNER,
    SET_SIZE, ShareChange, TIME_NOW, kind,
};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Bits of a mode that a guest may set. A program of the host must not become another user's by what a guest does to a file.
const MODE: u32 = 0o1777;

/// Where a name is made, changed or removed.
struct Place {
    folder: OwnedFd,
    name: CString,
}

impl Share {
    /// Refuses what would change a read-only share.
    pub(crate) fn writable(&self) -> Result<(), Errno> {
        if self.folder().spec().read_only { Err(Errno::ReadOnly) } else { Ok(()) }
    }

    /// The folder that the last name of a path is in, and that name, which the kernel does not look up: no link there is followed.
    fn place(&self, at: u64, path: Option<&RelativePath>) -> Result<Place, Errno> {
        let path = path.ok_or(Errno::Invalid)?;
        let bytes = path.as_c_str().to_bytes();
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        let (folder, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (&b"."[..], bytes),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::Invalid);
        }
        let path = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::Invalid);
        let start = self.start(at)?;
        let folder = look_up(self.descriptor(&start), &path(folder)?, OFlags::DIRECTORY).map_err(errno)?;
        Ok(Place { folder, name: path(name)? })
    }

    /// Makes a file that is not there, and opens it. Fails with [`Errno::Exists`] if something has the name by now.
    pub(crate) fn create(
        &self,
        at: u64,
        path: Option<&RelativePath>,
        access: OFlags,
        mode: u32,
    ) -> Result<Node, Errno> {
        let place = self.place(at, path)?;
        let flags = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.folder, &place.name, flags, allowed(mode)?).map_err(errno)?;
        Ok(Node::new(fd, kind::FILE, access))
    }

    /// The file of a handle, for the caller to write.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`], also if it was not opened to be written.
    pub fn file_to_write(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        let node = self.node(handle)?;
        if node.writable { Ok(node) } else { Err(Errno::BadHandle) }
    }

    /// Brings what was written to the host's disk: all of the file or folder, or its data alone.
    ///
    /// # Errors
    ///
    /// [`Errno::BadHandle`], also if it was opened neither to be read nor to be written, and what the host says.
    pub fn sync(&self, handle: u64, data_only: bool) -> Result<(), Errno> {
        let node = self.node(handle)?;
        if !node.readable && !node.writable {
            return Err(Errno::BadHandle);
        }
        if data_only { rustix::fs::fdatasync(node) } else { rustix::fs::fsync(node) }.map_err(errno)
    }

    /// Makes a folder.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`], [`Errno::Exists`], [`Errno::Denied`] for a mode with set-id bits, those of a path, and what the host says.
    pub fn make_dir(&self, at: u64, path: Option<&RelativePath>, mode: u32) -> Result<(), Errno> {
        self.writable()?;
        let place = self.place(at, path)?;
        rustix::fs::mkdirat(&place.folder, &place.name, allowed(mode)?).map_err(errno)
    }

    /// Removes a name: of a folder that is empty with [`REMOVE_DIRECTORY`], of anything else without it.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`], [`Errno::NotEmpty`], [`Errno::IsDirectory`], [`Errno::NotDirectory`], those of a path, and what the host says.
    pub fn remove(&self, at: u64, path: Option<&RelativePath>, flags: u16) -> Result<(), Errno> {
        self.writable()?;
        let flags = match flags {
            0 => AtFlags::empty(),
            REMOVE_DIRECTORY => AtFlags::REMOVEDIR,
            _ => return Err(Errno::Invalid),
        };
        let place = self.place(at, path)?;
        rustix::fs::unlinkat(&place.folder, &place.name, flags).map_err(errno)
    }

    /// Gives something another name, in place of what has that name.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`]; [`Errno::Exists`] with [`RENAME_NO_REPLACE`]; [`Errno::NotEmpty`]; [`Errno::Outside`] between file systems; those of
    /// paths, and what the host says.
    pub fn rename(
        &self,
        from: (u64, Option<&RelativePath>),
        to: (u64, Option<&RelativePath>),
        flags: u16,
    ) -> Result<(), Errno> {
        self.writable()?;
        let flags = match flags {
            0 => RenameFlags::empty(),
            RENAME_NO_REPLACE => RenameFlags::NOREPLACE,
            RENAME_EXCHANGE => RenameFlags::EXCHANGE,
            _ => return Err(Errno::Invalid),
        };
        let (from, to) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
        rustix::fs::renameat_with(&from.folder, &from.name, &to.folder, &to.name, flags).map_err(errno)
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    ///
    /// As [`rename`](Self::rename); [`Errno::Denied`] for a folder.
    pub fn link(
        &self,
        from: (u64, Option<&RelativePath>),
        to: (u64, Option<&RelativePath>),
    ) -> Result<(), Errno> {
        self.writable()?;
        let (from, to) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
        rustix::fs::linkat(&from.folder, &from.name, &to.folder, &to.name, AtFlags::empty()).map_err(errno)
    }

    /// Makes a symbolic link with any text: where it leads matters when it is followed.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`], [`Errno::Exists`], [`Errno::Invalid`] for a text that is empty or has a NUL, those of a path, and what the host says.
    pub fn symlink(&self, at: u64, path: Option<&RelativePath>, text: &[u8]) -> Result<(), Errno> {
        self.writable()?;
        if text.is_empty() || text.contains(&0) {
            return Err(Errno::Invalid);
        }
        let place = self.place(at, path)?;
        rustix::fs::symlinkat(OsStr::from_bytes(text), &place.folder, &place.name).map_err(errno)
    }

    /// Changes attributes of a file or folder, in the order size, owner, mode, times.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`]; [`Errno::Invalid`] for unknown bits, a size above 2^63 or a time that is none; [`Errno::Denied`] for set-id bits, and for what
    /// the user of hv may neither read nor write; [`Errno::NotSupported`] for what is neither file nor folder; those of a path, and what the host says.
    /// What came before it in that order is done.
    pub fn change(
        &self,
        at: u64,
        path: Option<&RelativePath>,
        follow: bool,
        change: &ShareChange,
    ) -> Result<(), Errno> {
        self.writable()?;
        let has = |bit: u32| change.what & bit != 0;
        if has(!(SET_MODE | SET_OWNER | SET_SIZE | SET_ACCESSED | SET_MODIFIED)) {
            return Err(Errno::Invalid);
        }
        let mode = if has(SET_MODE) { Some(allowed(change.mode)?) } else { None };
        let times = Timestamps {
            last_access: time(has(SET_ACCESSED), change.accessed, change.accessed_ns)?,
            last_modification: time(has(SET_MODIFIED), change.modified, change.modified_ns)?,
        };
        let found = self.find(at, path, follow)?;
        let kind = kind(attributes(found.as_fd(), c"", None).map_err(errno)?.mode);
        if !matches!(kind, kind::FILE | kind::DIRECTORY) {
            return Err(Errno::NotSupported);
        }
        if has(SET_SIZE) {
            i64::try_from(change.size).map_err(|_| Errno::Invalid)?;
            let file = self.reopen(found.as_fd(), OFlags::WRONLY)?;
            rustix::fs::ftruncate(file, change.size).map_err(errno)?;
        }
        if !has(!SET_SIZE) {
            return Ok(());
        }
        // Through a file that is open: the jail bounds what can be opened, and not whose mode is changed by a name.
        let file = match self.reopen(found.as_fd(), OFlags::RDONLY) {
            Err(Errno::Denied) if kind == kind::FILE => self.reopen(found.as_fd(), OFlags::WRONLY),
            file => file,
        }?;
        if has(SET_OWNER) {
            let uid = (change.uid != u32::MAX).then(|| Uid::from_raw(change.uid));
            let gid = (change.gid != u32::MAX).then(|| Gid::from_raw(change.gid));
            rustix::fs::fchown(&file, uid, gid).map_err(errno)?;
        }
        if let Some(mode) = mode {
            rustix::fs::fchmod(&file, mode).map_err(errno)?;
        }
        if has(SET_ACCESSED | SET_MODIFIED) {
            rustix::fs::futimens(&file, &times).map_err(errno)?;
        }
        Ok(())
    }
}

/// A mode that a guest may set.
fn allowed(mode: u32) -> Result<Mode, Errno> {
    match mode {
        _ if mode & !0o7777 != 0 => Err(Errno::Invalid),
        _ if mode & !MODE != 0 => Err(Errno::Denied),
        _ => Ok(Mode::from_raw_mode(mode)),
    }
}

/// A time that is set: this one, that of now, or what it was.
fn time(is_set: bool, seconds: i64, nanoseconds: u32) -> Result<Timespec, Errno> {
    match nanoseconds {
        _ if !is_set => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        TIME_NOW => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        0..1_000_000_000 => Ok(Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }),
        _ => Err(Errno::Invalid),
    }
}

#[cfg(test)]
mod tests;
