//! What a snapshot records of a guest's disk, to recognise it.
#![forbid(unsafe_code)]

use super::disk::Disk;
use super::overlay::Overlay;
use super::spec::{DEFAULT_SECTOR_SIZE, DiskSpec};
use hv_abi::io::block::BlockFeatures;
use hv_disk::{Chain, Format, Image};
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// A disk of a guest, as it was when the guest was saved.
///
/// It describes the disk that fits. The disk itself is named by the user who restores the guest: the path in
/// a record comes from the author of the snapshot, and only [`trusted`](Self::trusted) opens it.
#[derive(Clone, Debug)]
pub struct DiskRecord {
    spec: DiskSpec,
    saved: SavedRecord,
    overlay: Option<Arc<Overlay>>,
    /// What the guest wrote may be in its tables in memory yet.
    chain: Option<Chain>,
}

/// The saved form, before the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SavedRecord {
    /// Bytes of the disk.
    size: u64,
    /// When it was changed last: seconds since 1970, and nanoseconds. For [`FILE`]s.
    modified: i64,
    modified_ns: u32,
    sector_size: u32,
    /// XXH3 of the image that a [`FOLDER`] became, or of sizes and times of the other files of a [`QCOW2`] image.
    fingerprint: u64,
    flags: u32,
    /// Bytes of the path.
    path: u32,
}

const READ_ONLY: u32 = 1;
const DIRECT: u32 = 2;
const OVERLAY: u32 = 4;
/// An ordinary file, whose time of change says whether it is the same. (That of a block
/// device's node says nothing.)
const FILE: u32 = 8;
const FOLDER: u32 = 16;
/// A qcow2 image: the size is that of the disk in it.
const QCOW2: u32 = 32;
const ALL_FLAGS: u32 = 63;

/// Longest path, as Linux has it.
const PATH_MAX: usize = 4096;

/// Why a disk is not the one that the guest had, or cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It cannot be looked at.
    #[error("disk {}: cannot look at it: {source}", escape(path))]
    Unreadable {
        /// The disk.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// The disk has an overlay with data, which a snapshot does not hold.
    #[error(
        "disk {}: the guest has written to its overlay, which a snapshot does not keep; leave out \",overlay\"",
        escape(path)
    )]
    Overlay {
        /// The disk.
        path: PathBuf,
    },
    /// Another number of bytes.
    #[error(
        "disk {}: it has {given} bytes, and had {saved} when the snapshot was made; restore with that disk",
        escape(path)
    )]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its bytes.
        given: u64,
        /// Bytes that it had.
        saved: u64,
    },
    /// Sectors of another size.
    #[error(
        "disk {}: sectors of {given} bytes, and of {saved} when the snapshot was made; append \",sector={saved}\"",
        escape(path)
    )]
    SectorSize {
        /// The disk.
        path: PathBuf,
        /// Bytes of a sector.
        given: u32,
        /// Bytes of a sector that it had.
        saved: u32,
    },
    /// The content has changed: what the guest has cached of it is wrong.
    #[error(
        "disk {}: it has changed since the snapshot was made; restore with a copy from then (made with `cp -p`), \
             or make the snapshot again (--disk-overlay leaves disks as they are)",
        escape(path)
    )]
    Changed {
        /// The disk.
        path: PathBuf,
    },
    /// The guest would write where it could not, or could not where it did.
    #[error("disk {}: it is {}, and was {} when the snapshot was made; {}",
        escape(path), mode(*.given), mode(!*.given), if *.given { "leave out \",ro\"" } else { "append \",ro\"" })]
    ReadOnly {
        /// The disk.
        path: PathBuf,
        /// Whether it is read-only.
        given: bool,
    },
}

fn mode(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "writable" }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> RecordError {
    move |source| RecordError::Unreadable { path: path.into(), source }
}

impl DiskRecord {
    /// A record of a disk that is about to be given to a guest, to be [updated](Self::update)
    /// when the guest is saved.
    ///
    /// # Errors
    ///
    /// If the disk's file or folder cannot be found or read.
    pub fn new(spec: &DiskSpec, disk: &Disk) -> Result<Self, RecordError> {
        let failed = unreadable(&spec.path);
        let path = std::fs::canonicalize(&spec.path).map_err(&failed)?;
        let metadata = std::fs::metadata(&path).map_err(&failed)?;
        let mut saved = SavedRecord {
            size: disk.size(),
            sector_size: disk.sector_size(),
            path: path.as_os_str().len() as u32,
            ..SavedRecord::new_zeroed()
        };
        for (flag, set) in [
            (READ_ONLY, spec.read_only),
            (DIRECT, spec.direct),
            (OVERLAY, spec.overlay),
            (FILE, metadata.is_file()),
            (FOLDER, metadata.is_dir()),
            (QCOW2, disk.chain().is_some()),
        ] {
            saved.flags |= if set { flag } else { 0 };
        }
        if metadata.is_dir() {
            saved.fingerprint = disk.folder_fingerprint().map_err(&failed)?;
        }
        if let Some(chain) = disk.chain() {
            saved.fingerprint = behind(chain).map_err(&failed)?;
        }
        saved.note_time(&metadata);
        Ok(DiskRecord {
            spec: DiskSpec { path, ..spec.clone() },
            saved,
            overlay: disk.overlay().cloned(),
            chain: disk.chain().cloned(),
        })
    }

    /// Brings the record up to date, for a guest that is paused, and has what it
    /// wrote on the host's disk.
    ///
    /// # Errors
    ///
    /// If the guest has written to an overlay, which a snapshot does not hold; if the file cannot be opened, or the host cannot write it back.
    pub fn update(&mut self) -> Result<(), RecordError> {
        let path = &self.spec.path;
        if self.overlay.as_ref().is_some_and(|overlay| !overlay.is_empty()) {
            return Err(RecordError::Overlay { path: path.clone() });
        }
        if let Some(chain) = &self.chain {
            write_out(chain.image.clone()).map_err(unreadable(path))?;
            self.saved.fingerprint = behind(chain).map_err(unreadable(path))?;
        }
        if self.saved.flags & FILE != 0 {
            let file = File::open(path).map_err(unreadable(path))?;
            file.sync_all().map_err(unreadable(path))?;
            self.saved.note_time(&file.metadata().map_err(unreadable(path))?);
        }
        Ok(())
    }

    /// Whether this disk is the one that was recorded, and as it was.
    ///
    /// # Errors
    ///
    /// What differs: the size of a sector, the size, whether it is read-only, or the content, as far as time and names tell. If
    /// the disk cannot be read, that.
    pub fn check(&self, disk: &Disk) -> Result<(), RecordError> {
        let path = || disk.path().to_path_buf();
        let (given, saved) = (disk.sector_size(), self.saved.sector_size);
        if given != saved {
            return Err(RecordError::SectorSize { path: path(), given, saved });
        }
        let (given, saved) = (disk.size(), self.saved.size);
        if given != saved {
            return Err(RecordError::Size { path: path(), given, saved });
        }
        let given = disk.config().features & BlockFeatures::READ_ONLY.bits() != 0;
        if given != self.is_read_only() {
            return Err(RecordError::ReadOnly { path: path(), given });
        }
        // Of the file that is open: its name may lead elsewhere by now.
        let metadata = disk.metadata().map_err(unreadable(disk.path()))?;
        let mut now = self.saved;
        if metadata.is_file() {
            now.note_time(&metadata);
        }
        if disk.chain().is_some() != (self.saved.flags & QCOW2 != 0) {
            return Err(RecordError::Changed { path: path() });
        }
        if let Some(chain) = disk.chain() {
            now.fingerprint = behind(chain).map_err(unreadable(disk.path()))?;
        }
        match (self.saved.flags & FOLDER != 0, disk.is_folder()) {
            (false, false) => {}
            (true, true) => now.fingerprint = disk.folder_fingerprint().map_err(unreadable(disk.path()))?,
            _ => return Err(RecordError::Changed { path: path() }),
        }
        if now == self.saved { Ok(()) } else { Err(RecordError::Changed { path: path() }) }
    }

    /// The disk at the recorded path, for users who trust the author of the snapshot with that.
    /// It is opened to read only: what the guest writes goes to an overlay.
    pub fn trusted(&self) -> DiskSpec {
        let read_only = self.is_read_only();
        DiskSpec {
            path: self.spec.path.clone(),
            read_only,
            overlay: !read_only,
            direct: false,
            sector_size: self.spec.sector_size,
            format: (self.saved.flags & QCOW2 != 0).then_some(Format::Qcow2),
            bases: Vec::new(),
        }
    }

    /// Whether the guest saw a disk that it cannot write. A folder is one unless it has an overlay.
    fn is_read_only(&self) -> bool {
        self.spec.read_only || (self.saved.flags & FOLDER != 0 && !self.spec.overlay)
    }

    /// Appends the saved form.
    pub fn save(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.saved.as_bytes());
        to.extend_from_slice(self.spec.path.as_os_str().as_bytes());
    }

    /// Takes the saved form off the front; `None` if there is none.
    pub fn load(from: &mut &[u8]) -> Option<Self> {
        let (saved, rest) = SavedRecord::read_from_prefix(from).ok()?;
        let len = saved.path as usize;
        let both = |one: u32, other: u32| saved.flags & (one | other) == one | other;
        if saved.flags & !ALL_FLAGS != 0
            || both(FILE, FOLDER)
            || both(READ_ONLY, OVERLAY)
            || both(QCOW2, FOLDER)
            || both(QCOW2, DIRECT)
            || len == 0
            || len > PATH_MAX
            || !matches!(saved.sector_size, 512 | 4096)
        {
            return None;
        }
        let (path, rest) = rest.split_at_checked(len)?;
        if path.contains(&0) {
            return None;
        }
        *from = rest;
        let spec = DiskSpec {
            read_only: saved.flags & READ_ONLY != 0,
            direct: saved.flags & DIRECT != 0,
            overlay: saved.flags & OVERLAY != 0,
            sector_size: saved.sector_size,
            ..DiskSpec::new(OsString::from_vec(path.to_vec()))
        };
        Some(DiskRecord { spec, saved, overlay: None, chain: None })
    }
}

/// Sizes and times of change of the files behind the first one of a chain, hashed.
fn behind(chain: &Chain) -> io::Result<u64> {
    let mut hash = Xxh3::new();
    for file in &chain.files[1..] {
        let metadata = file.shared().metadata()?;
        for value in [metadata.len() as i64, metadata.mtime(), metadata.mtime_nsec()] {
            hash.update(&value.to_ne_bytes());
        }
    }
    Ok(hash.digest())
}

/// Has an image write what it keeps in memory, on a thread that may write disks.
fn write_out(image: Arc<dyn Image>) -> io::Result<()> {
    let (send, written) = std::sync::mpsc::channel();
    let thread = jail::spawn(Kind::Disk, "disk record", move || {
        let _ = send.send(image.flush().and_then(|()| image.close()));
    })?;
    let _ = thread.join();
    written.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that writes it has ended")))
}

/// One line for people. The path may come from somebody else: control characters are escaped.
impl fmt::Display for DiskRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\", ", escape(&self.spec.path))?;
        match self.saved.flags & FOLDER {
            0 => write!(f, "{} bytes", self.saved.size)?,
            _ => f.write_str("a folder")?,
        }
        if self.saved.sector_size != DEFAULT_SECTOR_SIZE {
            write!(f, ", sectors of {}", self.saved.sector_size)?;
        }
        if self.is_read_only() { f.write_str(", read-only") } else { Ok(()) }
    }
}

impl SavedRecord {
    fn note_time(&mut self, metadata: &Metadata) {
        if self.flags & FILE != 0 {
            (self.modified, self.modified_ns) = (metadata.mtime(), metadata.mtime_nsec() as u32);
        }
    }
}

#[cfg(test)]
#[path = "tests/records.rs"]
mod tests;
