//! System calls of threads that make, run and save guests.

use super::super::Platform;
use super::super::row::{Row, any, with};
use super::{OPEN_TO_READ, advice, ioctl, seek};
use syscalls::Sysno as S;

const RUN: (u32, &str) = (0xae80, "KVM_RUN");
const PAGEMAP_SCAN: (u32, &str) = (0xc060_6610, "PAGEMAP_SCAN");

/// Running a guest whose virtual machine is there.
pub(super) const GUEST: &[Row] = &[
    ioctl(RUN, "runs the guest").on(Platform::Kvm),
    ioctl((0x8138_ae83, "KVM_GET_SREGS"), "the address of a page fault").on(Platform::Kvm),
    ioctl((0x4040_ae79, "KVM_IOEVENTFD"), "a doorbell that rings often is bound").on(Platform::Kvm),
    any(S::eventfd2, "a doorbell that rings often is bound"),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "its back end gets the doorbell, too"),
    with(
        S::preadv2,
        5,
        libc::RWF_NOWAIT as u32,
        "RWF_NOWAIT",
        "the guest reads what of a disk or a file is in memory",
    ),
];

/// Writing a crash report.
pub(super) const REPORT: &[Row] = &[any(S::pread64, "the image is read for a crash report")];

/// What `--stats` prints at the end.
pub(super) const STATS: &[Row] = &[any(S::read, "how much memory hv itself has used, for --stats")];

/// Printing what a guest prints, on the thread that runs it.
pub(super) const CONSOLE: &[Row] = &[any(S::poll, "the reader of standard output is waited for")];

/// Printing what a guest prints, on a worker: only programs that embed hv have guests with an output of that kind there.
pub(super) const OUTPUT: &[Row] = &[any(S::poll, "the reader of standard output is waited for").elsewhere()];

/// Making a virtual machine and closing it.
pub(super) const MACHINE: &[Row] = &[
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
    advice(libc::MADV_MERGEABLE, "MADV_MERGEABLE", "share_equal_pages of a function").on(Platform::Kvm),
];

pub(super) const POPULATE: Row = advice(
    libc::MADV_POPULATE_WRITE,
    "MADV_POPULATE_WRITE",
    "pages that will be written are there beforehand",
);

/// Setting all registers of a virtual CPU, and finding what its guest has written.
pub(super) const RESET: &[Row] =
    &[ioctl((0x5000_aea5, "KVM_SET_XSAVE"), "registers of a clone").on(Platform::Kvm)];

/// How many pages a guest has written, piece by piece.
pub(super) const COUNT_PAGES: Row = ioctl(PAGEMAP_SCAN, "how much memory a guest uses, for --control");

/// Which pages a guest has written.
pub(super) const PAGES: &[Row] = &[
    ioctl(PAGEMAP_SCAN, "which pages a guest has written"),
    any(S::pread64, "the same on kernels before 6.7").elsewhere(),
];

/// Saving a guest that is paused to a template.
pub(super) const CAPTURE: &[Row] = &[
    ioctl((0x8090_ae81, "KVM_GET_REGS"), "registers of a guest that is saved").on(Platform::Kvm),
    ioctl((0x9000_aea4, "KVM_GET_XSAVE"), "registers of a guest that is saved").on(Platform::Kvm),
    any(S::memfd_create, "the memory of a guest that is saved"),
    any(S::ftruncate, "the memory of a guest that is saved"),
    with(S::fcntl, 1, 1033, "F_ADD_SEALS", "the memory of a guest that is saved can no longer change"),
    seek(libc::SEEK_DATA, "SEEK_DATA", "which parts of it are not zero"),
    seek(libc::SEEK_HOLE, "SEEK_HOLE", "which parts of it are not zero"),
];

/// A disk's io_uring.
pub(super) const RING: &[Row] = &[
    any(S::eventfd2, "a doorbell of a new guest's disk"),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "its back end gets the doorbell, too"),
    any(S::io_uring_setup, "a disk of a new guest"),
    any(S::io_uring_register, "a disk of a new guest"),
];

/// Opening an image, a snapshot or a disk.
pub(super) const FILES: &[Row] = &[
    OPEN_TO_READ,
    any(S::statx, "files are looked at before they are used"),
    any(S::read, "files"),
    any(S::pread64, "files"),
    any(S::fstat, "files are looked at by other versions of the C library, and where there is no statx")
        .elsewhere(),
    any(S::newfstatat, "files are looked at where there is no statx").elsewhere(),
];

pub(super) const SNAPSHOT: &[Row] = &[
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

/// Running a guest whose process is there.
pub(super) const PROCESS: &[Row] = &[
    any(S::ppoll, "whether the process of a guest still lives").on(Platform::Process),
    any(S::prlimit64, "the processor time of a guest's process").on(Platform::Process),
];

/// How much memory a guest has, whose memory is shared with its process.
pub(super) const FILLED: &[Row] = &[
    any(S::lseek, "which memory of a guest is filled").on(Platform::Process),
    any(S::fstat, "how much memory of a guest is filled").on(Platform::Process),
];

/// Bringing pages of a clone that its process lacks.
pub(super) const DEMAND: &[Row] = &[
    any(S::pread64, "a page of a template that a clone needs").on(Platform::Process),
    any(S::pwrite64, "a page of a template that a clone needs").on(Platform::Process),
    any(S::fallocate, "a page that a clone has given back, and needs again").on(Platform::Process),
];

/// Making the process of a guest, and its memory.
pub(super) const MAKE_PROCESS: &[Row] = &[
    any(S::memfd_create, "memory that is shared with the process of a guest").on(Platform::Process),
    any(S::ftruncate, "memory that is shared with the process of a guest").on(Platform::Process),
    any(S::sendmsg, "a process is asked for").on(Platform::Process),
    any(S::recvmsg, "a process is asked for").on(Platform::Process),
    any(S::clock_getres, "the clock of its processor time").on(Platform::Process),
    any(S::pread64, "pages of a template that a clone needs").on(Platform::Process),
    any(S::pwrite64, "pages of a template that a clone needs").on(Platform::Process),
    any(S::fallocate, "memory of a guest is given back").on(Platform::Process),
];

/// The doorbells of its guest.
pub(super) const MAKE_DOORBELLS: &[Row] = &[
    any(S::eventfd2, "doorbells of the process of a guest").on(Platform::Process),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "back ends get the doorbells, too")
        .on(Platform::Process),
];
