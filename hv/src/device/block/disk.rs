//! A disk: an open file or block device of the host.
#![forbid(unsafe_code)]

use super::folder::{self, FolderError};
use super::format;
use super::overlay::Overlay;
use super::spec::DiskSpec;
use crate::escape::escape;
use crate::jail::{self, Kind};
use hv_abi::io::block::{BlockConfig, BlockFeatures, MAX_SEGMENTS};
use rustix::fs::{AtFlags, FlockOperation, OFlags, StatxFlags};
use rustix::io::ReadWriteFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, IoSliceMut, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that one read or write moves. Larger transfers are not faster,
/// and one request must not keep the reactor copying for long.
pub const MAX_TRANSFER: u32 = 1 << 20;

/// Memory alignment assumed for `O_DIRECT` where the kernel does not tell (before 6.1).
const UNKNOWN_MEMORY_ALIGNMENT: usize = 4096;

/// How long a disk that is locked is waited for. The kernel closes the files of an io_uring some time
/// after the end of its process: those of an hv that was killed stay locked for milliseconds, on a busy
/// host for longer. A lock does not tell whether its owner still lives.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A disk that is open, locked against other writers, and known to be whole sectors.
#[derive(Debug)]
pub struct Disk {
    /// The same for all that share the disk. Taken when it is dropped.
    file: Option<Arc<File>>,
    path: PathBuf,
    size: u64,
    sector_size: u32,
    read_only: bool,
    memory_alignment: usize,
    overlay: Option<Arc<Overlay>>,
    /// Whether its file system makes whoever reads wait, whatever they ask for.
    may_block: bool,
    /// The same for all that share the disk.
    unanswered: Arc<Unanswered>,
}

/// Counts the guests of a disk that have ended and left requests to it that it has not answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Debt(Arc<Unanswered>);

impl Unanswered {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(super) fn add(self: &Arc<Self>) -> Debt {
        self.0.fetch_add(1, Ordering::Relaxed);
        Debt(self.clone())
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Nothing is there.
    #[error(
        "disk {}: there is no such file{}; create it first, for example with `truncate -s 64M FILE`",
        escape(path),
        hint(path)
    )]
    Missing {
        /// The disk's file.
        path: PathBuf,
    },
    /// It cannot be looked at or opened for reading.
    #[error("disk {}: cannot open it for reading: {source}; check its permissions", escape(path))]
    Unreadable {
        /// The disk's file.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// It can be read but not written.
    #[error("disk {}: not writable: {source}; append \",ro\" to use it read-only", escape(path))]
    NotWritable {
        /// The disk's file.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// A block device that the host has mounted, or that another program claimed.
    #[error("disk {}: the device is mounted or in use; unmount it, or append \",ro\"", escape(path))]
    DeviceInUse {
        /// The disk's file.
        path: PathBuf,
    },
    /// A socket, a pipe, a terminal …
    #[error("disk {}: neither a file, nor a block device, nor a folder", escape(path))]
    NotADisk {
        /// The disk's file.
        path: PathBuf,
    },
    /// A container of a virtual disk, not the disk itself.
    #[error(
        "disk {}: a {format} image, and hv has raw disks only; convert it with `qemu-img convert -O raw FILE NEW`, \
             or append \",format=raw\" if these bytes are the disk's own",
        escape(path)
    )]
    Container {
        /// The disk's file.
        path: PathBuf,
        /// The name of its format.
        format: &'static str,
    },
    /// No bytes in it.
    #[error(
        "disk {}: the file is empty; give it a size, for example with `truncate -s 64M FILE`",
        escape(path)
    )]
    Empty {
        /// The disk's file.
        path: PathBuf,
    },
    /// Its size is not a multiple of the sector size.
    #[error(
        "disk {}: its {size} bytes are not whole sectors of {sector_size}; round it up with `truncate -s %{sector_size} FILE`",
        escape(path)
    )]
    Uneven {
        /// The disk's file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
        /// Bytes of a sector.
        sector_size: u32,
    },
    /// Another process, or another disk of this one, has it.
    #[error(
        "disk {}: in use by another guest; a writable disk belongs to one guest, \",ro\" or \",overlay\" on all of them shares it",
        escape(path)
    )]
    Locked {
        /// The disk's file.
        path: PathBuf,
    },
    /// The file system does not do `O_DIRECT`.
    #[error("disk {}: its file system cannot go past the page cache; leave out \",direct\"", escape(path))]
    NoDirect {
        /// The disk's file.
        path: PathBuf,
    },
    /// `O_DIRECT` moves larger blocks than the disk's sectors.
    #[error(
        "disk {}: past the page cache it moves blocks of {needed} bytes; append \",sector=4096\" or leave out \",direct\"",
        escape(path)
    )]
    DirectSector {
        /// The disk's file.
        path: PathBuf,
        /// Bytes that offsets have to be multiples of.
        needed: u32,
    },
    /// A folder is served from memory that the page cache holds anyway.
    #[error("disk {}: a folder becomes an image in the page cache; leave out \",direct\"", escape(path))]
    DirectFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that does not fit into a FAT disk.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

/// A misspelt option ends up in the file name: say which ones there are.
fn hint(path: &Path) -> &'static str {
    if path.as_os_str().as_encoded_bytes().contains(&b',') {
        " (options are \",ro\", \",direct\", \",overlay\", \",sector=512|4096\" and \",format=raw\")"
    } else {
        ""
    }
}

impl Disk {
    /// Opens the disk, and locks its file (advisory, `flock`): exclusively if it
    /// is to be written, shared if not, or if only its overlay is.
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
        lock(&file, spec)?;
        // The end of a block device is not in its metadata.
        let size = match file.seek(SeekFrom::End(0)) {
            Ok(size) => size,
            Err(source) => return Err(DiskError::Unreadable { path, source }),
        };
        let sector_size = spec.sector_size;
        if size == 0 {
            return Err(DiskError::Empty { path });
        }
        if !spec.raw
            && let Some(format) = container(&file, spec, size)?
        {
            return Err(DiskError::Container { path, format });
        }
        if !size.is_multiple_of(sector_size.into()) {
            return Err(DiskError::Uneven { path, size, sector_size });
        }
        let memory_alignment = if spec.direct { direct_alignment(&file, spec)? } else { 1 };
        Ok(Disk {
            may_block: kind.is_file() && may_block(&file),
            file: Some(Arc::new(file)),
            path,
            size,
            sector_size,
            read_only: spec.read_only,
            memory_alignment,
            overlay: overlay(spec, size),
            unanswered: Arc::default(),
        })
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
            path,
            size,
            sector_size,
            read_only,
            memory_alignment: 1,
            overlay,
            may_block: false,
            unanswered: Arc::default(),
        })
    }

    /// The same disk for another guest, with an overlay of its own if it has one; `None` if one
    /// of them could change what the other sees.
    pub fn share(&self) -> Option<Disk> {
        let Disk {
            file,
            path,
            size,
            sector_size,
            read_only,
            memory_alignment,
            overlay,
            may_block,
            unanswered,
        } = self;
        (*read_only || overlay.is_some()).then(|| Disk {
            may_block: *may_block,
            unanswered: unanswered.clone(),
            file: file.clone(),
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
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file().metadata()
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

    /// Whether its file system cannot be asked for what is there without waiting for what is not.
    pub(super) fn may_block(&self) -> bool {
        self.may_block
    }

    fn file(&self) -> &Arc<File> {
        self.file.as_ref().expect("taken by drop only")
    }

    /// Guests that ended and left requests to it that it has not answered yet.
    pub(super) fn unanswered(&self) -> &Arc<Unanswered> {
        &self.unanswered
    }

    /// What the addresses of buffers have to be multiples of: 1 through the page cache.
    pub fn memory_alignment(&self) -> usize {
        self.memory_alignment
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Some(file) = self.file.take().and_then(Arc::into_inner) else { return };
        // A ring that is closed lets go of its files some time later only;
        // the next guest need not wait for that.
        let close = move || {
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        };
        if !self.may_block {
            return close();
        }
        // Its file system may have to ask a server, which is not for the thread that is here.
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

/// Whether the file itself is written.
fn writes_file(spec: &DiskSpec) -> bool {
    !spec.read_only && !spec.overlay
}

fn open_file(spec: &DiskSpec, metadata: &Metadata) -> Result<File, DiskError> {
    let path = spec.path.clone();
    let mut flags = OFlags::empty();
    if spec.direct {
        flags |= OFlags::DIRECT;
    }
    if writes_file(spec) && metadata.file_type().is_block_device() {
        // The kernel then refuses a device that is mounted.
        flags |= OFlags::EXCL;
    }
    let open = |write: bool| {
        OpenOptions::new().read(true).write(write).custom_flags(flags.bits() as i32).open(&path)
    };
    match open(writes_file(spec)) {
        Ok(file) => Ok(file),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(DiskError::Missing { path }),
        Err(e) if spec.direct && e.kind() == ErrorKind::InvalidInput => Err(DiskError::NoDirect { path }),
        Err(e) if e.kind() == ErrorKind::ResourceBusy => Err(DiskError::DeviceInUse { path }),
        Err(source) if writes_file(spec) && open(false).is_ok() => {
            Err(DiskError::NotWritable { path, source })
        }
        Err(source) => Err(DiskError::Unreadable { path, source }),
    }
}

/// The format of a container that the file is.
fn container(file: &File, spec: &DiskSpec, size: u64) -> Result<Option<&'static str>, DiskError> {
    let unreadable = |source| DiskError::Unreadable { path: spec.path.clone(), source };
    // Past the page cache only whole blocks can be read: look through it.
    let through_cache = if spec.direct { Some(File::open(&spec.path).map_err(unreadable)?) } else { None };
    let file = through_cache.as_ref().unwrap_or(file);
    let (mut head, mut tail) = ([0; format::HEAD], [0; format::TAIL]);
    let head = &mut head[..size.min(format::HEAD as u64) as usize];
    let tail = &mut tail[..size.min(format::TAIL as u64) as usize];
    file.read_exact_at(head, 0).map_err(unreadable)?;
    file.read_exact_at(tail, size - tail.len() as u64).map_err(unreadable)?;
    Ok(format::detect(head, tail))
}

/// Whether reads of an ordinary file may block although they are to take only what is in memory: then nothing but a
/// thread of one's own keeps a reader from waiting. Local file systems on disks do not; FUSE and those of networks do.
fn may_block(file: &File) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
    read == Err(rustix::io::Errno::OPNOTSUPP)
}

fn lock(file: &File, spec: &DiskSpec) -> Result<(), DiskError> {
    let operation = if writes_file(spec) {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    let end = Instant::now() + LOCK_PATIENCE;
    let locked = loop {
        match rustix::fs::flock(file, operation) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(LOCK_RETRY),
            result => break result,
        }
    };
    match locked {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskError::Locked { path: spec.path.clone() }),
        Err(e) => {
            // Some network file systems have no locks; that must not make disks on them unusable.
            tracing::warn!(
                "disk {}: cannot be locked ({e}); do not give it to a second guest",
                escape(&spec.path)
            );
            Ok(())
        }
    }
}

/// What `O_DIRECT` wants buffers to be aligned to, if offsets in sectors suit it.
fn direct_alignment(file: &File, spec: &DiskSpec) -> Result<usize, DiskError> {
    let path = spec.path.clone();
    let stat = match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) => stat,
        // A container whose filter does not know the call.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => return Ok(UNKNOWN_MEMORY_ALIGNMENT),
        Err(e) => return Err(DiskError::Unreadable { path, source: e.into() }),
    };
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(UNKNOWN_MEMORY_ALIGNMENT);
    }
    let needed = stat.stx_dio_offset_align;
    if needed == 0 {
        return Err(DiskError::NoDirect { path });
    }
    if !spec.sector_size.is_multiple_of(needed) {
        return Err(DiskError::DirectSector { path, needed });
    }
    Ok((stat.stx_dio_mem_align as usize).max(1))
}
