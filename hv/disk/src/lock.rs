//! Locks on images that QEMU respects, and that respect QEMU's.
//!
//! QEMU locks bytes of the file by open file descriptions (`F_OFD_SETLK`): byte 100 + N says that somebody uses the
//! permission N, byte 200 + N that somebody does not let others use it. All these locks are shared; whether one is
//! there is asked with `F_OFD_GETLK`. hv uses the same three permissions as a disk of QEMU does: to read (0), to write (1), to resize (3).
//!
//! Beside them the file is locked by `flock`, which scripts may do as well.
#![forbid(unsafe_code)]

use hv_host::range_lock::{self, LockRange, RangeLock};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::io;

/// The first byte of permissions in use, and of those that are denied to others.
const USED: u64 = 100;
const DENIED: u64 = 200;
const READ: u64 = 0;
const WRITE: u64 = 1;
const RESIZE: u64 = 3;

/// What a file is locked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// It is read, and nobody may write it meanwhile.
    Read,
    /// It is read and written, and nobody else may do either.
    Write,
}

/// Why a file is not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one has it.
    #[error("in use by another program, which writes it, or reads it and lets nobody write it")]
    Taken,
    /// The file system has no such locks.
    #[error("it cannot be locked: {0}")]
    Unsupported(#[source] io::Error),
}

fn set(file: &File, lock: Option<RangeLock>, start: u64, len: u64) -> Result<(), LockError> {
    range_lock::set(file, lock, LockRange { start, len }).map_err(|error| {
        match rustix::io::Errno::from_io_error(&error) {
            Some(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => LockError::Taken,
            _ => LockError::Unsupported(error),
        }
    })
}

/// Whether nobody else has a lock on this byte.
fn is_free(file: &File, byte: u64) -> Result<bool, LockError> {
    let range = LockRange { start: byte, len: 1 };
    range_lock::is_free(file, RangeLock::Exclusive, range).map_err(LockError::Unsupported)
}

/// Locks an open file until it is closed by all who share it, or [unlocked](unlock). Does not wait.
///
/// # Errors
///
/// [`LockError::Taken`] if another one has it, [`LockError::Unsupported`] where the file system has no such locks.
pub fn lock(file: &File, mode: LockMode) -> Result<(), LockError> {
    let used: &[u64] = match mode {
        LockMode::Read => &[READ],
        LockMode::Write => &[READ, WRITE, RESIZE],
    };
    let whole = match mode {
        LockMode::Read => FlockOperation::NonBlockingLockShared,
        LockMode::Write => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(file, whole) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Taken),
        Err(error) => return Err(LockError::Unsupported(error.into())),
    }
    let denied = [WRITE, RESIZE];
    let locked = (|| {
        for permission in used {
            set(file, Some(RangeLock::Shared), USED + permission, 1)?;
        }
        for permission in denied {
            set(file, Some(RangeLock::Shared), DENIED + permission, 1)?;
        }
        for permission in used {
            if !is_free(file, DENIED + permission)? {
                return Err(LockError::Taken);
            }
        }
        for permission in denied {
            if !is_free(file, USED + permission)? {
                return Err(LockError::Taken);
            }
        }
        Ok(())
    })();
    if locked.is_err() {
        unlock(file);
    }
    locked
}

/// Gives a file's locks back before it is closed.
pub fn unlock(file: &File) {
    let _ = set(file, None, USED, 200);
    let _ = rustix::fs::flock(file, FlockOperation::Unlock);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_may_read_and_one_alone_may_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (one, other, third) = (open(), open(), open());
        lock(&one, LockMode::Read).unwrap();
        lock(&other, LockMode::Read).unwrap();
        assert!(matches!(lock(&third, LockMode::Write), Err(LockError::Taken)));
        unlock(&one);
        assert!(matches!(lock(&third, LockMode::Write), Err(LockError::Taken)));
        drop(other);
        lock(&third, LockMode::Write).unwrap();
        assert!(matches!(lock(&one, LockMode::Write), Err(LockError::Taken)));
        assert!(matches!(lock(&one, LockMode::Read), Err(LockError::Taken)));
        drop(third);
        lock(&one, LockMode::Write).unwrap();
    }

    #[test]
    fn a_file_that_may_only_be_read_is_locked_to_be_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(file.path()).unwrap();
        lock(&reader, LockMode::Read).unwrap();
    }
}
