//! ⚠ Reads of what the host has in memory: they need neither an engine nor a thread that may wait.
#![allow(unsafe_code, reason = "`preadv2`")]

use crate::device::block::disk::Disk;
use crate::device::block::request::Transfer;
use libc::{c_int, off_t};
use std::os::fd::AsRawFd;

/// Reads from a disk that [can be read so](Disk::reads_now). Returns whether all of it was there. If not, the memory may have part of it.
pub(in crate::device::block) fn read_now(disk: &Disk, transfer: &Transfer) -> bool {
    let pieces = transfer.buffers.iovecs();
    let (fd, offset) = (disk.as_raw_fd(), transfer.offset as off_t);
    // SAFETY: the pieces are in guest memory, which the transfer keeps mapped, and no Rust reference is made to what the kernel writes. A
    // request has at most as many of them as one call takes.
    let read = unsafe { libc::preadv2(fd, pieces.as_ptr(), pieces.len() as c_int, offset, libc::RWF_NOWAIT) };
    u64::try_from(read) == Ok(transfer.buffers.len())
}
