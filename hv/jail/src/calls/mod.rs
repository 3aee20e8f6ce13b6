//! The tables: which system calls each kind of thread may make, and why.
//!
//! Pure. `hv jail` prints them; a test compares them with `tests/golden/jail.txt`, and
//! another sees that each row is used. What a thread does before its filter is on
//! (opening files, asking for signals) needs no row.

mod guests;
mod io;
mod server;
mod services;
mod share;

use super::row::{NeededOn, Row, any, to_itself, with, with_both, without};
use super::{Kind, Platform};
use guests::{
    CAPTURE, CONSOLE, DEMAND, FILES, FILLED, GUEST, MACHINE, MAKE_DOORBELLS, MAKE_PROCESS, OUTPUT, PAGES,
    PROCESS, REPORT, RESET, RING, SNAPSHOT, STATS,
};
use io::{DISK, IO};
use server::{DEPLOY, LOG, MAKER, SERVE, TICK};
use services::{FILES as VALUES, SERVICES};
use share::{LOOK, SHARE};
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
    with(S::fcntl, 1, libc::F_OFD_SETLK as u32, "F_OFD_SETLK", "a disk is given back by whoever has it last"),
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

/// Rows beyond those of all kinds, in groups.
fn groups(kind: Kind) -> &'static [&'static [Row]] {
    match kind {
        Kind::Run => &[GUEST, LOOK, REPORT, CONSOLE, PAGES, PROCESS, FILLED, DEMAND, STATS],
        Kind::Snapshot => {
            &[GUEST, LOOK, CONSOLE, CAPTURE, PAGES, FILES, SNAPSHOT, PROCESS, FILLED, MAKE_PROCESS]
        }
        Kind::Serve => &[SERVE, PROCESS],
        Kind::Cpu => &[GUEST, LOOK, OUTPUT, RESET, PAGES, PROCESS, FILLED, MAKE_PROCESS],
        Kind::Report => &[REPORT],
        Kind::Io => &[IO, LOOK],
        Kind::Disk => &[DISK],
        Kind::Share => &[SHARE],
        Kind::Tick => &[TICK],
        Kind::PoolManager => &[MACHINE, RESET, PAGES, RING, PROCESS, FILLED, MAKE_PROCESS, MAKE_DOORBELLS],
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
        Kind::Services => &[SERVICES],
        Kind::Files => &[VALUES],
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
            NeededOn::Always | NeededOn::Shares => true,
            NeededOn::On(wanted) => wanted == platform,
            NeededOn::Debug => cfg!(debug_assertions),
        }
    }
}
