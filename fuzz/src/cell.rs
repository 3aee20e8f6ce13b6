//! ⚠ A network namespace of the thread's own, with nothing in it but a loopback.
//!
//! The target `usernet` lets hv open sockets to wherever a frame says. In here none of them
//! gets anywhere.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Moves the calling thread into a network namespace of its own. That takes root, if only that of a
/// user namespace (`unshare --map-root-user`).
pub(crate) fn enter() -> io::Result<()> {
    // SAFETY: changes what the thread's next system calls see, and no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    raise_loopback()
}

fn raise_loopback() -> io::Result<()> {
    // SAFETY: makes a descriptor, which the next line owns.
    let socket = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeros is a valid `ifreq`: it is made of integers and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request lives during the call, and is what this one reads.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
