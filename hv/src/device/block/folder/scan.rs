//! What a folder holds, judged before anything of it is copied.
#![forbid(unsafe_code)]

use super::{FolderError, MAX_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_FILE};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
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
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A file of so many bytes.
    File { size: u64 },
    /// A folder, its entries in the order of their names.
    Folder(Vec<Entry>),
}

/// What is counted on the way.
struct Scan<'a> {
    top: &'a Path,
    /// The same without links, to see whether a link leads out of it.
    real_top: PathBuf,
    bytes: u64,
    entries: usize,
}

/// Reads the whole tree of a folder, but no file.
pub(super) fn scan(top: &Path) -> Result<Entry, FolderError> {
    let metadata = std::fs::metadata(top).map_err(unreadable(top))?;
    let real_top = top.canonicalize().map_err(unreadable(top))?;
    let mut scan = Scan { top, real_top, bytes: 0, entries: 0 };
    let mut above = vec![identity(&metadata)];
    let kind = scan.folder(top, &mut above)?;
    Ok(Entry { name: String::new(), path: top.into(), modified: metadata.mtime(), kind })
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> FolderError {
    move |source| FolderError::Unreadable { path: path.into(), source }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Scan<'_> {
    /// `above` has this folder and all that it is in.
    fn folder(&mut self, path: &Path, above: &mut Vec<(u64, u64)>) -> Result<Kind, FolderError> {
        if above.len() > MAX_DEPTH {
            return Err(FolderError::TooDeep { path: path.into() });
        }
        // By FAT's idea of equality, and so in an order that does not depend on the host's.
        let mut names = BTreeMap::new();
        for found in std::fs::read_dir(path).map_err(unreadable(path))? {
            let found = found.map_err(unreadable(path))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(FolderError::TooMany { path: self.top.into() });
            }
            let path = found.path();
            let name = match found.file_name().into_string() {
                Ok(name) => name,
                Err(_) => return Err(FolderError::Name { path, reason: "it is not UTF-8" }),
            };
            if let Some(reason) = complaint(&name) {
                return Err(FolderError::Name { path, reason });
            }
            if let Some((_, other)) = names.insert(name.to_uppercase(), (name, path.clone())) {
                // Named in the same order whichever was found first.
                let (path, other) = (path.clone().min(other.clone()), path.max(other));
                return Err(FolderError::SameName { path, other });
            }
        }
        let entries = names
            .into_values()
            .map(|(name, path)| self.entry(name, path, above))
            .collect::<Result<_, _>>()?;
        Ok(Kind::Folder(entries))
    }

    fn entry(
        &mut self,
        name: String,
        path: PathBuf,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<Entry, FolderError> {
        let mut metadata = std::fs::symlink_metadata(&path).map_err(unreadable(&path))?;
        let is_link = metadata.is_symlink();
        if is_link {
            let target = path.canonicalize().map_err(unreadable(&path))?;
            if !target.starts_with(&self.real_top) {
                return Err(FolderError::Outside { path, target });
            }
            metadata = std::fs::metadata(&path).map_err(unreadable(&path))?;
        }
        let kind = if metadata.is_dir() {
            let identity = identity(&metadata);
            if is_link && above.contains(&identity) {
                return Err(FolderError::Loop { path });
            }
            above.push(identity);
            let kind = self.folder(&path, above)?;
            above.pop();
            kind
        } else if metadata.is_file() {
            let size = metadata.len();
            if size > MAX_FILE {
                return Err(FolderError::FileTooLarge { path, size });
            }
            self.bytes += size;
            if self.bytes > MAX_BYTES {
                return Err(FolderError::TooLarge { path: self.top.into() });
            }
            Kind::File { size }
        } else {
            return Err(FolderError::Special { path });
        };
        Ok(Entry { name, path, modified: metadata.mtime(), kind })
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
