//! Errors of the host's kernel as a guest is told them.

use hv_abi::Errno;
use rustix::io::Errno as Host;

/// The error that the guest gets. What has no number of its own in the ABI is an input/output error.
pub fn errno(error: Host) -> Errno {
    match error {
        Host::NOENT | Host::NODATA => Errno::NotFound,
        Host::BADF => Errno::BadHandle,
        Host::ACCESS | Host::PERM => Errno::Denied,
        Host::EXIST => Errno::Exists,
        Host::XDEV => Errno::Outside,
        Host::NOTDIR => Errno::NotDirectory,
        Host::ISDIR => Errno::IsDirectory,
        Host::INVAL => Errno::Invalid,
        Host::MFILE | Host::NFILE => Errno::TooManyOpen,
        Host::FBIG | Host::RANGE | Host::TOOBIG => Errno::TooLarge,
        Host::NOSPC => Errno::NoSpace,
        Host::ROFS => Errno::ReadOnly,
        Host::NAMETOOLONG => Errno::NameTooLong,
        Host::NOTEMPTY => Errno::NotEmpty,
        Host::LOOP | Host::MLINK => Errno::TooManyLinks,
        Host::STALE => Errno::Stale,
        Host::DQUOT => Errno::Quota,
        Host::BUSY | Host::TXTBSY => Errno::Busy,
        Host::AGAIN | Host::INTR | Host::NOMEM => Errno::Again,
        Host::OPNOTSUPP | Host::NOSYS | Host::NXIO => Errno::NotSupported,
        _ => Errno::Io,
    }
}
