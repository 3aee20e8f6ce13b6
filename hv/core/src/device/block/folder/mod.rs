//! A folder of the host as a read-only FAT disk.
//!
//! The image is made once, when the disk is opened, in a sparse temporary file
//! without a name: what changes in the folder later is not seen. The same
//! folder gives the same image, byte for byte.
//!
//! Symbolic links are followed if what they lead to is inside the folder, and
//! refused if it is outside or forms a loop. What cannot be read, what
//! is neither a file nor a folder (sockets, pipes, devices), and what has a name
//! that FAT cannot hold, is left out; one warning says what that is.
#![forbid(unsafe_code)]

mod fat;
mod names;
mod scan;
mod time;

use hv_host::escape::escape;
use scan::LeftOut;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of all files together: 2 GiB.
pub const MAX_BYTES: u64 = 2 << 30;
/// Most bytes of one file: FAT counts in 32 bits.
pub const MAX_FILE: u64 = u32::MAX as u64;
/// Most files and folders together: the guest looks names up one by one.
pub const MAX_ENTRIES: usize = 16 << 10;
/// Most folders within each other.
pub const MAX_DEPTH: usize = 64;

/// Why a folder cannot be a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The folder itself cannot be read, or something in it no longer.
    #[error("disk folder: cannot read {}: {source}", escape(path))]
    Unreadable {
        /// What cannot be read.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// Together more than [`MAX_BYTES`].
    #[error("disk folder {}: holds more than {} MiB; make a disk image of it", escape(path), MAX_BYTES >> 20)]
    TooLarge {
        /// The folder.
        path: PathBuf,
    },
    /// More than [`MAX_FILE`].
    #[error("disk folder: {} has {size} bytes; a file on a FAT disk has 4 GiB - 1 at most", escape(path))]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// More than [`MAX_ENTRIES`], or more names in one folder than FAT has slots for.
    #[error(
        "disk folder {}: holds too many files, of {MAX_ENTRIES} at most; make a disk image of it",
        escape(path)
    )]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
    /// Deeper than [`MAX_DEPTH`], or links that form a loop.
    #[error("disk folder: {} is more than {MAX_DEPTH} folders deep", escape(path))]
    TooDeep {
        /// The innermost folder.
        path: PathBuf,
    },
    /// A link into one of the folders that it is in.
    #[error("disk folder: the link {} leads back to a folder that it is in; remove it", escape(path))]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// A link out of the folder.
    #[error(
        "disk folder: the link {} leads to {}, outside the folder; replace it with a copy",
        escape(path),
        escape(target)
    )]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Two names that FAT takes for the same.
    #[error("disk folder: the names {} and {} differ only in case; rename one", escape(path), escape(other))]
    SameName {
        /// One of them.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// A file became longer or shorter meanwhile.
    #[error("disk folder: {} changed while it was read; try again", escape(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The image cannot be written.
    #[error(
        "disk folder {}: cannot write its image to the folder for temporary files: {source}; set TMPDIR to one with room",
        escape(path)
    )]
    Image {
        /// The folder, or what of it could not be written.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Makes the image of a folder: an open file, its size in bytes.
pub(super) fn image(path: &Path, sector_size: u32) -> Result<(File, u64), FolderError> {
    let (tree, left_out) = scan::scan(path)?;
    if !left_out.is_empty() {
        tracing::warn!("disk folder {}: {}", escape(path), LeftOutList(&left_out));
    }
    let failed = |source| FolderError::Image { path: path.into(), source };
    let mut file = tempfile::tempfile().map_err(failed)?;
    let size = fat::write(&mut file, &tree, sector_size.into())?;
    Ok((file, size))
}

/// Most entries that are named in the warning.
const NAMED: usize = 3;

/// What a folder's disk does not have, in one line.
struct LeftOutList<'a>(&'a [LeftOut]);

impl fmt::Display for LeftOutList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeftOutList(all) = self;
        match all.len() {
            1 => write!(f, "1 entry is left out: ")?,
            count => write!(f, "{count} entries are left out: ")?,
        }
        for (index, LeftOut { path, why }) in all.iter().take(NAMED).enumerate() {
            let separator = if index > 0 { ", " } else { "" };
            write!(f, "{separator}{} ({why})", escape(path))?;
        }
        match all.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
