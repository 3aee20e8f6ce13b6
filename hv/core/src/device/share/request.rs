//! From what a guest wrote to what a thread of the share may do.
//!
//! Everything here is about one copy of the request; paths are copied out of the guest's memory once.
#![forbid(unsafe_code)]

use super::job::{Job, Place};
use crate::device::block::buffers::Buffers;
use crate::memory::{Access, GuestMemory};
use hv_abi::Errno;
use hv_abi::GuestAddr;
use hv_abi::io::block::Segment;
use hv_abi::io::share::{
    CHANGES_NOW, NO_FOLLOW, OP_ATTRIBUTES, OP_CHANGE, OP_CHANGES, OP_CLOSE, OP_LINK, OP_LIST_XATTRS, OP_LOCK,
    OP_MAKE_DIR, OP_OPEN, OP_READ, OP_READ_DIR, OP_READ_LINK, OP_REMOVE, OP_REMOVE_XATTR, OP_RENAME,
    OP_SET_XATTR, OP_SPACE, OP_SYMLINK, OP_SYNC, OP_WATCH, OP_WRITE, OP_XATTR, PATH_MAX, READ_DIR_MAX,
    READ_DIR_MIN, SYNC_DATA, ShareAttributes, ShareChange, ShareConfig, ShareRequest, ShareSpace,
    WITH_ATTRIBUTES, WRITE_APPEND, XATTR_MAX,
};
use hv_share::{RelativePath, XattrName};
use std::sync::Arc;
use zerocopy::IntoBytes;

impl Job {
    /// Validates a request.
    ///
    /// # Errors
    ///
    /// - [`Errno::NotSupported`]: an operation that there is not;
    /// - [`Errno::Invalid`]: flags that there are not, memory that is too large or too small, an offset that no file has;
    /// - [`Errno::Fault`]: memory that the guest itself could not touch this way;
    /// - those of [`RelativePath::new`].
    pub(super) fn new(
        request: &ShareRequest,
        config: &ShareConfig,
        memory: &Arc<GuestMemory>,
    ) -> Result<Self, Errno> {
        let raw = Raw { request, memory };
        let (handle, flags, mode) = (request.handle, request.flags, request.mode);
        match request.op {
            OP_OPEN => Ok(Job::Open { place: raw.place()?, flags, mode }),
            OP_CLOSE => Ok(Job::Close { handle }),
            OP_READ => {
                raw.known(0)?;
                let to = raw.buffers(1..=config.max_transfer, Access::WRITE)?;
                Ok(Job::Read { handle, offset: raw.offset()?, to })
            }
            OP_READ_DIR => {
                raw.known(WITH_ATTRIBUTES)?;
                let to = raw.buffers(READ_DIR_MIN..=READ_DIR_MAX, Access::WRITE)?;
                let with_attributes = flags & WITH_ATTRIBUTES != 0;
                Ok(Job::ReadDir { handle, cookie: request.offset, with_attributes, to })
            }
            OP_ATTRIBUTES => {
                let to = raw.exactly::<ShareAttributes>(Access::WRITE)?;
                Ok(Job::Attributes { place: raw.place()?, flags, to })
            }
            OP_READ_LINK => {
                raw.known(0)?;
                let to = raw.buffers(1..=PATH_MAX as u32 + 1, Access::WRITE)?;
                Ok(Job::ReadLink { place: raw.place()?, to })
            }
            OP_WRITE => {
                raw.known(WRITE_APPEND)?;
                let from = raw.buffers(1..=config.max_transfer, Access::READ)?;
                Ok(Job::Write { handle, offset: raw.offset()?, append: flags & WRITE_APPEND != 0, from })
            }
            OP_SYNC => {
                raw.known(SYNC_DATA)?;
                Ok(Job::Sync { handle, data_only: flags & SYNC_DATA != 0 })
            }
            OP_MAKE_DIR => {
                raw.known(0)?;
                Ok(Job::MakeDir { place: raw.place()?, mode })
            }
            OP_REMOVE => Ok(Job::Remove { place: raw.place()?, flags }),
            OP_RENAME => Ok(Job::Rename { place: raw.place()?, to: raw.other_place()?, flags }),
            OP_LINK => {
                raw.known(0)?;
                Ok(Job::Link { place: raw.place()?, to: raw.other_place()? })
            }
            OP_SYMLINK => {
                raw.known(0)?;
                Ok(Job::Symlink { place: raw.place()?, text: raw.bytes(request.data, request.data_len)? })
            }
            OP_CHANGE => {
                raw.known(NO_FOLLOW)?;
                let mut change = ShareChange::default();
                raw.exactly::<ShareChange>(Access::READ)?.copy_to(change.as_mut_bytes());
                Ok(Job::Change { place: raw.place()?, follow: flags & NO_FOLLOW == 0, change })
            }
            OP_SPACE => {
                raw.known(0)?;
                Ok(Job::Space { handle, to: raw.exactly::<ShareSpace>(Access::WRITE)? })
            }
            OP_LOCK => Ok(Job::Lock { handle, flags, start: request.offset, len: request.other }),
            OP_XATTR => {
                raw.known(0)?;
                Ok(Job::Xattr {
                    handle,
                    name: raw.xattr_name()?,
                    to: raw.buffers_or_none(XATTR_MAX, Access::WRITE)?,
                })
            }
            OP_SET_XATTR => {
                let from = raw.buffers_or_none(XATTR_MAX, Access::READ)?;
                let mut value = vec![0; request.data_len as usize];
                from.iter().for_each(|from| from.copy_to(&mut value));
                Ok(Job::SetXattr { handle, name: raw.xattr_name()?, value, flags })
            }
            OP_LIST_XATTRS => {
                raw.known(0)?;
                Ok(Job::ListXattrs { handle, to: raw.buffers_or_none(XATTR_MAX, Access::WRITE)? })
            }
            OP_REMOVE_XATTR => {
                raw.known(0)?;
                Ok(Job::RemoveXattr { handle, name: raw.xattr_name()? })
            }
            OP_WATCH => {
                raw.known(0)?;
                Ok(Job::Watch { handle })
            }
            OP_CHANGES => {
                raw.known(CHANGES_NOW)?;
                let to = raw.buffers(READ_DIR_MIN..=READ_DIR_MAX, Access::WRITE)?;
                Ok(Job::Changes { handle, now: flags & CHANGES_NOW != 0, to })
            }
            _ => Err(Errno::NotSupported),
        }
    }
}

/// A request that was copied, and the memory that it speaks of.
struct Raw<'a> {
    request: &'a ShareRequest,
    memory: &'a Arc<GuestMemory>,
}

impl Raw<'_> {
    /// Refuses flags other than these.
    fn known(&self, flags: u16) -> Result<(), Errno> {
        if self.request.flags & !flags == 0 { Ok(()) } else { Err(Errno::Invalid) }
    }

    /// Where in a file.
    fn offset(&self) -> Result<u64, Errno> {
        i64::try_from(self.request.offset).map(|offset| offset as u64).map_err(|_| Errno::Invalid)
    }

    /// Bytes that are no longer than a path.
    fn bytes(&self, address: GuestAddr, len: u32) -> Result<Vec<u8>, Errno> {
        let len = len as usize;
        if len > PATH_MAX {
            return Err(Errno::NameTooLong);
        }
        let mut bytes = vec![0; len];
        if len > 0 {
            self.memory.read(address, &mut bytes)?;
        }
        Ok(bytes)
    }

    fn path(&self, address: GuestAddr, len: u32) -> Result<Option<RelativePath>, Errno> {
        if len == 0 {
            return Ok(None);
        }
        RelativePath::new(self.bytes(address, len)?).map(Some)
    }

    /// The path of a request.
    fn place(&self) -> Result<Place, Errno> {
        let path = self.path(self.request.path, self.request.path_len)?;
        Ok(Place { from: self.request.handle, path })
    }

    /// The other path of a request that has two.
    fn other_place(&self) -> Result<Place, Errno> {
        let path = self.path(self.request.data, self.request.data_len)?;
        Ok(Place { from: self.request.other, path })
    }

    /// The memory of a request, of a length in this range, which the guest may use like this.
    fn buffers(&self, lengths: std::ops::RangeInclusive<u32>, access: Access) -> Result<Buffers, Errno> {
        let ShareRequest { data, data_len, .. } = *self.request;
        if !lengths.contains(&data_len) {
            return Err(Errno::Invalid);
        }
        Buffers::new(self.memory, &[Segment { address: data, len: data_len, reserved: 0 }], access)
    }

    /// The memory of a request, at most so many bytes; none of them is none.
    fn buffers_or_none(&self, most: u32, access: Access) -> Result<Option<Buffers>, Errno> {
        match self.request.data_len {
            0 => Ok(None),
            _ => self.buffers(1..=most, access).map(Some),
        }
    }

    /// The name of an extended attribute.
    fn xattr_name(&self) -> Result<XattrName, Errno> {
        XattrName::new(self.bytes(self.request.path, self.request.path_len)?)
    }

    /// The memory of a request that holds one of these.
    fn exactly<T>(&self, access: Access) -> Result<Buffers, Errno> {
        let len = size_of::<T>() as u32;
        self.buffers(len..=len, access)
    }
}
