//! Reading a snapshot from a folder. Everything in it is validated before it is used.

use super::header::{CHUNK, MAX_SIZE, Parsed, Part, StateFileError, parse};
use super::{Features, IMAGE, MEMORY, STATE, Snapshot};
use crate::device::block::DiskRecord;
use crate::domain::{MAX_VCPUS, Offsets, Saved, is_base};
use crate::engine::Engine;
use crate::loader::{Image, ImageError, MAX_FILE_SIZE};
use crate::memory::{GuestMemory, SavedRange, Template, TemplateError};
use crate::platform::{CpuState, Platform, PlatformError};
use hv_abi::GuestAddr;
use hv_abi::device::{BLOCK, DeviceInfo};
use hv_host::escape::escape;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Most ranges of an access map: those of an image, and what lies around it.
const MAX_RANGES: usize = crate::loader::MAX_SEGMENTS + 16;

/// Why a snapshot is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing is there, or no folder.
    #[error("{}: no such snapshot; `hv snapshot IMAGE -o FOLDER` makes one", escape(.0))]
    NoFolder(PathBuf),
    /// Something else.
    #[error("{}: not a snapshot of hv", escape(.0))]
    Foreign(PathBuf),
    /// Made by a newer version.
    #[error("{}: made by a newer version of hv ({what}); restore it with that version", escape(path))]
    Newer {
        /// The snapshot.
        path: PathBuf,
        /// What is newer, and what this version knows.
        what: String,
    },
    /// A file that is too short, or not there.
    #[error("{}: truncated: at least {missing} bytes are missing", escape(path))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that are missing at least.
        missing: u64,
    },
    /// Bits that are not what was written, or make no sense.
    #[error("{}: damaged: {what}", escape(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What of it.
        what: String,
    },
    /// The processor lacks what the guest may be using.
    #[error(
        "{}: the guest may use features that this processor lacks ({missing}); restore it on a host that has them",
        escape(path)
    )]
    Features {
        /// The snapshot.
        path: PathBuf,
        /// What is missing.
        missing: Features,
    },
    /// A file cannot be read.
    #[error("{}: cannot read it: {source}", escape(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// No guest is in it.
    #[error("{}: {source}", escape(path))]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ImageError,
    },
    /// No memory.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The platform refused the memory.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl Snapshot {
    /// Reads the snapshot in a folder, for guests of this engine. The folder is not needed afterwards.
    ///
    /// # Errors
    ///
    /// If it is none, damaged, or made by a newer version of hv; if this processor lacks a feature that the guest may use; if the host has no
    /// memory for it, or the platform cannot use that.
    pub fn open(dir: &Path, engine: &Engine) -> Result<Snapshot, OpenError> {
        Snapshot::open_for(dir, &*engine.inner.platform)
    }

    /// Reads the snapshot in a folder, for guests of an engine that will have this platform.
    ///
    /// # Errors
    ///
    /// As those of [`open`](Self::open).
    pub fn open_for(dir: &Path, platform: &dyn Platform) -> Result<Snapshot, OpenError> {
        open(dir, platform, Features::of_host())
    }
}

pub(super) fn open(dir: &Path, platform: &dyn Platform, host: Features) -> Result<Snapshot, OpenError> {
    if !dir.is_dir() {
        return Err(OpenError::NoFolder(dir.into()));
    }
    let path = dir.join(STATE);
    let state = read_state(dir, &path)?;
    let refused = refused(dir, &path);
    let parsed = parse(&state).map_err(&refused)?;
    let missing = parsed.facts.features.missing_on(host);
    if !missing.is_empty() {
        return Err(OpenError::Features { path: dir.into(), missing });
    }
    let damaged = |what| refused(StateFileError::Damaged(what));
    let (saved, disks) = guest(&parsed).map_err(damaged)?;
    let image = open_image(&dir.join(IMAGE), &parsed)?;
    let size = parsed.facts.memory;
    if !is_base(saved.base, size) {
        return Err(damaged("the place of the memory"));
    }
    let mut memory = Template::make(GuestAddr(saved.base), size)?;
    access(&parsed, &mut memory).map_err(damaged)?;
    saved.validate(&memory, &image).map_err(damaged)?;
    load(&dir.join(MEMORY), &parsed, &memory)?;
    platform.prepare(&memory, &saved.places.hypercall_pages(saved.cpus.len()))?;
    let template = Arc::new(Template::seal(memory)?);
    let mut snapshot = Snapshot::new(saved, template, Arc::new(image));
    (snapshot.features, snapshot.disks) = (parsed.facts.features, disks);
    Ok(snapshot)
}

/// The virtual CPUs, one after the other.
fn cpus(bytes: &[u8]) -> Result<Vec<CpuState>, &'static str> {
    let states = bytes.chunks(size_of::<CpuState>()).map(CpuState::read_from_bytes);
    let states = states.take(MAX_VCPUS + 1).collect::<Result<Vec<_>, _>>();
    states.ok().filter(|states| (1..=MAX_VCPUS).contains(&states.len())).ok_or("the virtual CPU")
}

/// The bytes of the file of a snapshot's state.
fn read_state(dir: &Path, path: &Path) -> Result<Vec<u8>, OpenError> {
    let (file, len) = match file(path) {
        Err(OpenError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Err(OpenError::Foreign(dir.into()));
        }
        opened => opened?,
    };
    read(path, &file, len.min(MAX_SIZE))
}

/// What the parser refused, with the names of the files.
fn refused(dir: &Path, path: &Path) -> impl Fn(StateFileError) -> OpenError {
    move |refused| match refused {
        StateFileError::Foreign => OpenError::Foreign(dir.into()),
        StateFileError::Newer(what) => OpenError::Newer { path: dir.into(), what },
        StateFileError::Truncated(missing) => OpenError::Truncated { path: path.into(), missing },
        StateFileError::Damaged(what) => OpenError::Damaged { path: path.into(), what: what.into() },
    }
}

/// Opens an ordinary file, without hanging on a pipe; its length. A symbolic link is none: it would name
/// a file of this host.
fn file(path: &Path) -> Result<(File, u64), OpenError> {
    let other = || OpenError::Damaged { path: path.into(), what: "not an ordinary file".into() };
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::ELOOP) => other(),
        _ => OpenError::Read { path: path.into(), source },
    };
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(other());
    }
    Ok((file, metadata.len()))
}

fn read(path: &Path, mut file: &File, len: u64) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::with_capacity(len as usize);
    file.by_ref()
        .take(len)
        .read_to_end(&mut bytes)
        .map_err(|source| OpenError::Read { path: path.into(), source })?;
    Ok(bytes)
}

/// A file whose length is told in `state`.
fn file_of(path: &Path, len: u64) -> Result<File, OpenError> {
    let (file, found) = match file(path) {
        Err(OpenError::Read { path, source }) if source.kind() == ErrorKind::NotFound => {
            return Err(OpenError::Truncated { path, missing: len });
        }
        opened => opened?,
    };
    if found < len {
        return Err(OpenError::Truncated { path: path.into(), missing: len - found });
    }
    if found > len {
        let what = format!("{} bytes too long", found - len);
        return Err(OpenError::Damaged { path: path.into(), what });
    }
    Ok(file)
}

fn open_image(path: &Path, parsed: &Parsed<'_>) -> Result<Image, OpenError> {
    let facts = &parsed.facts;
    if facts.image > MAX_FILE_SIZE {
        return Err(OpenError::Damaged { path: path.into(), what: "its size".into() });
    }
    let file = file_of(path, facts.image)?;
    let bytes = read(path, &file, facts.image)?;
    if bytes.len() as u64 != facts.image || xxh3_64(&bytes) != facts.image_checksum {
        return Err(OpenError::Damaged { path: path.into(), what: "its checksum is wrong".into() });
    }
    Image::parse(bytes).map_err(|source| OpenError::Image { path: path.into(), source })
}

/// A list of values of a saved form.
fn list<T: FromBytes + FromZeros + IntoBytes + Clone + zerocopy::Immutable>(bytes: &[u8]) -> Option<Vec<T>> {
    if !bytes.len().is_multiple_of(size_of::<T>()) {
        return None;
    }
    bytes.chunks_exact(size_of::<T>()).map(|bytes| T::read_from_bytes(bytes).ok()).collect()
}

/// The guest that `state` describes, not yet validated.
fn guest(parsed: &Parsed<'_>) -> Result<(Saved, Vec<DiskRecord>), &'static str> {
    let name = String::from_utf8(parsed.part(Part::Name).to_vec()).map_err(|_| "the name")?;
    let places = Offsets::load(parsed.part(Part::Offsets)).ok_or("the places")?;
    let cpus = cpus(parsed.part(Part::Cpu))?;
    let devices: Vec<DeviceInfo> = list(parsed.part(Part::Devices)).ok_or("the device table")?;
    let mut rest = parsed.part(Part::Disks);
    let mut disks = Vec::new();
    while !rest.is_empty() {
        disks.push(DiskRecord::load(&mut rest).ok_or("the disks")?);
    }
    let facts = &parsed.facts;
    let saved = Saved { name, base: facts.base, cpus, time: facts.time, places, devices };
    // A program that saves a guest may keep no records.
    if !disks.is_empty() && disks.len() != saved.count(BLOCK) {
        return Err("the disks");
    }
    Ok((saved, disks))
}

/// Gives the memory its access map.
fn access(parsed: &Parsed<'_>, memory: &mut GuestMemory) -> Result<(), &'static str> {
    let ranges: Vec<SavedRange> = list(parsed.part(Part::Access)).ok_or("the access map")?;
    let all_fit = ranges.len() <= MAX_RANGES && ranges.iter().all(|range| memory.allow_saved(range));
    if all_fit { Ok(()) } else { Err("the access map") }
}

/// Reads the memory once, and compares its checksums.
fn load(path: &Path, parsed: &Parsed<'_>, memory: &GuestMemory) -> Result<(), OpenError> {
    let size = memory.size();
    let chunks: Option<Vec<u64>> = list(parsed.part(Part::Chunks));
    let damaged = |what: String| OpenError::Damaged { path: path.into(), what };
    let chunks = chunks
        .filter(|chunks| chunks.len() as u64 == size.div_ceil(CHUNK))
        .ok_or_else(|| damaged("the number of its checksums".into()))?;
    let file = file_of(path, size)?;
    let mut bytes = vec![0; CHUNK.min(size) as usize];
    let whole_hole = xxh3_64(&bytes);
    for (start, checksum) in (0..size).step_by(CHUNK as usize).zip(chunks) {
        let len = CHUNK.min(size - start);
        let chunk = &mut bytes[..len as usize];
        // Where the file system cannot tell, everything is data.
        let data = rustix::fs::seek(&file, SeekFrom::Data(start));
        let hole = data.map_or_else(|errno| errno == rustix::io::Errno::NXIO, |data| data >= start + len);
        if hole && len == CHUNK && checksum == whole_hole {
            continue;
        }
        file.read_exact_at(chunk, start).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => OpenError::Truncated { path: path.into(), missing: 1 },
            _ => OpenError::Read { path: path.into(), source },
        })?;
        if xxh3_64(chunk) != checksum {
            return Err(damaged(format!("the memory from offset {start:#x} to {:#x}", start + len)));
        }
        memory.host_write_pages(start, chunk);
    }
    Ok(())
}
