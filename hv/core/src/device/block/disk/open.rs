//! Opening the file of a disk: how, locked against whom, and what it is.
#![forbid(unsafe_code)]

use super::DiskError;
use crate::device::block::spec::DiskSpec;
use hv_disk::{Format, HEAD, ImageError, TAIL, Undecided};
use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::ReadWriteFlags;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

/// Memory alignment assumed for `O_DIRECT` where the kernel does not tell (before 6.1).
const UNKNOWN_MEMORY_ALIGNMENT: usize = 4096;

/// Whether the file itself is written.
pub(super) fn writes_file(spec: &DiskSpec) -> bool {
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
fn container(file: &File, spec: &DiskSpec, size: u64) -> Result<Option<&'static str>, DiskError> {
    let unreadable = |source| DiskError::Unreadable { path: spec.path.clone(), source };
    // Past the page cache only whole blocks can be read: look through it.
    let through_cache = if spec.direct { Some(File::open(&spec.path).map_err(unreadable)?) } else { None };
    let file = through_cache.as_ref().unwrap_or(file);
    let (mut head, mut tail) = ([0; HEAD], [0; TAIL]);
    let head = &mut head[..size.min(HEAD as u64) as usize];
    let tail = &mut tail[..size.min(TAIL as u64) as usize];
    file.read_exact_at(head, 0).map_err(unreadable)?;
    file.read_exact_at(tail, size - tail.len() as u64).map_err(unreadable)?;
    Ok(hv_disk::container(head, tail))
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

/// Locks the file of a raw disk.
pub(super) fn lock(file: &File, spec: &DiskSpec) -> Result<(), DiskError> {
    hv_disk::lock_patiently(file, &spec.path, writes_file(spec)).map_err(of_image(spec))
}

/// An error of an image as one of the disk.
pub(super) fn of_image(spec: &DiskSpec) -> impl Fn(ImageError) -> DiskError {
    |error| match error {
        ImageError::Locked { path, .. } => DiskError::Locked { path },
        source => DiskError::Image { path: spec.path.clone(), source },
    }
}

/// The format of a file: what was said, or else what its name says. If its bytes say something else, it is refused: a guest may have
/// written them.
pub(super) fn format(file: &File, spec: &DiskSpec, size: u64) -> Result<Format, DiskError> {
    let path = spec.path.clone();
    let found = if spec.format.is_some() { None } else { container(file, spec, size)? };
    hv_disk::decide(&spec.path, spec.format, found).map_err(|undecided| match undecided {
        Undecided::Unsaid => DiskError::Unsaid { path },
        Undecided::NotQcow2 => DiskError::NotQcow2 { path },
        Undecided::Container(format) => DiskError::Container { path, format },
    })
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
