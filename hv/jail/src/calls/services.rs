//! System calls of the threads that reach stores, blobs and others for guests.

use super::super::row::{Row, any, with};
use super::io::{DATAGRAM, STREAM, socket};
use super::option;
use syscalls::Sysno as S;

/// Everything outside of this host is reached by this thread. It opens no file.
pub(super) const SERVICES: &[Row] = &[
    any(S::epoll_wait, "connections, time"),
    any(S::epoll_ctl, "connections"),
    socket(libc::AF_INET, "AF_INET", STREAM, "services, and TCP connections of guests"),
    socket(libc::AF_INET6, "AF_INET6", STREAM, "services, and TCP connections of guests"),
    socket(libc::AF_INET, "AF_INET", DATAGRAM, "name servers, and UDP sockets of guests"),
    socket(libc::AF_INET6, "AF_INET6", DATAGRAM, "name servers, and UDP sockets of guests"),
    any(S::bind, "UDP sockets"),
    any(S::connect, "connections"),
    any(S::recvfrom, "what comes"),
    any(S::sendto, "what goes, also to name servers"),
    any(S::writev, "what goes"),
    with(
        S::read,
        2,
        32,
        "32 bytes",
        "random numbers of questions to name servers: where hv is static, from /dev/urandom, which was opened before",
    ),
    any(S::shutdown, "the guest has closed its side, or hv the connection"),
    option(
        libc::IPPROTO_TCP,
        (libc::TCP_NODELAY, "TCP_NODELAY"),
        "IPPROTO_TCP",
        "questions are sent at once",
    ),
    super::with_both(
        S::getsockopt,
        (1, libc::SOL_SOCKET as u32, "SOL_SOCKET"),
        (2, libc::SO_ERROR as u32, "SO_ERROR"),
        "why a connection failed",
    ),
];

/// What `rustix` adds to the flags of each file that it opens.
pub(super) const LARGE: i32 = 0x8000;

/// Files of the folders that the configuration names, which Landlock bounds. Names of files are made of keys, and have no slash.
pub(super) const FILES: &[Row] = &[
    with(
        S::openat,
        2,
        (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | LARGE) as u32,
        "O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_LARGEFILE",
        "the folder of a binding",
    ),
    with(
        S::openat,
        2,
        (libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_CLOEXEC | LARGE) as u32,
        "O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE",
        "the file that changes are locked by",
    ),
    with(
        S::openat,
        2,
        (libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC | LARGE) as u32,
        "O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE",
        "values",
    ),
    with(
        S::openat,
        2,
        (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC | LARGE) as u32,
        "O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE",
        "new values",
    ),
    with(S::fcntl, 1, libc::F_GETFL as u32, "F_GETFL", "the folder is opened again to be listed"),
    any(S::getdents64, "lists of keys"),
    any(S::newfstatat, "sizes of values"),
    any(S::fstat, "whether a value is a file, and its size"),
    any(S::pread64, "values"),
    any(S::fdatasync, "a value is on the disk before it is acknowledged"),
    any(S::fsync, "and so is its name"),
    any(S::renameat, "a new value takes the place of the old one"),
    any(S::unlinkat, "values that are removed, or were given up"),
    with(S::flock, 1, libc::LOCK_EX as u32, "LOCK_EX", "one change after the other, also of other processes"),
];
