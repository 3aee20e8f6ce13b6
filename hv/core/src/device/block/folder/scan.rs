//! What a folder holds, validated before anything of it is copied.
#![forbid(unsafe_code)]

use super::{FolderError, MAX_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_FILE};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{Metadata, ReadDir};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file or folder.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name in its folder; empty for the outermost.
    pub(super) name: String,
    /// Where it is on the host.
    pub(super) path: PathBuf,
    /// Seconds since 1970.
    pub(super) modified: i64,
    pub(super) kind: EntryKind,
}

#[derive(Debug)]
pub(super) enum EntryKind {
    /// A file of so many bytes.
    File { size: u64 },
    /// A folder, its entries in the order of their names.
    Folder(Vec<Entry>),
}

/// The state of a scan: limits are checked against its counts.
struct FolderScan<'a> {
    top: &'a Path,
    /// The same without links, to see whether a link leads out of it.
    real_top: PathBuf,
    bytes: u64,
    entries: usize,
    left_out: Vec<LeftOut>,
}

/// Something that the disk will not have.
#[derive(Debug)]
pub(super) struct LeftOut {
    /// Where it is on the host.
    pub(super) path: PathBuf,
    pub(super) why: LeftOutReason,
}

/// Why something is left out.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeftOutReason {
    #[error("{0}")]
    Unreadable(io::Error),
    #[error("a {0}")]
    Special(&'static str),
    #[error("FAT cannot hold its name: {0}")]
    Name(&'static str),
}

/// Reads the whole tree of a folder, but no file. What is left out of it comes in the order of paths.
pub(super) fn scan(top: &Path) -> Result<(Entry, Vec<LeftOut>), FolderError> {
    let metadata = std::fs::metadata(top).map_err(unreadable(top))?;
    let real_top = top.canonicalize().map_err(unreadable(top))?;
    let mut scan = FolderScan { top, real_top, bytes: 0, entries: 0, left_out: Vec::new() };
    let mut above = vec![identity(&metadata)];
    let found = std::fs::read_dir(top).map_err(unreadable(top))?;
    let kind = scan.folder(top, found, &mut above)?;
    scan.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    let entry = Entry { name: String::new(), path: top.into(), modified: metadata.mtime(), kind };
    Ok((entry, scan.left_out))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> FolderError {
    move |source| FolderError::Unreadable { path: path.into(), source }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// A file or folder that can be read.
enum Readable {
    File(Metadata),
    Folder(Metadata, ReadDir),
}

/// Looks at what a path leads to, and opens it as the disk will, to see that it can be read.
fn readable(path: &Path) -> Result<Readable, LeftOutReason> {
    let metadata = std::fs::metadata(path).map_err(LeftOutReason::Unreadable)?;
    let kind = metadata.file_type();
    let special = if kind.is_dir() {
        return Ok(Readable::Folder(metadata, std::fs::read_dir(path).map_err(LeftOutReason::Unreadable)?));
    } else if kind.is_file() {
        std::fs::File::open(path).map_err(LeftOutReason::Unreadable)?;
        return Ok(Readable::File(metadata));
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "pipe"
    } else {
        "device"
    };
    Err(LeftOutReason::Special(special))
}

impl FolderScan<'_> {
    /// `above` has this folder and all that it is in.
    fn folder(
        &mut self,
        path: &Path,
        entries: ReadDir,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<EntryKind, FolderError> {
        if above.len() > MAX_DEPTH {
            return Err(FolderError::TooDeep { path: path.into() });
        }
        // By FAT's idea of equality, and so in an order that does not depend on the host's.
        let mut names = BTreeMap::new();
        for found in entries {
            let found = found.map_err(unreadable(path))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(FolderError::TooMany { path: self.top.into() });
            }
            let path = found.path();
            let name = match fat_name(found.file_name()) {
                Ok(name) => name,
                Err(why) => {
                    self.left_out.push(LeftOut { path, why });
                    continue;
                }
            };
            if let Some((_, other)) = names.insert(name.to_uppercase(), (name, path.clone())) {
                // Named in the same order whichever was found first.
                let (path, other) = (path.clone().min(other.clone()), path.max(other));
                return Err(FolderError::SameName { path, other });
            }
        }
        let mut entries = Vec::new();
        for (name, path) in names.into_values() {
            entries.extend(self.entry(name, path, above)?);
        }
        Ok(EntryKind::Folder(entries))
    }

    /// `None` for what is left out.
    fn entry(
        &mut self,
        name: String,
        path: PathBuf,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<Option<Entry>, FolderError> {
        let is_link = path.is_symlink();
        if is_link
            && let Ok(target) = path.canonicalize()
            && !target.starts_with(&self.real_top)
        {
            return Err(FolderError::Outside { path, target });
        }
        let (metadata, kind) = match readable(&path) {
            Ok(Readable::File(metadata)) => {
                let size = metadata.len();
                if size > MAX_FILE {
                    return Err(FolderError::FileTooLarge { path, size });
                }
                self.bytes += size;
                if self.bytes > MAX_BYTES {
                    return Err(FolderError::TooLarge { path: self.top.into() });
                }
                (metadata, EntryKind::File { size })
            }
            Ok(Readable::Folder(metadata, found)) => {
                let identity = identity(&metadata);
                if is_link && above.contains(&identity) {
                    return Err(FolderError::Loop { path });
                }
                above.push(identity);
                let kind = self.folder(&path, found, above)?;
                above.pop();
                (metadata, kind)
            }
            Err(why) => {
                self.left_out.push(LeftOut { path, why });
                return Ok(None);
            }
        };
        Ok(Some(Entry { name, path, modified: metadata.mtime(), kind }))
    }
}

/// The name, if FAT can hold it.
fn fat_name(name: OsString) -> Result<String, LeftOutReason> {
    let name = name.into_string().map_err(|_| LeftOutReason::Name("it is not UTF-8"))?;
    match complaint(&name) {
        Some(reason) => Err(LeftOutReason::Name(reason)),
        None => Ok(name),
    }
}

/// What keeps FAT from holding a name.
fn complaint(name: &str) -> Option<&'static str> {
    if name.encode_utf16().count() > 255 || name.len() > 255 {
        return Some("it is longer than 255 bytes");
    }
    if name.ends_with('.') || name.ends_with(' ') || name.starts_with(' ') {
        return Some("it starts with a space, or ends with a space or a dot");
    }
    if name.chars().any(|c| c.is_ascii_control() || "\"*/:<>?\\|\u{7f}".contains(c)) {
        return Some("it has one of \" * / : < > ? \\ | or a control character");
    }
    name.chars().any(|c| c > '\u{ffff}').then_some("it has a character beyond U+FFFF")
}
