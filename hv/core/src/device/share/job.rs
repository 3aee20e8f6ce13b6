//! What a thread of the share may do, and what comes of it.
#![forbid(unsafe_code)]

use crate::device::DeviceCounters;
use crate::device::block::buffers::Buffers;
use hv_abi::Errno;
use hv_abi::io::share::ShareChange;
use hv_share::{Closing, RelativePath, Share, XattrName, errno};
use rustix::io::ReadWriteFlags;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use zerocopy::IntoBytes;

/// A path of the guest, and the handle that it starts from. Without a path the handle itself is meant.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) from: u64,
    pub(super) path: Option<RelativePath>,
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
