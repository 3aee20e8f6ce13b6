//! Shares: folders of the host (`--share`), by handles and paths. The module `fs` has files and folders on top of them.
//!
//! ```ignore
//! let share = share::share("docs").ok_or("run it with --share docs,ro")?;
//! let handle = share.open(ROOT, b"index.html", OPEN_READ).await?;
//! let count = share.read(handle, 0, &mut buffer).await?;
//! share.close(handle);
//! ```
//!
//! Every operation is a future, [`Call`], and [`Call::block`] carries it out without an executor. Like a transfer of a disk, one that is
//! dropped early waits for the host, which may be using its buffers; it must not be leaked while it is under way.
//!
//! Nothing is kept in the guest: each operation asks the host, and sees what is there now.
#![forbid(unsafe_code)]

mod watch;

use crate::devices::devices;
use crate::requests::{Operation, Request, RequestQueue, Response};
use alloc::vec::Vec;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};
use hv_abi::device::{Config, DeviceInfo};
use hv_abi::io::share::{
    OP_ATTRIBUTES, OP_CHANGE, OP_CHANGES, OP_CLOSE, OP_LINK, OP_LIST_XATTRS, OP_LOCK, OP_MAKE_DIR, OP_OPEN,
    OP_READ, OP_READ_DIR, OP_READ_LINK, OP_REMOVE, OP_REMOVE_XATTR, OP_RENAME, OP_SET_XATTR, OP_SPACE,
    OP_SYMLINK, OP_SYNC, OP_WATCH, OP_WRITE, OP_XATTR, ShareAttributes, ShareChange, ShareConfig,
    ShareFeatures, ShareRequest, ShareResponse, ShareSpace,
};
use hv_abi::{Errno, GuestAddr};
use spin::LazyLock;
use zerocopy::IntoBytes;

pub use hv_abi::io::share::{
    CHANGES_NOW, LOCK_EXCLUSIVE, LOCK_SHARED, LOCK_TEST, NO_FOLLOW, OPEN_CREATE, OPEN_DIRECTORY,
    OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE, READ_DIR_MAX, REMOVE_DIRECTORY, RENAME_EXCHANGE,
    RENAME_NO_REPLACE, ROOT, SYNC_DATA, WITH_ATTRIBUTES, WRITE_APPEND, XATTR_CREATE, XATTR_MAX,
    XATTR_REPLACE,
};
pub use watch::{Event, Events, Watch};

impl Request for ShareRequest {
    type Response = ShareResponse;
    type Kept = ();

    fn set_id(&mut self, id: u64) {
        self.id = id;
    }
}

impl Response for ShareResponse {
    fn id(&self) -> u64 {
        self.id
    }

    fn status(&self) -> i32 {
        self.status
    }
}

#[derive(Debug)]
struct Device {
    config: ShareConfig,
    queue: RequestQueue<ShareRequest>,
}

static SHARES: LazyLock<Vec<Device>> = LazyLock::new(|| devices().filter_map(open).collect());

fn open(info: DeviceInfo) -> Option<Device> {
    let config = ShareConfig::of(&info)?;
    Some(Device { config, queue: RequestQueue::new(&info.rings[0])? })
}

/// A share of this guest. Copies are handles to the same one.
#[derive(Clone, Copy, Debug)]
pub struct Share(&'static Device);

/// The guest's shares, in the order of the command line.
pub fn shares() -> impl Iterator<Item = Share> {
    SHARES.iter().map(|device| {
        device.queue.listen();
        Share(device)
    })
}

/// The share with this tag.
pub fn share(tag: &str) -> Option<Share> {
    shares().find(|share| share.tag() == tag)
}

/// An operation on a share, as a future that is the value of the host's response. See the [module](self) about dropping it early.
#[must_use = "an operation does nothing until it is awaited"]
pub struct Call<'a>(Operation<'a, ShareRequest>);

impl Call<'_> {
    /// Carries it out, waiting without an executor. No task runs meanwhile.
    ///
    /// # Errors
    ///
    /// Those of the operation.
    pub fn block(self) -> Result<u64, Errno> {
        self.0.block().map(|response| response.value)
    }
}

impl Future for Call<'_> {
    type Output = Result<u64, Errno>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.map(|response| response.value))
    }
}

impl Share {
    /// What it is called.
    pub fn tag(&self) -> &'static str {
        str::from_utf8(self.0.config.tag()).unwrap_or_default()
    }

    /// Whether the host refuses to change anything, with [`Errno::ReadOnly`].
    pub fn read_only(&self) -> bool {
        ShareFeatures::from_bits_truncate(self.0.config.features).contains(ShareFeatures::READ_ONLY)
    }

    /// Whether nothing in it changes as long as the guest runs, as the user has promised: what was found once may be kept.
    pub fn unchanging(&self) -> bool {
        ShareFeatures::from_bits_truncate(self.0.config.features).contains(ShareFeatures::UNCHANGING)
    }

    /// Most bytes of one read or write. The host refuses longer ones.
    pub fn max_transfer(&self) -> usize {
        self.0.config.max_transfer as usize
    }

    /// How many handles may be open at a time.
    pub fn max_handles(&self) -> usize {
        self.0.config.max_handles as usize
    }

    /// Carries out what consists of operations of this share, waiting without an executor. No task runs meanwhile.
    pub(crate) fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            if let Poll::Ready(output) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return output;
            }
            self.0.queue.wait();
        }
    }

    fn call<'a>(&self, request: ShareRequest) -> Call<'a> {
        Call(Operation::new(&self.0.queue, request))
    }

    /// Opens what a path from a folder's handle leads to, or the handle's file once more if the path is empty. The value is the new handle.
    ///
    /// With [`OPEN_READ`] it can be read; without it the handle stands for a place in the tree. A path is relative, may hold any bytes but NUL, and
    /// leads nowhere outside the share.
    ///
    /// Errors: [`Errno::NotFound`], [`Errno::Denied`], [`Errno::Outside`], [`Errno::NotDirectory`], [`Errno::TooManyLinks`],
    /// [`Errno::NameTooLong`], [`Errno::TooManyOpen`], [`Errno::BadHandle`], [`Errno::NotSupported`] for a FIFO, a socket or a device,
    /// [`Errno::Io`].
    pub fn open<'a>(&self, from: u64, path: &'a [u8], flags: u16) -> Call<'a> {
        self.call(with_path(OP_OPEN, from, path, flags))
    }

    /// Opens a path to be written, with [`OPEN_WRITE`] and what else is to be: [`OPEN_CREATE`], [`OPEN_EXCLUSIVE`], [`OPEN_TRUNCATE`]. A file that is
    /// made gets these permissions, less the umask of hv.
    ///
    /// Errors: those of [`open`](Self::open), [`Errno::ReadOnly`], [`Errno::Exists`], [`Errno::NoSpace`], [`Errno::Quota`].
    pub fn create<'a>(&self, from: u64, path: &'a [u8], flags: u16, mode: u32) -> Call<'a> {
        self.call(ShareRequest { mode, ..with_path(OP_OPEN, from, path, flags) })
    }

    /// Writes the bytes, at most [`max_transfer`](Self::max_transfer), at `offset`, or, with [`WRITE_APPEND`], at the end. The value is the number of
    /// bytes, which may be fewer.
    ///
    /// Errors: [`Errno::BadHandle`], also of one that was not opened to be written, [`Errno::NoSpace`], [`Errno::Quota`], [`Errno::TooLarge`],
    /// [`Errno::Io`].
    pub fn write<'a>(&self, handle: u64, offset: u64, bytes: &'a [u8], flags: u16) -> Call<'a> {
        let request = ShareRequest { op: OP_WRITE, handle, offset, flags, ..ShareRequest::default() };
        self.call(with_bytes(request, bytes))
    }

    /// Completes once what was written before is on the host's disk: with [`SYNC_DATA`] the bytes alone. Names are there once their folder is
    /// synced, which has to be open to be read.
    pub fn sync(&self, handle: u64, flags: u16) -> Call<'static> {
        self.call(ShareRequest { op: OP_SYNC, handle, flags, ..ShareRequest::default() })
    }

    /// Makes a folder. Errors: those of [`create`](Self::create).
    pub fn make_dir<'a>(&self, from: u64, path: &'a [u8], mode: u32) -> Call<'a> {
        self.call(ShareRequest { mode, ..with_path(OP_MAKE_DIR, from, path, 0) })
    }

    /// Removes a name: with [`REMOVE_DIRECTORY`] that of an empty folder, without it of anything else. A link is not followed.
    ///
    /// Errors: those of [`open`](Self::open), [`Errno::ReadOnly`], [`Errno::NotEmpty`], [`Errno::IsDirectory`].
    pub fn remove<'a>(&self, from: u64, path: &'a [u8], flags: u16) -> Call<'a> {
        self.call(with_path(OP_REMOVE, from, path, flags))
    }

    /// Renames; a path of another folder's handle may be the new name. What has that name is replaced, but with [`RENAME_NO_REPLACE`], and changes places with
    /// [`RENAME_EXCHANGE`]. Errors: those of [`remove`](Self::remove), [`Errno::Exists`], [`Errno::Outside`] between file systems.
    pub fn rename<'a>(&self, from: (u64, &'a [u8]), to: (u64, &'a [u8]), flags: u16) -> Call<'a> {
        self.call(with_bytes(
            ShareRequest { other: to.0, ..with_path(OP_RENAME, from.0, from.1, flags) },
            to.1,
        ))
    }

    /// Gives a file one more name. Errors: those of [`rename`](Self::rename).
    pub fn link<'a>(&self, from: (u64, &'a [u8]), to: (u64, &'a [u8])) -> Call<'a> {
        self.call(with_bytes(ShareRequest { other: to.0, ..with_path(OP_LINK, from.0, from.1, 0) }, to.1))
    }

    /// Makes a symbolic link with this text. Errors: those of [`create`](Self::create).
    pub fn symlink<'a>(&self, from: u64, path: &'a [u8], text: &'a [u8]) -> Call<'a> {
        self.call(with_bytes(with_path(OP_SYMLINK, from, path, 0), text))
    }

    /// Changes attributes: [`hv_abi::io::share::ShareChange`] says which. Set-id bits are refused with [`Errno::Denied`].
    /// Errors: those of [`open`](Self::open), [`Errno::ReadOnly`].
    pub fn change<'a>(&self, from: u64, path: &'a [u8], flags: u16, change: &'a ShareChange) -> Call<'a> {
        self.call(with_bytes(with_path(OP_CHANGE, from, path, flags), change.as_bytes()))
    }

    /// Locks `len` bytes of a file from `start` on (0: all, however long it becomes), with [`LOCK_SHARED`] or [`LOCK_EXCLUSIVE`], in place of what this handle has
    /// locked of them, or gives them back without flags. Other handles are other owners, and so are programs of the host that lock with `fcntl`. Does not
    /// wait. With [`LOCK_TEST`] as well nothing is locked.
    ///
    /// Errors: [`Errno::Busy`] if others have locked some of it, [`Errno::BadHandle`], also of one that was not opened for that, [`Errno::Invalid`].
    pub fn lock(&self, handle: u64, flags: u16, start: u64, len: u64) -> Call<'static> {
        let request =
            ShareRequest { op: OP_LOCK, handle, flags, offset: start, other: len, ..ShareRequest::default() };
        self.call(request)
    }

    /// Reads an extended attribute, whose name begins with `user.`, of what is open. The value is the length. An empty buffer asks for that alone;
    /// [`XATTR_MAX`] bytes are enough.
    ///
    /// Errors: [`Errno::NotFound`], [`Errno::TooLarge`] if it does not fit, [`Errno::BadHandle`], [`Errno::NotSupported`] for another name, and where the
    /// host's file system has none.
    pub fn xattr<'a>(&self, handle: u64, name: &'a [u8], value: &'a mut [u8]) -> Call<'a> {
        self.call(with_memory(with_path(OP_XATTR, handle, name, 0), value))
    }

    /// Sets an extended attribute; with [`XATTR_CREATE`] it must not be there, with [`XATTR_REPLACE`] it must.
    ///
    /// Errors: those of [`xattr`](Self::xattr), [`Errno::ReadOnly`], [`Errno::Exists`], [`Errno::NoSpace`].
    pub fn set_xattr<'a>(&self, handle: u64, name: &'a [u8], value: &'a [u8], flags: u16) -> Call<'a> {
        self.call(with_bytes(with_path(OP_SET_XATTR, handle, name, flags), value))
    }

    /// Reads the names of extended attributes, each with a NUL behind it; the rest is as for [`xattr`](Self::xattr).
    pub fn list_xattrs<'a>(&self, handle: u64, names: &'a mut [u8]) -> Call<'a> {
        self.call(with_memory(ShareRequest { op: OP_LIST_XATTRS, handle, ..ShareRequest::default() }, names))
    }

    /// Removes an extended attribute. Errors: those of [`set_xattr`](Self::set_xattr).
    pub fn remove_xattr<'a>(&self, handle: u64, name: &'a [u8]) -> Call<'a> {
        self.call(with_path(OP_REMOVE_XATTR, handle, name, 0))
    }

    /// Notes from now on what changes in a folder, or of a file, that is open to be read, until the handle is closed. [`Watch`] does that, and the rest.
    ///
    /// Errors: [`Errno::BadHandle`], [`Errno::TooManyOpen`] above 64 handles, [`Errno::NoSpace`] if the host watches too much.
    pub fn watch(&self, handle: u64) -> Call<'static> {
        self.call(ShareRequest { op: OP_WATCH, handle, ..ShareRequest::default() })
    }

    /// Fills the buffer (512 to [`READ_DIR_MAX`] bytes) with events of a handle that is [watched](Self::watch), once there are some. The value is the number
    /// of bytes, and may be 0. [`Events`] takes them apart. With [`CHANGES_NOW`] it is answered at once, and so are others of the handle that wait.
    ///
    /// Errors: [`Errno::Invalid`] if the handle is not watched, [`Errno::BadHandle`], also when it is closed meanwhile, [`Errno::Busy`] if 32 wait already.
    pub fn changes<'a>(&self, handle: u64, flags: u16, buffer: &'a mut [u8]) -> Call<'a> {
        self.call(with_memory(changes(handle, flags), buffer))
    }

    /// How much room there is where a handle is.
    pub fn space<'a>(&self, handle: u64, space: &'a mut ShareSpace) -> Call<'a> {
        let request = ShareRequest { op: OP_SPACE, handle, ..ShareRequest::default() };
        self.call(with_memory(request, space.as_mut_bytes()))
    }

    /// Gives a handle back. Nobody is told whether it was one.
    pub fn close(&self, handle: u64) {
        self.0.queue.submit_detached(ShareRequest { op: OP_CLOSE, handle, ..ShareRequest::default() });
    }

    /// Reads from `offset` of an open file into the buffer, of at most [`max_transfer`](Self::max_transfer) bytes. The value is the number of
    /// bytes: fewer than asked for at the end of the file, 0 behind it.
    ///
    /// Errors: [`Errno::BadHandle`], also of one that was not opened to be read, [`Errno::IsDirectory`], [`Errno::Stale`], [`Errno::Io`].
    pub fn read<'a>(&self, handle: u64, offset: u64, buffer: &'a mut [u8]) -> Call<'a> {
        let request = ShareRequest { op: OP_READ, handle, offset, ..ShareRequest::default() };
        self.call(with_memory(request, buffer))
    }

    /// Fills the buffer (512 to [`READ_DIR_MAX`] bytes) with entries of an open folder from a cookie on, 0 for the first ones. The value is the
    /// number of bytes, 0 at the end. [`Entries`] takes them apart. With [`WITH_ATTRIBUTES`] they come with attributes.
    ///
    /// Errors: those of [`read`](Self::read), and [`Errno::NotDirectory`].
    pub fn read_dir<'a>(&self, handle: u64, cookie: u64, flags: u16, buffer: &'a mut [u8]) -> Call<'a> {
        let request =
            ShareRequest { op: OP_READ_DIR, handle, flags, offset: cookie, ..ShareRequest::default() };
        self.call(with_memory(request, buffer))
    }

    /// Reads the attributes of what a path leads to, or of the handle if the path is empty.
    ///
    /// Errors: those of [`open`](Self::open).
    pub fn attributes<'a>(
        &self,
        from: u64,
        path: &'a [u8],
        flags: u16,
        attributes: &'a mut ShareAttributes,
    ) -> Call<'a> {
        self.call(with_memory(with_path(OP_ATTRIBUTES, from, path, flags), attributes.as_mut_bytes()))
    }

    /// Reads where a symbolic link leads; the value is the length. [`Errno::Invalid`] if it is no link, or the buffer is too small: 4096 bytes are enough.
    pub fn read_link<'a>(&self, from: u64, path: &'a [u8], buffer: &'a mut [u8]) -> Call<'a> {
        self.call(with_memory(with_path(OP_READ_LINK, from, path, 0), buffer))
    }
}

fn changes(handle: u64, flags: u16) -> ShareRequest {
    ShareRequest { op: OP_CHANGES, handle, flags, ..ShareRequest::default() }
}

fn with_path(op: u16, handle: u64, path: &[u8], flags: u16) -> ShareRequest {
    let at = GuestAddr(path.as_ptr().expose_provenance() as u64);
    // A length that is no u32 is too long in any case.
    let path_len = path.len().min(u32::MAX as usize) as u32;
    ShareRequest { op, handle, flags, path: at, path_len, ..ShareRequest::default() }
}

fn with_memory(request: ShareRequest, buffer: &mut [u8]) -> ShareRequest {
    let data = GuestAddr(buffer.as_mut_ptr().expose_provenance() as u64);
    ShareRequest { data, data_len: buffer.len().min(u32::MAX as usize) as u32, ..request }
}

fn with_bytes(request: ShareRequest, bytes: &[u8]) -> ShareRequest {
    let data = GuestAddr(bytes.as_ptr().expose_provenance() as u64);
    ShareRequest { data, data_len: bytes.len().min(u32::MAX as usize) as u32, ..request }
}

/// The entries in a buffer that [`Share::read_dir`] has filled.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    with_attributes: bool,
}

/// An entry of a folder.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name: any bytes but `/` and NUL.
    pub name: &'a [u8],
    /// Its kind: the upper four bits of a `mode`.
    pub kind: u32,
    /// Its inode.
    pub inode: u64,
    /// Where the folder goes on behind it.
    pub cookie: u64,
    /// Its attributes, if they were asked for. Those of a symbolic link are its own.
    pub attributes: Option<ShareAttributes>,
}

impl<'a> Entries<'a> {
    /// The entries in these bytes, which were asked for with these flags.
    pub fn new(bytes: &'a [u8], flags: u16) -> Self {
        Entries { bytes, with_attributes: flags & WITH_ATTRIBUTES != 0 }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        use hv_abi::io::share::ShareEntry;
        use zerocopy::FromBytes;
        let (head, _) = ShareEntry::read_from_prefix(self.bytes).ok()?;
        let (entry, rest) = self.bytes.split_at_checked(head.len.into())?;
        let mut body = entry.get(size_of::<ShareEntry>()..)?;
        let mut attributes = None;
        if self.with_attributes {
            let (known, rest) = ShareAttributes::read_from_prefix(body).ok()?;
            (attributes, body) = (Some(known), rest);
        }
        let name = body.get(..head.name_len.into())?;
        self.bytes = rest;
        Some(Entry { name, kind: head.kind, inode: head.inode, cookie: head.cookie, attributes })
    }
}
