//! Locks on parts of files: those that Linux keeps for an open file, so that each handle is an owner of its own. Programs of the host see them (`fcntl`), as
//! far as they look.

use super::share::Share;
use hv_abi::Errno;
use hv_abi::io::share::{LOCK_EXCLUSIVE, LOCK_SHARED, LOCK_TEST};
use hv_host::range_lock::{self, LockRange, RangeLock};
use std::io;

/// The error that the guest gets.
fn errno(error: &io::Error) -> Errno {
    use rustix::io::Errno as Host;
    match Host::from_io_error(error) {
        // Another one has it.
        Some(Host::AGAIN | Host::ACCESS) => Errno::Busy,
        Some(Host::OVERFLOW) => Errno::Invalid,
        Some(error) => super::errno(error),
        None => Errno::Io,
    }
}

impl Share {
    /// Locks so many bytes of a file from `start` on (0: all), gives them back without a kind, or only says whether that could be done. Does not wait.
    ///
    /// # Errors
    ///
    /// [`Errno::Busy`] if another one has locked some of them; [`Errno::BadHandle`], also if it was not opened to be read ([`LOCK_SHARED`]) or to be written
    /// ([`LOCK_EXCLUSIVE`]); [`Errno::Invalid`] for flags that contradict each other and bytes beyond 2^63; what the host says.
    pub fn lock(&self, handle: u64, flags: u16, start: u64, len: u64) -> Result<(), Errno> {
        let node = self.node(handle)?;
        if !node.readable && !node.writable {
            return Err(Errno::BadHandle);
        }
        let (kind, tests) = (flags & !LOCK_TEST, flags & LOCK_TEST != 0);
        let lock = match kind {
            0 if !tests => None,
            LOCK_SHARED if node.readable => Some(RangeLock::Shared),
            LOCK_EXCLUSIVE if node.writable => Some(RangeLock::Exclusive),
            LOCK_SHARED | LOCK_EXCLUSIVE => return Err(Errno::BadHandle),
            _ => return Err(Errno::Invalid),
        };
        let range = LockRange { start, len };
        match lock {
            Some(lock) if tests => match range_lock::is_free(&*node, lock, range) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Errno::Busy),
                Err(error) => Err(errno(&error)),
            },
            lock => range_lock::set(&*node, lock, range).map_err(|error| errno(&error)),
        }
    }
}
