//! System calls of a server's threads, and of the thread that makes threads.

use super::super::row::{Row, any, with, with_both};
use super::io::{NAMED, NAMELESS, UNNAMED};
use super::{advice, option, seek};
use syscalls::Sysno as S;

pub(super) const SERVE: &[Row] = &[
    with(S::sched_setattr, 0, 0, "this thread", "it comes first while it has little to do"),
    any(S::epoll_wait, "connections, signals, time"),
    any(S::epoll_ctl, "connections"),
    with(S::accept4, 3, 0x80800, "SOCK_NONBLOCK | SOCK_CLOEXEC", "connections"),
    any(S::getsockname, "the addresses that it listens on are told"),
    any(S::recvfrom, "requests, signals"),
    any(S::writev, "answers"),
    any(S::sendto, "answers over HTTP/2 and TLS"),
    any(S::shutdown, "the end of a connection"),
    any(S::pread64, "the process's own memory for /metrics"),
    option(libc::IPPROTO_TCP, (libc::TCP_NODELAY, "TCP_NODELAY"), "IPPROTO_TCP", "answers are written whole"),
    option(
        libc::IPPROTO_TCP,
        (libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
        "IPPROTO_TCP",
        "clients that take nothing",
    ),
    option(
        libc::SOL_SOCKET,
        (libc::SO_LINGER, "SO_LINGER"),
        "SOL_SOCKET",
        "an answer that is cut off ends in a reset",
    ),
    with_both(
        S::getsockopt,
        (1, libc::SOL_SOCKET as u32, "SOL_SOCKET"),
        (2, libc::SO_PEERCRED as u32, "SO_PEERCRED"),
        "whose process wants to take the sockets over",
    ),
    any(S::sendmsg, "the sockets are handed over to the next server"),
    any(S::getdents64, "descriptors and threads are counted for /metrics"),
    any(S::fstat, "memory that guests share, and folders that are counted, for /metrics"),
    seek(libc::SEEK_SET, "SEEK_SET", "they are counted again"),
];

pub(super) const TICK: &[Row] = &[
    with(S::sched_setattr, 0, 0, "this thread", "it is to wake up on time"),
    with(S::prctl, 0, libc::PR_SET_TIMERSLACK as u32, "PR_SET_TIMERSLACK", "it is to wake up on time"),
];

pub(super) const DEPLOY: &[Row] = &[
    with(
        S::openat,
        2,
        0x80800,
        "O_RDONLY | O_NONBLOCK | O_CLOEXEC",
        "images, which may turn out to be pipes",
    ),
    with(
        S::openat,
        2,
        0xa0800,
        "O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC",
        "parts of snapshots, which may turn out to be pipes or links",
    ),
    NAMELESS,
    NAMED,
    UNNAMED,
    with(
        S::openat,
        2,
        (libc::O_RDONLY | libc::O_DIRECT | libc::O_CLOEXEC) as u32,
        "O_RDONLY | O_DIRECT | O_CLOEXEC",
        "a disk past the page cache",
    ),
    with(
        S::flock,
        1,
        (libc::LOCK_SH | libc::LOCK_NB) as u32,
        "LOCK_SH | LOCK_NB",
        "a disk that guests read is not written by others",
    ),
    with(
        S::fcntl,
        1,
        libc::F_OFD_GETLK as u32,
        "F_OFD_GETLK",
        "whether others write a disk, or let nobody read it",
    ),
    any(S::openat2, "backing files of an image, below the folders that are named"),
    seek(libc::SEEK_END, "SEEK_END", "the size of a disk"),
    any(S::preadv2, "whether a disk can be read without waiting"),
    with(
        S::openat,
        2,
        0x90800,
        "O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC",
        "a folder that is shown as a disk",
    ),
    any(S::newfstatat, "a folder that is shown as a disk"),
    any(S::getdents64, "a folder that is shown as a disk"),
    any(S::readlink, "the true path of a disk"),
    any(S::clock_nanosleep, "a disk that is still locked is waited for"),
    with(
        S::faccessat2,
        2,
        libc::F_OK as u32,
        "F_OK",
        "the true path of a folder that is written with a slash at its end",
    ),
    with(S::faccessat, 2, libc::F_OK as u32, "F_OK", "the same on kernels before 5.8").elsewhere(),
    any(S::pwrite64, "a folder that is shown as a disk"),
    any(S::copy_file_range, "a folder that is shown as a disk"),
    any(S::sendfile, "a folder that is on another file system than temporary files"),
    seek(libc::SEEK_SET, "SEEK_SET", "a folder that is shown as a disk"),
    advice(libc::MADV_HUGEPAGE, "MADV_HUGEPAGE", "memory of a guest that is booted"),
    advice(libc::MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE", "memory of a guest that is booted"),
    any(S::prlimit64, "how many descriptors a new configuration may need"),
];

pub(super) const LOG: &[Row] = &[with(
    S::openat,
    2,
    (libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC) as u32,
    "O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC",
    "the access log is opened again when it was rotated",
)];

/// The flags with which the C library makes a thread, and nothing but a thread.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;

pub(super) const MAKER: &[Row] = &[
    with(S::clone, 0, THREAD, "the flags of a thread", "threads that are made later; never a process"),
    any(
        S::clone3,
        "is refused by another filter (ENOSYS), since its flags cannot be seen; then the C library takes clone",
    ),
    any(S::rseq, "a new thread"),
    any(S::set_robust_list, "a new thread"),
    any(S::sched_getaffinity, "the extent of a new thread's stack"),
    with(S::prctl, 0, libc::PR_SET_NAME as u32, "PR_SET_NAME", "the name of a new thread"),
    with(S::prctl, 0, libc::PR_SET_NO_NEW_PRIVS as u32, "PR_SET_NO_NEW_PRIVS", "a new thread's own filter"),
    with(
        S::seccomp,
        0,
        libc::SECCOMP_SET_MODE_FILTER,
        "SECCOMP_SET_MODE_FILTER",
        "a new thread's own filter",
    ),
];
