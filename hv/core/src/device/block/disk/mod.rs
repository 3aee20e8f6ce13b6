//! A disk: an open file or block device of the host.
#![forbid(unsafe_code)]

mod error;
mod open;

pub use error::DiskError;

use super::folder;
use super::overlay::Overlay;
use super::spec::DiskSpec;
use crate::device::spin::MAX_SPIN;
use hv_abi::io::block::{BlockConfig, BlockFeatures, MAX_SEGMENTS};
use hv_disk::{Chain, Format, OpenOptions};
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
pub(super) use open::may_block;
use open::{direct_alignment, format, lock, of_image, open_file, writes_file};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Most bytes that one read or write moves. Larger transfers are not faster,
/// and one request must not keep the reactor copying for long.
pub const MAX_TRANSFER: u32 = 1 << 20;

/// A disk that is open, locked against other writers, and known to be whole sectors.
#[derive(Debug)]
pub struct Disk {
    /// Shared by all users of the disk. `None` only while it is dropped.
    file: Option<Arc<File>>,
    /// What the file holds, unless its bytes are those of the disk.
    chain: Option<Chain>,
    path: PathBuf,
    size: u64,
    sector_size: u32,
    read_only: bool,
    memory_alignment: usize,
    overlay: Option<Arc<Overlay>>,
    /// The fingerprint of a folder's image, which never changes; calculated when it is asked for first.
    folder: Option<Arc<OnceLock<u64>>>,
    /// Whether every read of its file system may block.
    may_block: bool,
    /// The same for all that share the disk.
    unanswered: Arc<UnansweredCount>,
    polls: bool,
}

/// Counts the guests of a disk that have ended and left requests to it that it has not answered.
#[derive(Debug, Default)]
pub(super) struct UnansweredCount(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct UnansweredGuard(Arc<UnansweredCount>);

impl UnansweredCount {
    /// The number of such guests.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(super) fn add(self: &Arc<Self>) -> UnansweredGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnansweredGuard(self.clone())
    }
}

impl Drop for UnansweredGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Disk {
    /// Opens the disk with all files that it consists of, and locks them (advisory, as QEMU does): exclusively if it
    /// is to be written, shared if not, or if only its overlay is.
    ///
    /// # Errors
    ///
    /// If there is no such file or block device, or it cannot be opened or is locked by another; if its size is no number of sectors,
    /// or it begins as the container of a virtual disk does that was not asked for; of a folder, if its files do not fit a disk. [`DiskError`] has each, and the remedy.
    pub fn open(spec: &DiskSpec) -> Result<Disk, DiskError> {
        let path = spec.path.clone();
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(DiskError::Missing { path });
            }
            Err(source) => return Err(DiskError::Unreadable { path, source }),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Disk::open_folder(spec);
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NotADisk { path });
        }
        let mut file = open_file(spec, &metadata)?;
        // The end of a block device is not in its metadata.
        let length = match file.seek(SeekFrom::End(0)) {
            Ok(length) => length,
            Err(source) => return Err(DiskError::Unreadable { path, source }),
        };
        if length == 0 {
            return Err(DiskError::Empty { path });
        }
        let (file, chain) = match format(&file, spec, length)? {
            Format::Raw => {
                lock(&file, spec)?;
                (Arc::new(file), None)
            }
            Format::Qcow2 if spec.direct => return Err(DiskError::DirectFormat { path }),
            format => {
                let options = OpenOptions {
                    writable: writes_file(spec),
                    folders: spec.bases.clone(),
                    ..OpenOptions::default()
                };
                let chain = hv_disk::open(file, &path, format, &options).map_err(of_image(spec))?;
                (chain.files[0].shared().clone(), Some(chain))
            }
        };
        let size = chain.as_ref().map_or(length, |chain| chain.image.size());
        let sector_size = spec.sector_size;
        if size == 0 {
            return Err(DiskError::Empty { path });
        }
        if !size.is_multiple_of(sector_size.into()) {
            return Err(DiskError::Uneven { path, size, sector_size });
        }
        let memory_alignment = if spec.direct { direct_alignment(&file, spec)? } else { 1 };
        let may_block = match &chain {
            None => may_block(&file),
            Some(chain) => chain.files.iter().any(|file| may_block(file.shared())),
        };
        Ok(Disk {
            may_block,
            file: Some(file),
            chain,
            path,
            size,
            sector_size,
            read_only: spec.read_only,
            memory_alignment,
            overlay: overlay(spec, size),
            folder: None,
            unanswered: Arc::default(),
            polls: true,
        })
    }

    /// Whether its device looks at the ring for some more microseconds before it sleeps, if that has paid lately: yes unless this says no.
    /// Looking keeps a processor busy.
    pub fn set_polling(&mut self, polls: bool) {
        self.polls = polls;
    }

    /// How long its device polls at the longest before it sleeps.
    pub fn spin(&self) -> Duration {
        if self.polls { MAX_SPIN } else { Duration::ZERO }
    }

    fn open_folder(spec: &DiskSpec) -> Result<Disk, DiskError> {
        let path = spec.path.clone();
        if spec.direct {
            return Err(DiskError::DirectFolder { path });
        }
        let (file, size) = folder::image(&path, spec.sector_size)?;
        let sector_size = spec.sector_size;
        let overlay = overlay(spec, size);
        let read_only = overlay.is_none();
        Ok(Disk {
            file: Some(Arc::new(file)),
            chain: None,
            path,
            size,
            sector_size,
            read_only,
            memory_alignment: 1,
            overlay,
            folder: Some(Arc::default()),
            may_block: false,
            unanswered: Arc::default(),
            polls: true,
        })
    }

    /// The same disk for another guest, with an overlay of its own if it has one; `None` if one
    /// of them could change what the other sees.
    pub fn share(&self) -> Option<Disk> {
        let Disk {
            file,
            chain,
            path,
            size,
            sector_size,
            read_only,
            memory_alignment,
            overlay,
            folder,
            may_block,
            unanswered,
            polls,
        } = self;
        (*read_only || overlay.is_some()).then(|| Disk {
            folder: folder.clone(),
            may_block: *may_block,
            unanswered: unanswered.clone(),
            polls: *polls,
            file: file.clone(),
            chain: chain.clone(),
            path: path.clone(),
            size: *size,
            sector_size: *sector_size,
            read_only: *read_only,
            memory_alignment: *memory_alignment,
            overlay: overlay.as_ref().map(|_| Arc::new(Overlay::new(*size, *sector_size))),
        })
    }

    /// What the guest is told about the disk.
    pub fn config(&self) -> BlockConfig {
        let features = if self.read_only { BlockFeatures::READ_ONLY } else { BlockFeatures::DISCARD };
        BlockConfig {
            sectors: self.size / u64::from(self.sector_size),
            sector_size: self.sector_size,
            features: features.bits(),
            max_transfer: MAX_TRANSFER,
            max_segments: MAX_SEGMENTS as u32,
        }
    }

    /// The path that the disk was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the host's kernel says of the file that is open.
    ///
    /// # Errors
    ///
    /// What the host's kernel says instead.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file().metadata()
    }

    /// Whether it is the image of a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.folder.is_some()
    }

    /// XXH3 of all bytes, for the image of a folder; 0 for any other disk.
    pub(super) fn folder_fingerprint(&self) -> io::Result<u64> {
        let Some(known) = &self.folder else { return Ok(0) };
        if let Some(fingerprint) = known.get() {
            return Ok(*fingerprint);
        }
        let (mut hash, mut bytes, mut at) = (Xxh3::new(), vec![0; MAX_TRANSFER as usize], 0);
        loop {
            match self.file().read_at(&mut bytes, at)? {
                0 => return Ok(*known.get_or_init(|| hash.digest())),
                count => {
                    hash.update(&bytes[..count]);
                    at += count as u64;
                }
            }
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a sector.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Where the guest's writes go, if not to the file.
    pub fn overlay(&self) -> Option<&Arc<Overlay>> {
        self.overlay.as_ref()
    }

    /// Whether its file system has no reads that return only what is in memory, without blocking.
    pub(super) fn may_block(&self) -> bool {
        self.may_block
    }

    /// What the file holds, unless its bytes are those of the disk.
    pub(super) fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// Whether what the host has in memory can be read without waiting, right from the file.
    pub(super) fn reads_now(&self) -> bool {
        let is_cached = self.memory_alignment == 1;
        is_cached && !self.may_block && self.overlay.is_none() && self.chain.is_none()
    }

    /// Descriptors of all its files; the numbers of [runs](hv_disk::Run) are places in it.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        match &self.chain {
            None => vec![self.as_raw_fd()],
            Some(chain) => chain.files.iter().map(|file| file.shared().as_raw_fd()).collect(),
        }
    }

    fn file(&self) -> &Arc<File> {
        self.file.as_ref().expect("taken by drop only")
    }

    /// Guests that ended and left requests to it that it has not answered yet.
    pub(super) fn unanswered(&self) -> &Arc<UnansweredCount> {
        &self.unanswered
    }

    /// What the addresses of buffers have to be multiples of: 1 through the page cache.
    pub fn memory_alignment(&self) -> usize {
        self.memory_alignment
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let (Some(file), chain) = (self.file.take(), self.chain.take()) else { return };
        // The kernel closes the files of an io_uring some time after the ring; the next guest need not wait
        // for that.
        let close = move || {
            drop(chain);
            if let Some(file) = Arc::into_inner(file) {
                hv_disk::unlock(&file);
            }
        };
        if !self.may_block {
            return close();
        }
        // Its file system may have to ask a server, for which this thread must not wait.
        if let Err(e) = jail::spawn(Kind::Disk, "disk end", close) {
            tracing::debug!("disk {}: no thread to close it: {e}", escape(&self.path));
        }
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl AsRawFd for Disk {
    fn as_raw_fd(&self) -> RawFd {
        self.file().as_raw_fd()
    }
}

fn overlay(spec: &DiskSpec, size: u64) -> Option<Arc<Overlay>> {
    spec.overlay.then(|| Arc::new(Overlay::new(size, spec.sector_size)))
}
