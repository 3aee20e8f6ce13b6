//! The folder of a share, as it is opened before hv is jailed.

use super::attributes::attributes;
use super::handles::MAX_HANDLES;
use super::spec::ShareSpec;
use hv_abi::io::share::{ShareConfig, ShareFeatures, TAG_MAX};
use hv_host::escape::escape;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Most bytes that one read moves.
const MAX_TRANSFER: u32 = 1 << 20;

/// A folder of the host that is open, and what the user said about it.
#[derive(Debug)]
pub struct Folder {
    spec: ShareSpec,
    root: OwnedFd,
    /// `/proc/self/fd`: a file that was found, and is known not to be a device or a FIFO, is opened through it, so that it cannot be
    /// another one by then.
    descriptors: OwnedFd,
    local_device: Option<u64>,
}

/// File systems of which each inode that is in memory is whole, and nobody else's to change (`linux/magic.h`). Network file systems and FUSE ask
/// others; overlayfs may lie on such a one.
const LOCAL: [u64; 5] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x0102_1994, // tmpfs
];

fn local_device(root: BorrowedFd<'_>) -> Option<u64> {
    let kind = rustix::fs::fstatfs(root).ok()?.f_type as u64;
    if !LOCAL.contains(&kind) {
        return None;
    }
    attributes(root, c"", None).ok().map(|attributes| attributes.device)
}

/// Why a folder cannot be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It cannot be opened.
    #[error("share {}: {source}", escape(path))]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is something else.
    #[error("share {}: not a folder; to show a disk image to the guest, use --disk", escape(path))]
    NotAFolder {
        /// What was named.
        path: PathBuf,
    },
    /// Files cannot be opened through their descriptors.
    #[error("shares need /proc, which cannot be opened here: {0}; mount it (mount -t proc proc /proc)")]
    NoProc(#[source] std::io::Error),
    /// The kernel does not look up paths beneath a folder.
    #[error("shares need openat2 (Linux 5.6 or later, and a container that allows it): {0}")]
    NoOpenat2(#[source] std::io::Error),
}

impl Folder {
    /// Opens the folder.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or is no folder, or if this host lacks what shares need.
    pub fn open(spec: &ShareSpec) -> Result<Self, FolderError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = spec.path.clone();
        let root = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(root) => root,
            Err(rustix::io::Errno::NOTDIR) => return Err(FolderError::NotAFolder { path }),
            Err(error) => return Err(FolderError::Open { path, source: error.into() }),
        };
        let descriptors = rustix::fs::open("/proc/self/fd", flags, Mode::empty())
            .map_err(|error| FolderError::NoProc(error.into()))?;
        super::path::look_up(root.as_fd(), c".", OFlags::DIRECTORY)
            .map_err(|error| FolderError::NoOpenat2(error.into()))?;
        let local_device = local_device(root.as_fd());
        Ok(Folder { spec: spec.clone(), root, descriptors, local_device })
    }

    /// What the user said.
    pub fn spec(&self) -> &ShareSpec {
        &self.spec
    }

    /// What the guest is told about it.
    pub fn config(&self) -> ShareConfig {
        let mut features = ShareFeatures::empty();
        features.set(ShareFeatures::READ_ONLY, self.spec.read_only);
        features.set(ShareFeatures::UNCHANGING, self.spec.unchanging);
        let mut tag = [0; TAG_MAX];
        let name = self.spec.tag.as_str().as_bytes();
        tag[..name.len()].copy_from_slice(name);
        ShareConfig {
            features: features.bits(),
            max_transfer: MAX_TRANSFER,
            max_handles: MAX_HANDLES,
            tag_len: name.len() as u32,
            tag,
        }
    }

    /// The device of the folder's file system, if attributes there are in the host's memory once their file has been found.
    pub(crate) fn local_device(&self) -> Option<u64> {
        self.local_device
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn descriptors(&self) -> BorrowedFd<'_> {
        self.descriptors.as_fd()
    }
}
