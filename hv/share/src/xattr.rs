//! Extended attributes (xattr(7)): names with values, of files and folders that are open.
//!
//! Only those that begin with `user.`. The others mean something to the host's kernel: permissions (`system.posix_acl_access`), or what a program may do that
//! is run (`security.capability`). A guest must not give those to a file of the host.

use super::errno::errno;
use super::handles::Node;
use super::share::Share;
use hv_abi::Errno;
use hv_abi::io::share::{NAME_MAX, XATTR_CREATE, XATTR_MAX, XATTR_REPLACE};
use rustix::fs::XattrFlags;
use std::ffi::CString;
use std::sync::Arc;

const PREFIX: &[u8] = b"user.";

/// A name that a guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrName(CString);

impl XattrName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`Errno::NameTooLong`], [`Errno::NotSupported`] if it does not begin with `user.`, and [`Errno::Invalid`] for one with a NUL or with nothing behind that.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Errno> {
        match bytes.strip_prefix(PREFIX) {
            _ if bytes.len() > NAME_MAX => Err(Errno::NameTooLong),
            None => Err(Errno::NotSupported),
            Some([]) => Err(Errno::Invalid),
            Some(_) => CString::new(bytes).map(XattrName).map_err(|_| Errno::Invalid),
        }
    }
}

impl Share {
    /// A file or folder that is open for more than to stand for its place.
    fn opened(&self, handle: u64) -> Result<Arc<Node>, Errno> {
        let node = self.node(handle)?;
        if node.readable || node.writable { Ok(node) } else { Err(Errno::BadHandle) }
    }

    /// The value of an attribute.
    ///
    /// # Errors
    ///
    /// [`Errno::NotFound`] if there is none, [`Errno::BadHandle`], [`Errno::NotSupported`] where the file system has no such attributes, what the host says.
    pub fn xattr(&self, handle: u64, name: &XattrName) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; XATTR_MAX as usize];
        let len = rustix::fs::fgetxattr(self.opened(handle)?, &name.0, &mut value[..]).map_err(errno)?;
        value.truncate(len);
        Ok(value)
    }

    /// Sets an attribute.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`]; [`Errno::Exists`] and [`Errno::NotFound`] as the flags have it; [`Errno::Invalid`] for other flags; [`Errno::NoSpace`]; those of
    /// [`xattr`](Self::xattr).
    pub fn set_xattr(&self, handle: u64, name: &XattrName, value: &[u8], flags: u16) -> Result<(), Errno> {
        self.writable()?;
        let flags = match flags {
            0 => XattrFlags::empty(),
            XATTR_CREATE => XattrFlags::CREATE,
            XATTR_REPLACE => XattrFlags::REPLACE,
            _ => return Err(Errno::Invalid),
        };
        rustix::fs::fsetxattr(self.opened(handle)?, &name.0, value, flags).map_err(errno)
    }

    /// The names of all attributes that a guest may use, each with a NUL behind it.
    ///
    /// # Errors
    ///
    /// As [`xattr`](Self::xattr).
    pub fn list_xattrs(&self, handle: u64) -> Result<Vec<u8>, Errno> {
        let mut names = vec![0; XATTR_MAX as usize];
        let len = rustix::fs::flistxattr(self.opened(handle)?, &mut names[..]).map_err(errno)?;
        let names = names[..len].split_inclusive(|&byte| byte == 0);
        Ok(names.filter(|name| name.starts_with(PREFIX)).flatten().copied().collect())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    ///
    /// [`Errno::ReadOnly`], and those of [`xattr`](Self::xattr).
    pub fn remove_xattr(&self, handle: u64, name: &XattrName) -> Result<(), Errno> {
        self.writable()?;
        rustix::fs::fremovexattr(self.opened(handle)?, &name.0).map_err(errno)
    }
}
