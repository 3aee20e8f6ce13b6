//! The tables: which system calls each kind of thread may make, and why.
//!
//! Pure. `hv jail` prints them; a test compares them with `tests/golden/jail.txt`, and
//! another sees that each row is used. What a thread does before its filter is on
//! (opening files, asking for signals) needs no row.

use super::row::{Only, Row, any, to_itself, with, with_both, without};
use super::{Kind, Platform};
use syscalls::Sysno as S;

/// What every kind of thread may do: memory, waiting, the end of a thread, signals, saying why hv ends.
/// A row is needed if any kind needs it, since the allocator and the threads of the
/// standard library are the same for all.
const ALL: &[Row] = &[
    any(S::brk, "the allocator's heap"),
    without(
        S::mmap,
        2,
        libc::PROT_EXEC as u64,
        "prot without PROT_EXEC",
        "memory; nothing new can be executed",
    ),
    without(S::mprotect, 2, libc::PROT_EXEC as u64, "prot without PROT_EXEC", "the allocator's heaps grow"),
    any(S::munmap, "memory is given back"),
    any(S::mremap, "large allocations grow"),
    with(
        S::madvise,
        2,
        libc::MADV_DONTNEED as u32,
        "MADV_DONTNEED",
        "stacks of ended threads, the allocator's heaps",
    ),
    any(S::futex, "locks, channels, waiting for threads"),
    any(S::sched_yield, "spinning threads let others go first"),
    any(S::clock_gettime, "CPU time of threads"),
    any(S::restart_syscall, "waiting goes on after SIGSTOP and SIGCONT"),
    any(S::getrandom, "seeds of hash tables, random numbers of guests"),
    any(S::close, "descriptors that are done with"),
    with(S::flock, 1, libc::LOCK_UN as u32, "LOCK_UN", "a disk is given back by whoever has it last"),
    with(S::fcntl, 1, libc::F_GETFD as u32, "F_GETFD", "descriptors are looked at before they are closed")
        .debug(),
    any(S::write, "event descriptors, the log, the guest's output"),
    with(
        S::sendto,
        4,
        0,
        "without an address",
        "handlers of SIGINT and SIGTERM wake the thread that waits; sockets",
    ),
    any(S::gettid, "a thread that enters a virtual CPU says who it is, to be kicked"),
    any(S::getpid, "signals to threads of this process"),
    to_itself(S::tgkill, "a guest is kicked out of its virtual CPU; abort after a panic"),
    any(S::rt_sigreturn, "handlers of signals return"),
    any(S::rt_sigprocmask, "the end of a thread"),
    any(S::sigaltstack, "the end of a thread"),
    any(S::exit, "the end of a thread"),
    any(S::exit_group, "the end of hv, also by the jail"),
    any(S::pidfd_send_signal, "the process of a guest is kicked or ended").on(Platform::Process),
    any(S::wait4, "the end of the process that guests' processes come from").on(Platform::Process),
];

const RUN: (u32, &str) = (0xae80, "KVM_RUN");
const PAGEMAP_SCAN: (u32, &str) = (0xc060_6610, "PAGEMAP_SCAN");

const fn ioctl(request: (u32, &'static str), why: &'static str) -> Row {
    with(S::ioctl, 1, request.0, request.1, why)
}

const fn advice(value: i32, name: &'static str, why: &'static str) -> Row {
    with(S::madvise, 2, value as u32, name, why)
}

const fn seek(whence: i32, name: &'static str, why: &'static str) -> Row {
    with(S::lseek, 2, whence as u32, name, why)
}

const fn option(level: i32, option: (i32, &'static str), level_name: &'static str, why: &'static str) -> Row {
    with_both(S::setsockopt, (1, level as u32, level_name), (2, option.0 as u32, option.1), why)
}

const OPEN_TO_READ: Row = with(
    S::openat,
    2,
    (libc::O_RDONLY | libc::O_CLOEXEC) as u32,
    "O_RDONLY | O_CLOEXEC",
    "images, snapshots, disks and the configuration; Landlock says which",
);

/// Running a guest whose virtual machine is there.
const GUEST: &[Row] = &[
    ioctl(RUN, "runs the guest").on(Platform::Kvm),
    ioctl((0x8138_ae83, "KVM_GET_SREGS"), "the address of a page fault").on(Platform::Kvm),
    ioctl((0x4040_ae79, "KVM_IOEVENTFD"), "a doorbell that rings often is bound").on(Platform::Kvm),
    any(S::eventfd2, "a doorbell that rings often is bound"),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "its back end gets the doorbell, too"),
];

/// Writing a crash report.
const REPORT: &[Row] = &[any(S::pread64, "the image is read for a crash report")];

/// What `--stats` prints at the end.
const STATS: &[Row] = &[any(S::read, "how much memory hv itself has used, for --stats")];

/// Printing what a guest prints, on the thread that runs it.
const CONSOLE: &[Row] = &[any(S::poll, "the reader of standard output is waited for")];

/// Printing what a guest prints, on a worker: only programs that embed hv have guests with an output of that kind there.
const OUTPUT: &[Row] = &[any(S::poll, "the reader of standard output is waited for").elsewhere()];

/// Making a virtual machine and closing it.
const MACHINE: &[Row] = &[
    ioctl((0xae01, "KVM_CREATE_VM"), "a virtual machine").on(Platform::Kvm),
    ioctl((0xae04, "KVM_GET_VCPU_MMAP_SIZE"), "a virtual CPU").on(Platform::Kvm),
    ioctl((0xae41, "KVM_CREATE_VCPU"), "a virtual CPU").on(Platform::Kvm),
    ioctl((0x4020_ae46, "KVM_SET_USER_MEMORY_REGION"), "the guest's memory").on(Platform::Kvm),
    ioctl((0x4008_ae90, "KVM_SET_CPUID2"), "what the guest sees of the processor").on(Platform::Kvm),
    ioctl((0x4018_aee1, "KVM_SET_DEVICE_ATTR"), "the guest's time stamp counter").on(Platform::Kvm),
    ioctl(RUN, "the kernel makes its thread for the machine; the call that a guest is in is completed before it is saved").on(Platform::Kvm),
    ioctl((0x4138_ae84, "KVM_SET_SREGS"), "registers of a new virtual CPU").on(Platform::Kvm),
    ioctl((0xaea3, "KVM_GET_TSC_KHZ"), "the guest's clock").on(Platform::Kvm),
    advice(
        libc::MADV_POPULATE_WRITE,
        "MADV_POPULATE_WRITE",
        "what a guest writes at once is there beforehand",
    ),
];

const POPULATE: Row = advice(
    libc::MADV_POPULATE_WRITE,
    "MADV_POPULATE_WRITE",
    "pages that will be written are there beforehand",
);

/// Setting all registers of a virtual CPU, and finding what its guest has written.
const RESET: &[Row] = &[ioctl((0x5000_aea5, "KVM_SET_XSAVE"), "registers of a clone").on(Platform::Kvm)];

/// Which pages a guest has written.
const PAGES: &[Row] = &[
    ioctl(PAGEMAP_SCAN, "which pages a guest has written"),
    any(S::pread64, "the same on kernels before 6.7").elsewhere(),
];

/// Saving a guest that stands still to a template.
const CAPTURE: &[Row] = &[
    ioctl((0x8090_ae81, "KVM_GET_REGS"), "registers of a guest that is saved").on(Platform::Kvm),
    ioctl((0x9000_aea4, "KVM_GET_XSAVE"), "registers of a guest that is saved").on(Platform::Kvm),
    any(S::memfd_create, "the memory of a guest that is saved"),
    any(S::ftruncate, "the memory of a guest that is saved"),
    with(S::fcntl, 1, 1033, "F_ADD_SEALS", "the memory of a guest that is saved can no longer change"),
    seek(libc::SEEK_DATA, "SEEK_DATA", "which parts of it are not zero"),
    seek(libc::SEEK_HOLE, "SEEK_HOLE", "which parts of it are not zero"),
];

/// A disk's io_uring.
const RING: &[Row] = &[
    any(S::eventfd2, "a doorbell of a new guest's disk"),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "its back end gets the doorbell, too"),
    any(S::io_uring_setup, "a disk of a new guest"),
    any(S::io_uring_register, "a disk of a new guest"),
];

/// Opening an image, a snapshot or a disk.
const FILES: &[Row] = &[
    OPEN_TO_READ,
    any(S::statx, "files are looked at before they are used"),
    any(S::read, "files"),
    any(S::pread64, "files"),
    any(S::fstat, "files are looked at by other versions of the C library, and where there is no statx")
        .elsewhere(),
    any(S::newfstatat, "files are looked at where there is no statx").elsewhere(),
];

const SNAPSHOT: &[Row] = &[
    POPULATE,
    with(S::openat, 2, 0x800c1, "O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC", "the files of the snapshot"),
    with(
        S::openat,
        2,
        0xb0000,
        "O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC",
        "an unfinished snapshot is removed",
    ),
    any(S::pwrite64, "the memory's file"),
    any(S::fsync, "the snapshot is on the disk before it gets its name"),
    any(S::mkdir, "the snapshot's folder"),
    any(S::renameat2, "the snapshot gets its name"),
    any(S::getdents64, "an unfinished snapshot is removed"),
    any(S::unlinkat, "an unfinished snapshot is removed"),
    any(S::newfstatat, "an unfinished snapshot is removed"),
    with(S::fcntl, 1, libc::F_GETFL as u32, "F_GETFL", "an unfinished snapshot is removed"),
    with(S::fcntl, 1, libc::F_SETFD as u32, "F_SETFD", "an unfinished snapshot is removed"),
];

const SERVE: &[Row] = &[
    with(S::sched_setattr, 0, 0, "this thread", "it comes first while it has little to do"),
    any(S::epoll_wait, "connections, signals, time"),
    any(S::epoll_ctl, "connections"),
    with(S::accept4, 3, 0x80800, "SOCK_NONBLOCK | SOCK_CLOEXEC", "connections"),
    any(S::getsockname, "the addresses that it listens on are told"),
    any(S::recvfrom, "requests, signals"),
    any(S::writev, "answers"),
    any(S::shutdown, "the end of a connection"),
    any(S::pread64, "the process's own memory for /metrics"),
    option(libc::IPPROTO_TCP, (libc::TCP_NODELAY, "TCP_NODELAY"), "IPPROTO_TCP", "answers are written whole"),
    option(
        libc::IPPROTO_TCP,
        (libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
        "IPPROTO_TCP",
        "clients that take nothing",
    ),
    any(S::getdents64, "descriptors and threads are counted for /metrics"),
    any(S::fstat, "memory that guests share, and folders that are counted, for /metrics"),
    seek(libc::SEEK_SET, "SEEK_SET", "they are counted again"),
];

/// What [`socket`] makes.
const STREAM: (i32, &str) = (libc::SOCK_STREAM, "SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC");
const DATAGRAM: (i32, &str) = (libc::SOCK_DGRAM, "SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC");

const fn socket(family: i32, name: &'static str, kind: (i32, &'static str), why: &'static str) -> Row {
    let flags = (kind.0 | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
    with_both(S::socket, (0, family as u32, name), (1, flags, kind.1), why)
}

const IO: &[Row] = &[
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
    any(S::read, "doorbells, standard input, tap devices"),
    any(S::poll, "whether standard output takes bytes"),
    any(S::io_uring_enter, "work on disks"),
    with(S::io_uring_register, 1, 3, "IORING_UNREGISTER_FILES", "a disk is closed"),
    socket(libc::AF_INET, "AF_INET", STREAM, "TCP connections of the guest"),
    socket(libc::AF_INET, "AF_INET", DATAGRAM, "UDP flows of the guest, its questions to name servers"),
    socket(libc::AF_INET6, "AF_INET6", DATAGRAM, "the guest's questions to name servers"),
    socket(libc::AF_INET6, "AF_INET6", STREAM, "the guest's connections to name servers"),
    any(S::pread64, "the list of name servers, which may have changed"),
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

const NAMELESS: Row = with(
    S::openat,
    2,
    (libc::O_RDWR | libc::O_TMPFILE | libc::O_CLOEXEC) as u32,
    "O_RDWR | O_TMPFILE | O_CLOEXEC",
    "what is written to an overlay, a folder that is shown as a disk",
);

// File systems that have no files without a name, such as NFS and older overlayfs.
const NAMED: Row = with(
    S::openat,
    2,
    (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC) as u32,
    "O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC",
    "the same where the file system has no files without a name",
)
.elsewhere();
const UNNAMED: Row = any(S::unlink, "and the name is removed at once").elsewhere();

const DISK: &[Row] = &[
    any(S::preadv, "the guest reads"),
    any(S::pwritev, "the guest writes"),
    any(S::fdatasync, "the guest flushes"),
    any(S::fallocate, "the guest discards or writes zeroes"),
    NAMELESS,
    NAMED,
    UNNAMED,
    any(S::ftruncate, "the file of an overlay"),
];

const TICK: &[Row] = &[
    with(S::sched_setattr, 0, 0, "this thread", "it is to wake up on time"),
    with(S::prctl, 0, libc::PR_SET_TIMERSLACK as u32, "PR_SET_TIMERSLACK", "it is to wake up on time"),
];

const DEPLOY: &[Row] = &[
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

const LOG: &[Row] = &[with(
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

const MAKER: &[Row] = &[
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

/// Running a guest whose process is there.
const PROCESS: &[Row] = &[
    any(S::ppoll, "whether the process of a guest still lives").on(Platform::Process),
    any(S::prlimit64, "the processor time of a guest's process").on(Platform::Process),
];

/// How much memory a guest has, whose memory is shared with its process.
const FILLED: &[Row] = &[any(S::lseek, "which memory of a guest is filled").on(Platform::Process)];

/// Making the process of a guest, and its memory.
const MAKE_PROCESS: &[Row] = &[
    any(S::memfd_create, "memory that is shared with the process of a guest").on(Platform::Process),
    any(S::ftruncate, "memory that is shared with the process of a guest").on(Platform::Process),
    any(S::sendmsg, "a process is asked for").on(Platform::Process),
    any(S::recvmsg, "a process is asked for").on(Platform::Process),
    any(S::clock_getres, "the clock of its processor time").on(Platform::Process),
    any(S::pread64, "memory of a template is copied").on(Platform::Process),
    any(S::pwrite64, "memory of a template is copied").on(Platform::Process),
    any(S::fallocate, "memory of a guest is given back").on(Platform::Process),
];

/// The doorbells of its guest.
const MAKE_DOORBELLS: &[Row] = &[
    any(S::eventfd2, "doorbells of the process of a guest").on(Platform::Process),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "back ends get the doorbells, too")
        .on(Platform::Process),
];

/// Rows beyond those of all kinds, in groups.
fn groups(kind: Kind) -> &'static [&'static [Row]] {
    match kind {
        Kind::Run => &[GUEST, REPORT, CONSOLE, PAGES, PROCESS, FILLED, STATS],
        Kind::Snapshot => &[GUEST, CONSOLE, CAPTURE, PAGES, FILES, SNAPSHOT, PROCESS, FILLED, MAKE_PROCESS],
        Kind::Serve => &[SERVE, PROCESS],
        Kind::Cpu => &[GUEST, OUTPUT, RESET, PAGES, PROCESS, FILLED, MAKE_PROCESS],
        Kind::Report => &[REPORT],
        Kind::Io => &[IO],
        Kind::Disk => &[DISK],
        Kind::Tick => &[TICK],
        Kind::Keeper => &[MACHINE, RESET, PAGES, RING, PROCESS, FILLED, MAKE_PROCESS, MAKE_DOORBELLS],
        Kind::Deploy => &[
            MACHINE,
            RESET,
            CAPTURE,
            PAGES,
            RING,
            FILES,
            DEPLOY,
            PROCESS,
            FILLED,
            MAKE_PROCESS,
            MAKE_DOORBELLS,
        ],
        Kind::Log => &[LOG],
        Kind::Maker => &[MAKER],
    }
}

/// All rows of a kind in this build on a platform, without those that every kind has.
pub(super) fn own(kind: Kind, platform: Platform) -> impl Iterator<Item = &'static Row> {
    groups(kind).iter().copied().flatten().filter(move |row| row.is_for(platform))
}

/// The rows that every kind has.
pub(super) fn all(platform: Platform) -> impl Iterator<Item = &'static Row> {
    ALL.iter().filter(move |row| row.is_for(platform))
}

impl Row {
    fn is_for(&self, platform: Platform) -> bool {
        match self.only {
            Only::Always => true,
            Only::On(wanted) => wanted == platform,
            Only::Debug => cfg!(debug_assertions),
        }
    }
}
