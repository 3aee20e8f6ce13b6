//! Attributes of files as guests see them.

use hv_abi::io::share::ShareAttributes;
use rustix::fs::{AtFlags, Statx, StatxFlags};
use rustix::io::Errno as Host;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

/// Bits of a mode that say the kind of file.
const KIND_SHIFT: u32 = 12;

/// The kind of a file with this mode, one of [`hv_abi::io::share::kind`].
pub(crate) const fn kind(mode: u32) -> u32 {
    (mode >> KIND_SHIFT) & 0xf
}

/// What the kernel says of an open file, or of a name in an open folder; links are not followed.
pub(crate) fn attributes(
    file: BorrowedFd<'_>,
    name: &CStr,
    uid: Option<u32>,
) -> Result<ShareAttributes, Host> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    let stat = rustix::fs::statx(file, name, flags, StatxFlags::BASIC_STATS)?;
    Ok(of_statx(&stat, uid))
}

fn of_statx(stat: &Statx, uid: Option<u32>) -> ShareAttributes {
    ShareAttributes {
        inode: stat.stx_ino,
        device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        accessed: stat.stx_atime.tv_sec,
        modified: stat.stx_mtime.tv_sec,
        changed: stat.stx_ctime.tv_sec,
        accessed_ns: stat.stx_atime.tv_nsec,
        modified_ns: stat.stx_mtime.tv_nsec,
        changed_ns: stat.stx_ctime.tv_nsec,
        mode: stat.stx_mode.into(),
        links: stat.stx_nlink,
        uid: uid.unwrap_or(stat.stx_uid),
        gid: stat.stx_gid,
        block_size: stat.stx_blksize,
    }
}
