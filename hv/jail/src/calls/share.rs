//! System calls of the threads that work on shares. Landlock bounds them to the folders that were named.

use super::super::row::{Row, any, with};
use super::seek;
use super::services::LARGE;
use syscalls::Sysno as S;

const fn opened(access: i32, words: &'static str, why: &'static str) -> Row {
    with(S::openat, 2, (access | libc::O_CLOEXEC | LARGE) as u32, words, why)
}

const fn made(access: i32, words: &'static str) -> Row {
    let flags = access | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    opened(flags, words, "a file that the guest makes")
}

/// Answering what the host has in memory, on threads that run guests or drive devices. Nothing that is found is opened there.
pub(super) const LOOK: &[Row] = &[
    any(S::openat2, "paths of the guest that the host has in memory, beneath the folder").with_shares(),
    any(S::statx, "attributes of what was found").with_shares(),
];

/// Names are changed beneath the folder only, as far as Landlock is there. Attributes are changed through files that are open, since Landlock does not
/// bound those.
pub(super) const SHARE: &[Row] = &[
    any(S::openat2, "paths of the guest, beneath the folder"),
    opened(
        libc::O_RDONLY,
        "O_RDONLY | O_CLOEXEC | O_LARGEFILE",
        "a file or folder that was found, through its descriptor in /proc/self/fd",
    ),
    opened(libc::O_WRONLY, "O_WRONLY | O_CLOEXEC | O_LARGEFILE", "the same, to be written"),
    opened(libc::O_RDWR, "O_RDWR | O_CLOEXEC | O_LARGEFILE", "the same, to be read and written"),
    made(libc::O_WRONLY, "O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE"),
    made(libc::O_RDWR, "O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_LARGEFILE"),
    with(S::fcntl, 1, libc::F_DUPFD_CLOEXEC as u32, "F_DUPFD_CLOEXEC", "a handle is opened once more"),
    any(S::statx, "attributes"),
    any(S::getdents64, "entries of folders"),
    seek(libc::SEEK_SET, "SEEK_SET", "a folder is listed from an entry on"),
    any(S::readlinkat, "targets of symbolic links"),
    any(S::preadv, "the guest reads"),
    any(S::pwritev2, "the guest writes"),
    any(S::fsync, "the guest has a file brought to the disk"),
    any(S::fdatasync, "the guest has a file's data brought to the disk"),
    any(S::ftruncate, "the guest sets a file's size"),
    any(S::mkdirat, "the guest makes a folder"),
    any(S::unlinkat, "the guest removes a name"),
    any(S::renameat2, "the guest renames"),
    any(S::linkat, "the guest gives a file another name"),
    any(S::symlinkat, "the guest makes a symbolic link"),
    any(S::fchmod, "the guest sets permissions"),
    any(S::fchown, "the guest sets an owner"),
    with(S::utimensat, 1, 0, "without a path", "the guest sets times"),
    any(S::fstatfs, "how much room there is"),
    with(S::fcntl, 1, libc::F_OFD_GETLK as u32, "F_OFD_GETLK", "the guest asks whether others have a lock"),
    any(S::fgetxattr, "extended attributes"),
    any(S::flistxattr, "their names"),
    any(S::fsetxattr, "the guest sets an extended attribute, whose name begins with \"user.\""),
    any(S::fremovexattr, "the guest removes one"),
    any(S::inotify_init1, "the guest watches a folder"),
    any(S::inotify_add_watch, "the guest watches a folder"),
    any(S::inotify_rm_watch, "it does so no more"),
];
