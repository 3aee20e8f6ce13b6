//! Writing a snapshot to a folder.

use super::header::{CHUNK, Facts, PARTS, Part, compose};
use super::{IMAGE, MEMORY, STATE, Snapshot};
use hv_abi::PAGE_SIZE;
use hv_host::escape::escape;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::IntoBytes;

/// Why a snapshot was not written. No file of it remains.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The path exists already.
    #[error("{}: there is something of that name already; remove it, or choose another name", escape(.0))]
    Exists(PathBuf),
    /// A path without a last part, such as `..`.
    #[error("{}: not the name of a new folder", escape(.0))]
    Name(PathBuf),
    /// No folder to put it in.
    #[error("{}: no such folder to put the snapshot in; create it first", escape(.0))]
    NoParent(PathBuf),
    /// The disk is full, or something like it.
    #[error("{}: cannot write the snapshot: {source}; nothing of it is left", escape(path))]
    Io {
        /// The folder that was to be.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
}

/// What a snapshot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the guest's memory.
    pub memory: u64,
    /// Bytes of it that are not holes in the file.
    pub stored: u64,
    /// Bytes of the image.
    pub image: u64,
    /// Bytes of everything else.
    pub state: u64,
}

impl Snapshot {
    /// Whether a snapshot could be written there, as far as that can be said beforehand.
    ///
    /// # Errors
    ///
    /// If something of that name is there, it is no name of a folder, or the folder around it is not there.
    pub fn check_place(dir: &Path) -> Result<(), WriteError> {
        place(dir).map(drop)
    }

    /// Writes the snapshot to a new folder.
    ///
    /// It is put together in a folder beside it, which gets the name when everything is on the
    /// host's disk: at any time there is a whole snapshot of that name, or none.
    /// Only the owner can read it: the guest's memory may hold secrets.
    ///
    /// # Errors
    ///
    /// As those of [`check_place`](Self::check_place); if the host cannot write all of it: then no file of it
    /// remains.
    pub fn write(&self, dir: &Path) -> Result<Written, WriteError> {
        let (parent, name) = place(dir)?;
        let failed = |source| WriteError::Io { path: dir.into(), source };
        let prefix = format!(".{}.partial-", name.to_string_lossy());
        let mine = Permissions::from_mode(0o700);
        let partial = tempfile::Builder::new().prefix(&prefix).permissions(mine).tempdir_in(parent);
        let partial = partial.map_err(failed)?;
        let written = self.write_files(partial.path()).map_err(failed)?;
        rename(partial.path(), dir).map_err(|error| match error {
            Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => WriteError::Exists(dir.into()),
            error => failed(error.into()),
        })?;
        // It has its final name now, and is not removed.
        let _ = partial.keep();
        if let Err(error) = sync_folder(parent) {
            let _ = std::fs::remove_dir_all(dir);
            return Err(failed(error));
        }
        Ok(written)
    }

    fn write_files(&self, dir: &Path) -> io::Result<Written> {
        let (stored, chunks) = self.write_memory(&dir.join(MEMORY))?;
        let image = self.image.bytes();
        write_file(&dir.join(IMAGE), image)?;
        // What makes a snapshot of the folder comes last.
        let state = compose(self.facts(image), &self.parts(chunks));
        write_file(&dir.join(STATE), &state)?;
        sync_folder(dir)?;
        let (memory, image, state) = (self.template.size(), image.len() as u64, state.len() as u64);
        Ok(Written { memory, stored, image, state })
    }

    fn facts(&self, image: &[u8]) -> Facts {
        Facts {
            features: self.features,
            base: self.template.base().0,
            memory: self.template.size(),
            time: self.saved.time,
            image: image.len() as u64,
            image_checksum: xxh3_64(image),
        }
    }

    /// The sections, each in the form that its part of hv gives it.
    fn parts(&self, chunks: Vec<u64>) -> [(Part, Vec<u8>); PARTS.len()] {
        let saved = &self.saved;
        PARTS.map(|(part, _)| {
            let bytes = match part {
                Part::Cpu => saved.cpus.as_bytes().to_vec(),
                Part::Offsets => saved.places.as_bytes().to_vec(),
                Part::Access => self.template.saved_map().as_bytes().to_vec(),
                Part::Devices => saved.devices.as_bytes().to_vec(),
                Part::Name => saved.name.as_bytes().to_vec(),
                Part::Disks => {
                    let mut bytes = Vec::new();
                    self.disks.iter().for_each(|disk| disk.save(&mut bytes));
                    bytes
                }
                Part::Chunks => chunks.as_bytes().to_vec(),
            };
            (part, bytes)
        })
    }

    /// Writes what is not zero to where it is in the guest's memory. Returns how many
    /// bytes that were, and the checksums of all chunks.
    fn write_memory(&self, path: &Path) -> io::Result<(u64, Vec<u64>)> {
        let size = self.template.size();
        let file = create(path)?;
        file.set_len(size)?;
        let mut bytes = vec![0; CHUNK.min(size) as usize];
        let mut stored = 0;
        let mut chunks = Vec::with_capacity(size.div_ceil(CHUNK) as usize);
        let mut data = self.template.data().peekable();
        for start in (0..size).step_by(CHUNK as usize) {
            let end = (start + CHUNK).min(size);
            let chunk = &mut bytes[..(end - start) as usize];
            chunk.fill(0);
            while let Some(range) = data.peek().filter(|range| range.start < end) {
                let part = range.start.max(start)..range.end.min(end);
                self.template.read(
                    part.start,
                    &mut chunk[(part.start - start) as usize..][..(part.end - part.start) as usize],
                )?;
                if range.end > end {
                    break;
                }
                data.next();
            }
            chunks.push(xxh3_64(chunk));
            for run in runs(chunk) {
                stored += run.len() as u64;
                file.write_all_at(&chunk[run.clone()], start + run.start as u64)?;
            }
        }
        file.sync_all()?;
        Ok((stored, chunks))
    }
}

/// The folder that a new folder of this path is in, and its name there.
fn place(dir: &Path) -> Result<(&Path, &OsStr), WriteError> {
    let name = dir.file_name().ok_or_else(|| WriteError::Name(dir.into()))?;
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if dir.symlink_metadata().is_ok() {
        return Err(WriteError::Exists(dir.into()));
    }
    if !parent.is_dir() {
        return Err(WriteError::NoParent(parent.into()));
    }
    Ok((parent, name))
}

/// The runs of pages that are not zero.
fn runs(chunk: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    let mut at = 0;
    for page in chunk.chunks(PAGE_SIZE as usize) {
        let end = at + page.len();
        if page.iter().any(|&byte| byte != 0) {
            match runs.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    runs
}

fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Renames, unless something of that name has come meanwhile.
fn rename(from: &Path, to: &Path) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot promise that. An empty folder is all that this may replace.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::empty())
        }
        result => result,
    }
}
