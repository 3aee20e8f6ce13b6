//! Shares: folders of the host, a request for each operation on a file.

use crate::device::{self, Config};
use crate::{GuestAddr, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The handle of the folder itself: it is open as long as the guest lives.
pub const ROOT: u64 = 0;
/// Most bytes of a path.
pub const PATH_MAX: usize = 4095;
/// Most bytes of a name: what stands between two slashes of a path.
pub const NAME_MAX: usize = 255;
/// Most bytes of a tag.
pub const TAG_MAX: usize = 40;
/// Most bytes that one [`OP_READ_DIR`] fills.
pub const READ_DIR_MAX: u32 = 64 << 10;
/// Fewest bytes that an [`OP_READ_DIR`] has to offer: what any entry fits in.
pub const READ_DIR_MIN: u32 = 512;

bitflags::bitflags! {
    /// What a share can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ShareFeatures: u32 {
        /// Whatever would change something is refused.
        const READ_ONLY = 1 << 0;
        /// Nothing in it changes as long as the guest runs, as the user has promised: what was found once may be kept.
        const UNCHANGING = 1 << 1;
    }
}

/// Configuration of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareConfig {
    /// [`ShareFeatures`] bits.
    pub features: u32,
    /// Most bytes that one read or write may move.
    pub max_transfer: u32,
    /// Most handles that may be open at a time, [`ROOT`] left out.
    pub max_handles: u32,
    /// Bytes of the tag.
    pub tag_len: u32,
    /// What the share is called: the user's choice, unique among the guest's shares. Letters, digits, `.`, `_`, `-`.
    pub tag: [u8; TAG_MAX],
}

layout!(ShareConfig: 56 { features @ 0, max_transfer @ 4, max_handles @ 8, tag_len @ 12, tag @ 16 });

impl Config for ShareConfig {
    const KIND: u32 = device::SHARE;
}

impl ShareConfig {
    /// The tag's bytes.
    pub fn tag(&self) -> &[u8] {
        let len = (self.tag_len as usize).min(TAG_MAX);
        self.tag.split_at(len).0
    }
}

/// Opens what `path` leads to; `value` of the response is its handle.
pub const OP_OPEN: u16 = 1;
/// Gives a handle back.
pub const OP_CLOSE: u16 = 2;
/// Reads from `offset` on into the memory; `value` is the number of bytes, 0 at the end of the file.
pub const OP_READ: u16 = 3;
/// Fills the memory with [`ShareEntry`]s from the cookie `offset` on; `value` is the number of bytes, 0 at the end.
pub const OP_READ_DIR: u16 = 4;
/// Fills the memory with the [`ShareAttributes`] of what `path` leads to, or of the handle if the path is empty.
pub const OP_ATTRIBUTES: u16 = 5;
/// Fills the memory with the target of the symbolic link that `path` leads to; `value` is its length.
pub const OP_READ_LINK: u16 = 6;

/// Writes the memory at `offset`; `value` is the number of bytes.
pub const OP_WRITE: u16 = 7;
/// Answers once what was written before is on the host's disk.
pub const OP_SYNC: u16 = 8;
/// Makes a folder with `mode`.
pub const OP_MAKE_DIR: u16 = 9;
/// Removes a name.
pub const OP_REMOVE: u16 = 10;
/// Renames what `path` leads to; the new path is the memory, and starts at `other`.
pub const OP_RENAME: u16 = 11;
/// Gives a file one more name, as [`OP_RENAME`] does another one.
pub const OP_LINK: u16 = 12;
/// Makes a symbolic link at `path`, whose text is the memory.
pub const OP_SYMLINK: u16 = 13;
/// Changes attributes; the memory is a [`ShareChange`].
pub const OP_CHANGE: u16 = 14;
/// Fills the memory with the [`ShareSpace`] of the file system that the handle is on.
pub const OP_SPACE: u16 = 15;

/// Locks `other` bytes of a file from `offset` on (0: all, however long it becomes), in place of what the handle has locked of them, or gives them
/// back. Does not wait.
pub const OP_LOCK: u16 = 16;
/// Fills the memory with the value of the extended attribute that `path` names; `value` is its length. No bytes of memory: only the length.
pub const OP_XATTR: u16 = 17;
/// Sets the extended attribute that `path` names; its value is the memory.
pub const OP_SET_XATTR: u16 = 18;
/// Fills the memory with the names of extended attributes, each with a NUL behind it; `value` is their length. No bytes of memory: only the length.
pub const OP_LIST_XATTRS: u16 = 19;
/// Removes the extended attribute that `path` names.
pub const OP_REMOVE_XATTR: u16 = 20;

/// Notes what changes in a folder, or of a file, from now on until the handle is closed. The handle has to be open to be read.
pub const OP_WATCH: u16 = 21;
/// Fills the memory with [`ShareEvent`]s of a handle that is watched, once there are some; `value` is the number of bytes, and may be 0.
pub const OP_CHANGES: u16 = 22;

/// Of [`OP_CHANGES`]: answers at once, and so are those of the same handle that wait.
pub const CHANGES_NOW: u16 = 1 << 0;
/// Most [`OP_CHANGES`] that wait at a time.
pub const CHANGES_WAITING: usize = 32;
/// Most handles of a share that are watched at a time.
pub const WATCHED_MAX: usize = 64;

/// Most bytes of an extended attribute, and of the names of all.
pub const XATTR_MAX: u32 = 64 << 10;

/// Of [`OP_OPEN`]: the bytes can be read, or the entries of a folder.
/// Without it the handle only stands for a place: paths start there, and attributes are read.
pub const OPEN_READ: u16 = 1 << 0;
/// Of [`OP_OPEN`]: the bytes can be written.
pub const OPEN_WRITE: u16 = 1 << 1;
/// Of [`OP_OPEN`] with [`OPEN_WRITE`]: a file that is not there is made, with `mode`.
pub const OPEN_CREATE: u16 = 1 << 2;
/// Of [`OP_OPEN`] with [`OPEN_CREATE`]: whatever is there is an error.
pub const OPEN_EXCLUSIVE: u16 = 1 << 3;
/// Of [`OP_OPEN`] with [`OPEN_WRITE`]: the file is made empty.
pub const OPEN_TRUNCATE: u16 = 1 << 4;
/// Of [`OP_OPEN`]: it has to be a folder.
pub const OPEN_DIRECTORY: u16 = 1 << 5;
/// Of [`OP_OPEN`] and [`OP_ATTRIBUTES`]: a symbolic link at the end of the path is not followed.
pub const NO_FOLLOW: u16 = 1 << 6;
/// Of [`OP_READ_DIR`]: entries come with attributes.
pub const WITH_ATTRIBUTES: u16 = 1 << 0;
/// Of [`OP_WRITE`]: at the end of the file, wherever that is then.
pub const WRITE_APPEND: u16 = 1 << 0;
/// Of [`OP_SYNC`]: the bytes, and of the attributes what it takes to find them.
pub const SYNC_DATA: u16 = 1 << 0;
/// Of [`OP_REMOVE`]: the name of a folder, which has to be empty. Without it, of anything else.
pub const REMOVE_DIRECTORY: u16 = 1 << 0;
/// Of [`OP_RENAME`]: what has the new name already is an error.
pub const RENAME_NO_REPLACE: u16 = 1 << 0;
/// Of [`OP_RENAME`]: both are there, and change places.
pub const RENAME_EXCHANGE: u16 = 1 << 1;

/// Of [`OP_LOCK`]: others may lock the same bytes like this. The handle has to be open to be read.
pub const LOCK_SHARED: u16 = 1 << 0;
/// Of [`OP_LOCK`]: nobody else may lock them. The handle has to be open to be written. With neither of the two they are given back.
pub const LOCK_EXCLUSIVE: u16 = 1 << 1;
/// Of [`OP_LOCK`] with one of these: nothing is locked, and the response says whether it could be.
pub const LOCK_TEST: u16 = 1 << 2;
/// Of [`OP_SET_XATTR`]: one that is there is an error.
pub const XATTR_CREATE: u16 = 1 << 0;
/// Of [`OP_SET_XATTR`]: one that is not there is an error.
pub const XATTR_REPLACE: u16 = 1 << 1;

/// A request. Written by the front end, copied once by the back end. What an operation does not use is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareRequest {
    /// Comes back in the response; the back end gives it no meaning.
    pub id: u64,
    /// One of the `OP_` numbers.
    pub op: u16,
    /// Bits of the operation.
    pub flags: u16,
    /// Bytes of the path.
    pub path_len: u32,
    /// What the operation is about, or where the path starts.
    pub handle: u64,
    /// Where in a file, or the cookie of a folder.
    pub offset: u64,
    /// Where the path is.
    pub path: GuestAddr,
    /// Where the data are, or go to.
    pub data: GuestAddr,
    /// Their length in bytes.
    pub data_len: u32,
    /// Permissions of what is made.
    pub mode: u32,
    /// Where the other path starts; of a lock, how many bytes.
    pub other: u64,
}

layout!(ShareRequest: 64 {
    id @ 0, op @ 8, flags @ 10, path_len @ 12, handle @ 16, offset @ 24, path @ 32, data @ 40, data_len @ 48,
    mode @ 52, other @ 56,
});

/// A response. Responses may come in another order than the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareResponse {
    /// The request's `id`.
    pub id: u64,
    /// 0, or `-errno`.
    pub status: i32,
    /// Zero.
    pub reserved: u32,
    /// Depends on the operation; zero after an error.
    pub value: u64,
}

layout!(ShareResponse: 24 { id @ 0, status @ 8, reserved @ 12, value @ 16 });

/// What there is to know of a file, as `statx` of Linux tells it. Times are since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareAttributes {
    /// Tells files of one `device` apart.
    pub inode: u64,
    /// Tells the file systems apart that the share spans.
    pub device: u64,
    /// Bytes of a file, or of a link's target.
    pub size: u64,
    /// Blocks of 512 bytes that it takes.
    pub blocks: u64,
    /// Seconds of the last access.
    pub accessed: i64,
    /// Seconds of the last change of its bytes.
    pub modified: i64,
    /// Seconds of the last change of its attributes.
    pub changed: i64,
    /// Nanoseconds within those seconds: of the last access …
    pub accessed_ns: u32,
    /// … of the last change of its bytes …
    pub modified_ns: u32,
    /// … and of its attributes.
    pub changed_ns: u32,
    /// Kind and permissions, as `st_mode` of Linux.
    pub mode: u32,
    /// Names that it has.
    pub links: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes that are best read and written at a time.
    pub block_size: u32,
}

layout!(ShareAttributes: 88 {
    inode @ 0, device @ 8, size @ 16, blocks @ 24, accessed @ 32, modified @ 40, changed @ 48, accessed_ns @ 56,
    modified_ns @ 60, changed_ns @ 64, mode @ 68, links @ 72, uid @ 76, gid @ 80, block_size @ 84,
});

/// Of [`ShareChange`]: `mode` is set.
pub const SET_MODE: u32 = 1 << 0;
/// Of [`ShareChange`]: `uid` and `gid` are set; `u32::MAX` leaves one as it is.
pub const SET_OWNER: u32 = 1 << 1;
/// Of [`ShareChange`]: `size` is set.
pub const SET_SIZE: u32 = 1 << 2;
/// Of [`ShareChange`]: the time of the last access is set.
pub const SET_ACCESSED: u32 = 1 << 3;
/// Of [`ShareChange`]: the time of the last change of its bytes is set.
pub const SET_MODIFIED: u32 = 1 << 4;
/// Nanoseconds that stand for the host's present time.
pub const TIME_NOW: u32 = 0x3fff_ffff;

/// What is changed of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareChange {
    /// `SET_` bits: which of the others count.
    pub what: u32,
    /// Permissions.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds of the last access.
    pub accessed: i64,
    /// Seconds of the last change of its bytes.
    pub modified: i64,
    /// Nanoseconds of the last access, or [`TIME_NOW`].
    pub accessed_ns: u32,
    /// Nanoseconds of the last change of its bytes, or [`TIME_NOW`].
    pub modified_ns: u32,
}

layout!(ShareChange: 48 {
    what @ 0, mode @ 4, uid @ 8, gid @ 12, size @ 16, accessed @ 24, modified @ 32, accessed_ns @ 40, modified_ns @ 44,
});

/// How much room a file system has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareSpace {
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks that are free.
    pub free: u64,
    /// Blocks that the user of hv may still use.
    pub available: u64,
    /// Files that there may be in all.
    pub files: u64,
    /// Files that may still be made.
    pub free_files: u64,
}

layout!(ShareSpace: 48 { block_size @ 0, blocks @ 8, free @ 16, available @ 24, files @ 32, free_files @ 40 });

/// The head of an entry of a folder. [`ShareAttributes`] follow if they were asked for, then the name, then zeroes up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareEntry {
    /// Where the folder goes on behind this entry: the `offset` of the next request.
    pub cookie: u64,
    /// As in [`ShareAttributes`].
    pub inode: u64,
    /// Bytes of the whole entry, a multiple of 8.
    pub len: u16,
    /// Bytes of the name: 1 to [`NAME_MAX`].
    pub name_len: u16,
    /// Its kind: the upper four bits of a `mode`.
    pub kind: u32,
}

layout!(ShareEntry: 24 { cookie @ 0, inode @ 8, len @ 16, name_len @ 18, kind @ 20 });

/// The head of an event. The name follows, then zeroes up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShareEvent {
    /// `EVENT_` bits: what happened. Bits that a guest does not know are to be ignored.
    pub what: u32,
    /// The same number, which is not 0, in both events of a name that was renamed.
    pub pair: u32,
    /// Bytes of the whole event, a multiple of 8.
    pub len: u16,
    /// Bytes of the name in the folder; 0: the folder or file that is watched.
    pub name_len: u16,
    /// Zero.
    pub reserved: u32,
}

layout!(ShareEvent: 16 { what @ 0, pair @ 4, len @ 8, name_len @ 10, reserved @ 12 });

/// Of [`ShareEvent`]: there is something of this name.
pub const EVENT_MADE: u32 = 1 << 0;
/// Of [`ShareEvent`]: the name is gone, or leads to something else.
pub const EVENT_REMOVED: u32 = 1 << 1;
/// Of [`ShareEvent`]: bytes were written, or the size was changed.
pub const EVENT_WRITTEN: u32 = 1 << 2;
/// Of [`ShareEvent`]: somebody who could write has closed it.
pub const EVENT_CLOSED: u32 = 1 << 3;
/// Of [`ShareEvent`]: attributes were changed.
pub const EVENT_ATTRIBUTES: u32 = 1 << 4;
/// Of [`ShareEvent`]: what it is about is a folder.
pub const EVENT_DIRECTORY: u32 = 1 << 5;
/// Of [`ShareEvent`], alone: there were more events than were kept. What is there now has to be looked at.
pub const EVENT_LOST: u32 = 1 << 6;
/// Of [`ShareEvent`], alone: the file system of what was watched is gone, and nothing more comes.
pub const EVENT_ENDED: u32 = 1 << 7;

/// Kinds of files: the upper four bits of a `mode`.
pub mod kind {
    /// A FIFO. It cannot be opened.
    pub const FIFO: u32 = 1;
    /// A character device. It cannot be opened.
    pub const CHARACTER_DEVICE: u32 = 2;
    /// A folder.
    pub const DIRECTORY: u32 = 4;
    /// A block device. It cannot be opened.
    pub const BLOCK_DEVICE: u32 = 6;
    /// A file.
    pub const FILE: u32 = 8;
    /// A symbolic link.
    pub const LINK: u32 = 10;
    /// A socket. It cannot be opened.
    pub const SOCKET: u32 = 12;
}
