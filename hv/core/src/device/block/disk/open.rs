//! Opening the file of a disk: how, locked against whom, and what it is.
#![forbid(unsafe_code)]

use super::DiskError;
use crate::device::block::format;
use crate::device::block::spec::DiskSpec;
use hv_host::escape::escape;
use rustix::fs::{AtFlags, FlockOperation, OFlags, StatxFlags};
use rustix::io::ReadWriteFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

/// Memory alignment assumed for `O_DIRECT` where the kernel does not tell (before 6.1).
const UNKNOWN_MEMORY_ALIGNMENT: usize = 4096;

/// How long a disk that is locked is waited for. The kernel closes the files of an io_uring some time
/// after the end of its process: those of an hv that was killed stay locked for milliseconds, on a busy
/// host for longer. A lock does not tell whether its owner still lives.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Whether the file itself is written.
fn writes_file(spec: &DiskSpec) -> bool {
    !spec.read_only && !spec.overlay
}

pub(super) fn open_file(spec: &DiskSpec, metadata: &Metadata) -> Result<File, DiskError> {
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
pub(super) fn container(file: &File, spec: &DiskSpec, size: u64) -> Result<Option<&'static str>, DiskError> {
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

/// Whether reads of a file may block although they are to take only what is in memory: then nothing but a
/// thread of one's own keeps a reader from waiting. Local file systems on disks do not; FUSE and those of networks do.
pub(in crate::device::block) fn may_block(file: &File) -> bool {
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT);
    read == Err(rustix::io::Errno::OPNOTSUPP)
}

pub(super) fn lock(file: &File, spec: &DiskSpec) -> Result<(), DiskError> {
    let operation = if writes_file(spec) {
        FlockOperation::NonBlockingLockExclusive
    } else {
        FlockOperation::NonBlockingLockShared
    };
    let end = Instant::now() + LOCK_WAIT;
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
pub(super) fn direct_alignment(file: &File, spec: &DiskSpec) -> Result<usize, DiskError> {
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
