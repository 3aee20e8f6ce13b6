//! System calls of the I/O thread, and of threads that work on a disk.

use super::super::row::{Row, any, with, with_both};
use super::guests::COUNT_PAGES;
use super::{Platform, option};
use syscalls::Sysno as S;

/// What [`socket`] makes.
pub(super) const STREAM: (i32, &str) = (libc::SOCK_STREAM, "SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC");
pub(super) const DATAGRAM: (i32, &str) = (libc::SOCK_DGRAM, "SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC");

pub(super) const fn socket(
    family: i32,
    name: &'static str,
    kind: (i32, &'static str),
    why: &'static str,
) -> Row {
    let flags = (kind.0 | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
    with_both(S::socket, (0, family as u32, name), (1, flags, kind.1), why)
}

pub(super) const IO: &[Row] = &[
    with(S::sched_setattr, 0, 0, "this thread", "it comes first while it has little to do"),
    any(S::epoll_wait, "doorbells, descriptors and timers"),
    any(S::epoll_ctl, "descriptors of devices"),
    with(
        S::fcntl,
        1,
        libc::F_DUPFD_CLOEXEC as u32,
        "F_DUPFD_CLOEXEC",
        "each device registers with the same epoll",
    ),
    any(S::fallocate, "memory that a guest has freed is given back").on(Platform::Process),
    any(S::read, "doorbells, standard input, tap devices"),
    any(S::poll, "whether standard output takes bytes"),
    any(S::io_uring_enter, "work on disks"),
    with(S::preadv2, 5, libc::RWF_NOWAIT as u32, "RWF_NOWAIT", "the guest reads what of a file is in memory")
        .with_shares(),
    with(S::io_uring_register, 1, 3, "IORING_UNREGISTER_FILES", "a disk is closed"),
    socket(libc::AF_INET, "AF_INET", STREAM, "TCP connections of the guest"),
    socket(libc::AF_INET, "AF_INET", DATAGRAM, "UDP flows of the guest, its questions to name servers"),
    socket(libc::AF_INET6, "AF_INET6", DATAGRAM, "the guest's questions to name servers"),
    socket(libc::AF_INET6, "AF_INET6", STREAM, "the guest's connections to name servers"),
    any(S::pread64, "the list of name servers, which may have changed"),
    any(S::pwrite64, "a page of a template that a clone needs").on(Platform::Process),
    any(S::bind, "UDP flows of the guest"),
    any(S::connect, "connections of the guest"),
    with(S::accept4, 3, 0x80800, "SOCK_NONBLOCK | SOCK_CLOEXEC", "connections to published ports"),
    any(S::getpeername, "who has sent to a published port"),
    any(S::recvfrom, "data for the guest, signals"),
    any(S::sendto, "data from the guest, UDP to whoever has sent"),
    any(S::shutdown, "the guest has closed its side"),
    with_both(
        S::getsockopt,
        (1, libc::SOL_SOCKET as u32, "SOL_SOCKET"),
        (2, libc::SO_ERROR as u32, "SO_ERROR"),
        "why a connection failed",
    ),
    with_both(
        S::getsockopt,
        (1, libc::SOL_SOCKET as u32, "SOL_SOCKET"),
        (2, libc::SO_PEERCRED as u32, "SO_PEERCRED"),
        "whose process a client of --control is",
    ),
    COUNT_PAGES,
    any(S::lseek, "the same where the memory is shared with the guest's process").on(Platform::Process),
    any(S::fstat, "memory of guests that is in files, for the budget of a program that embeds hv")
        .elsewhere(),
    option(
        libc::IPPROTO_TCP,
        (libc::TCP_NODELAY, "TCP_NODELAY"),
        "IPPROTO_TCP",
        "the guest decides what is sent together",
    ),
    option(
        libc::SOL_SOCKET,
        (libc::SO_LINGER, "SO_LINGER"),
        "SOL_SOCKET",
        "a connection that the guest has reset",
    ),
];

pub(super) const NAMELESS: Row = with(
    S::openat,
    2,
    (libc::O_RDWR | libc::O_TMPFILE | libc::O_CLOEXEC) as u32,
    "O_RDWR | O_TMPFILE | O_CLOEXEC",
    "what is written to an overlay, a folder that is shown as a disk",
);

// File systems that have no files without a name, such as NFS and older overlayfs.
pub(super) const NAMED: Row = with(
    S::openat,
    2,
    (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC) as u32,
    "O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC",
    "the same where the file system has no files without a name",
)
.elsewhere();
pub(super) const UNNAMED: Row = any(S::unlink, "and the name is removed at once").elsewhere();

pub(super) const DISK: &[Row] = &[
    any(S::preadv, "the guest reads"),
    any(S::pwritev, "the guest writes"),
    any(S::pread64, "tables and compressed clusters of images"),
    any(S::pwrite64, "tables and new clusters of images"),
    any(S::fdatasync, "the guest flushes"),
    any(S::fallocate, "the guest discards or writes zeroes"),
    NAMELESS,
    NAMED,
    UNNAMED,
    any(S::ftruncate, "the file of an overlay"),
];
