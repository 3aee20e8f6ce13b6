//! ⚠ Locks on ranges of open files (`F_OFD_SETLK` of Linux): of the open file, not of the process, so that two that are open are two owners, and a lock
//! goes with the last descriptor of the open file.
#![allow(unsafe_code, reason = "`fcntl` with `F_OFD_SETLK` and `F_OFD_GETLK`")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What a range is locked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeLock {
    /// Others may have it so, too. The file has to be open to be read.
    Shared,
    /// Nobody else may. The file has to be open to be written.
    Exclusive,
}

/// The bytes that a lock is about: so many from `start` on; 0 of them are all, however long the file becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange {
    /// The first byte, at most 2^63 - 1.
    pub start: u64,
    /// How many, or 0.
    pub len: u64,
}

fn description(kind: i32, range: LockRange) -> io::Result<libc::flock> {
    let within = |number| i64::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    Ok(libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: within(range.start)?,
        l_len: within(range.len)?,
        l_pid: 0,
    })
}

fn number(lock: RangeLock) -> i32 {
    match lock {
        RangeLock::Shared => libc::F_RDLCK,
        RangeLock::Exclusive => libc::F_WRLCK,
    }
}

/// Locks a range, in place of what this open file has locked of it, or gives it back with `None`. Does not wait.
///
/// # Errors
///
/// EAGAIN if another open file has it, EBADF if the file was not opened for that, EINVAL or EOVERFLOW for a range that is none, and what else the
/// file system says.
pub fn set(file: impl AsFd, lock: Option<RangeLock>, range: LockRange) -> io::Result<()> {
    let lock = description(lock.map_or(libc::F_UNLCK, number), range)?;
    // SAFETY: the structure lives during the call, which only reads it.
    match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether [`set`] would find nobody else in the way.
///
/// # Errors
///
/// As [`set`], but for EAGAIN.
pub fn is_free(file: impl AsFd, lock: RangeLock, range: LockRange) -> io::Result<bool> {
    let mut lock = description(number(lock), range)?;
    // SAFETY: the structure lives during the call, which writes to it.
    match unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 => Ok(i32::from(lock.l_type) == libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}
