//! From what a guest wrote to what a thread of the share may do, and what comes of it.
//!
//! Everything here is about one copy of the request; paths are copied out of the guest's memory once.
#![forbid(unsafe_code)]

use crate::device::DeviceCounters;
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
use hv_share::{Closing, RelativePath, Share, XattrName, errno};
use rustix::io::ReadWriteFlags;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// A path of the guest, and the handle that it starts from. Without a path the handle itself is meant.
#[derive(Debug)]
pub(super) struct Place {
    from: u64,
    path: Option<RelativePath>,
}

impl Place {
    fn parts(&self) -> (u64, Option<&RelativePath>) {
        (self.from, self.path.as_ref())
    }
}

/// Work on a file: a request that was validated.
#[derive(Debug)]
pub(super) enum Job {
    Open { place: Place, flags: u16, mode: u32 },
    Close { handle: u64 },
    EndClose { closing: Closing },
    Read { handle: u64, offset: u64, to: Buffers },
    ReadDir { handle: u64, cookie: u64, with_attributes: bool, to: Buffers },
    Attributes { place: Place, flags: u16, to: Buffers },
    ReadLink { place: Place, to: Buffers },
    Write { handle: u64, offset: u64, append: bool, from: Buffers },
    Sync { handle: u64, data_only: bool },
    MakeDir { place: Place, mode: u32 },
    Remove { place: Place, flags: u16 },
    Rename { place: Place, to: Place, flags: u16 },
    Link { place: Place, to: Place },
    Symlink { place: Place, text: Vec<u8> },
    Change { place: Place, follow: bool, change: ShareChange },
    Space { handle: u64, to: Buffers },
    Lock { handle: u64, flags: u16, start: u64, len: u64 },
    Xattr { handle: u64, name: XattrName, to: Option<Buffers> },
    SetXattr { handle: u64, name: XattrName, value: Vec<u8>, flags: u16 },
    ListXattrs { handle: u64, to: Option<Buffers> },
    RemoveXattr { handle: u64, name: XattrName },
    Watch { handle: u64 },
    Changes { handle: u64, now: bool, to: Buffers },
}

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

    /// Does what is to be done in the order of the requests, and never waits: later ones find that a handle is gone.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub(super) fn begin(self, share: &Share) -> Result<Self, Errno> {
        match self {
            Job::Close { handle } => Ok(Job::EndClose { closing: share.begin_close(handle)? }),
            job => Ok(job),
        }
    }

    /// Does it, if it needs nothing but what the host has in memory, and moves no more than so many bytes, off which it takes those that it has moved.
    /// `None`: it is to be [run](Self::run), on a thread that may wait for the host's file system.
    pub(super) fn try_now(&self, share: &Share, bytes: &mut u64) -> Option<Result<u64, Errno>> {
        match self {
            Job::Read { handle, offset, to } if to.len() <= *bytes => {
                let file = share.file(*handle).ok()?;
                let count = to.read_now(file.as_fd(), *offset)?;
                *bytes -= count;
                (count == to.len() || ends_at(file.as_fd(), offset + count)).then_some(Ok(count))
            }
            Job::Attributes { place, flags, to } => {
                let found = share.attributes_now(place.from, place.path.as_ref(), *flags)?;
                Some(found.map(|attributes| {
                    to.copy_from(attributes.as_bytes());
                    0
                }))
            }
            _ => None,
        }
    }

    /// Does it, however long the host's file system takes. Returns the value of the response.
    pub(super) fn run(self, share: &Share) -> Result<u64, Errno> {
        match self {
            Job::Open { place, flags, mode } => share.open(place.from, place.path.as_ref(), flags, mode),
            Job::Close { handle } => share.close(handle).map(|()| 0),
            Job::EndClose { closing } => {
                share.end_close(closing);
                Ok(0)
            }
            Job::Read { handle, offset, to } => {
                let file = share.file(handle)?;
                uninterrupted(|| to.read_from(file.as_fd(), offset))
            }
            Job::Write { handle, offset, append, from } => {
                let file = share.file_to_write(handle)?;
                uninterrupted(|| from.write_to(file.as_fd(), offset, append))
            }
            Job::ReadDir { handle, cookie, with_attributes, to } => {
                let bytes = share.read_dir(handle, cookie, with_attributes, to.len() as usize)?;
                to.copy_from(&bytes);
                Ok(bytes.len() as u64)
            }
            Job::Attributes { place, flags, to } => {
                to.copy_from(share.attributes(place.from, place.path.as_ref(), flags)?.as_bytes());
                Ok(0)
            }
            Job::ReadLink { place, to } => {
                let text = share.read_link(place.from, place.path.as_ref())?;
                if text.len() as u64 > to.len() {
                    return Err(Errno::Invalid);
                }
                to.copy_from(&text);
                Ok(text.len() as u64)
            }
            Job::Space { handle, to } => {
                to.copy_from(share.space(handle)?.as_bytes());
                Ok(0)
            }
            Job::Sync { handle, data_only } => share.sync(handle, data_only).map(|()| 0),
            Job::Lock { handle, flags, start, len } => share.lock(handle, flags, start, len).map(|()| 0),
            Job::Xattr { handle, name, to } => give(&share.xattr(handle, &name)?, to.as_ref()),
            Job::SetXattr { handle, name, value, flags } => {
                share.set_xattr(handle, &name, &value, flags).map(|()| 0)
            }
            Job::ListXattrs { handle, to } => give(&share.list_xattrs(handle)?, to.as_ref()),
            Job::Watch { handle } => share.watch(handle).map(|()| 0),
            Job::Changes { handle, now: _, to } => {
                let bytes = share.changes(handle, to.len() as usize)?;
                to.copy_from(&bytes);
                Ok(bytes.len() as u64)
            }
            Job::RemoveXattr { handle, name } => share.remove_xattr(handle, &name).map(|()| 0),
            Job::MakeDir { place, mode } => share.make_dir(place.from, place.path.as_ref(), mode).map(|()| 0),
            Job::Remove { place, flags } => share.remove(place.from, place.path.as_ref(), flags).map(|()| 0),
            Job::Rename { place, to, flags } => share.rename(place.parts(), to.parts(), flags).map(|()| 0),
            Job::Link { place, to } => share.link(place.parts(), to.parts()).map(|()| 0),
            Job::Symlink { place, text } => share.symlink(place.from, place.path.as_ref(), &text).map(|()| 0),
            Job::Change { place, follow, change } => {
                share.change(place.from, place.path.as_ref(), follow, &change).map(|()| 0)
            }
        }
    }

    /// What it counts as.
    pub(super) fn direction(&self) -> Direction {
        match self {
            Job::Read { .. } => Direction::Read,
            Job::Write { .. } => Direction::Write,
            Job::Sync { .. }
            | Job::MakeDir { .. }
            | Job::Remove { .. }
            | Job::Rename { .. }
            | Job::Link { .. }
            | Job::Symlink { .. }
            | Job::SetXattr { .. }
            | Job::RemoveXattr { .. }
            | Job::Change { .. } => Direction::Out,
            _ => Direction::In,
        }
    }
}

/// Which way an operation moves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Bytes of a file into the guest.
    Read,
    /// Bytes of the guest into a file.
    Write,
    /// Something else into the guest.
    In,
    /// Something else out of it.
    Out,
}

impl Direction {
    /// Counts an operation, unless it failed.
    pub(super) fn count(self, result: Result<u64, Errno>, counters: &DeviceCounters) {
        let Ok(count) = result else { return };
        match self {
            Direction::Read => counters.went_in(1, count),
            Direction::Write => counters.went_out(1, count),
            Direction::In => counters.went_in(1, 0),
            Direction::Out => counters.went_out(1, 0),
        }
    }
}

/// Puts bytes into the guest's memory, if it has given some. Returns how many there are.
fn give(bytes: &[u8], to: Option<&Buffers>) -> Result<u64, Errno> {
    if let Some(to) = to {
        if bytes.len() as u64 > to.len() {
            return Err(Errno::TooLarge);
        }
        to.copy_from(bytes);
    }
    Ok(bytes.len() as u64)
}

/// Whether the host knows, without waiting, that a file has no bytes from here on.
fn ends_at(file: BorrowedFd<'_>, offset: u64) -> bool {
    let mut byte = [0];
    rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) == Ok(0)
}

/// Makes a call that a signal may have interrupted before anything was moved.
fn uninterrupted(mut call: impl FnMut() -> Result<u64, rustix::io::Errno>) -> Result<u64, Errno> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.map_err(errno),
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
