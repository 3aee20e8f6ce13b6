//! Paths of guests, and how they are looked up.

use hv_abi::Errno;
use hv_abi::io::share::{NAME_MAX, PATH_MAX};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno as Host;
use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

/// A path of a guest that the kernel may be asked about: not empty, relative, without NUL, and no longer than [`PATH_MAX`], names no
/// longer than [`NAME_MAX`]. Any other bytes are allowed. It may have `..`: the kernel keeps it beneath the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelativePath(CString);

impl RelativePath {
    /// Checks a path.
    ///
    /// # Errors
    ///
    /// [`Errno::NameTooLong`], [`Errno::NotFound`] if it is empty, [`Errno::Outside`] if it begins with a slash, and [`Errno::Invalid`] if
    /// it has a NUL.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Errno> {
        if bytes.len() > PATH_MAX || bytes.split(|&byte| byte == b'/').any(|name| name.len() > NAME_MAX) {
            return Err(Errno::NameTooLong);
        }
        match bytes.first() {
            None => return Err(Errno::NotFound),
            Some(b'/') => return Err(Errno::Outside),
            _ => {}
        }
        CString::new(bytes).map(RelativePath).map_err(|_| Errno::Invalid)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

/// Times that a look-up is made again after something was renamed meanwhile: with `..` in it, the kernel then cannot say where it leads.
const TRIES: u32 = 16;

/// Finds what a path leads to, and opens nothing: of a FIFO or a device not even its driver hears.
pub(crate) fn look_up(from: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd, Host> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 1;
    loop {
        match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
            Err(Host::AGAIN | Host::INTR) if tries < TRIES => tries += 1,
            found => return found,
        }
    }
}

/// Finds what a path leads to, as [`look_up`] does, if the host has all names of the way in memory, and it does not leave the file system that it
/// begins in. `None`: it does not, or cannot say so (before Linux 5.12).
pub(crate) fn look_up_now(from: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Option<Result<OwnedFd, Host>> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV | ResolveFlags::CACHED;
    match rustix::fs::openat2(from, path, flags, Mode::empty(), resolve) {
        found @ (Ok(_) | Err(Host::NOENT)) => Some(found),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_and_relative() {
        let path = |bytes: &[u8]| RelativePath::new(bytes.to_vec()).map(drop);
        assert_eq!(path(b"a/../b/\xff\n"), Ok(()));
        assert_eq!(path(b""), Err(Errno::NotFound));
        assert_eq!(path(b"/etc"), Err(Errno::Outside));
        assert_eq!(path(b"a\0b"), Err(Errno::Invalid));
        assert_eq!(path(&[b'n'; 255]), Ok(()));
        assert_eq!(path(&[b'n'; 256]), Err(Errno::NameTooLong));
        assert_eq!(path(&b"a/".repeat(2047)), Ok(()));
        assert_eq!(path(&b"a/".repeat(2048)), Err(Errno::NameTooLong));
    }
}
