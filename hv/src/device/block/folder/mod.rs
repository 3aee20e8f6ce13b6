//! A folder of the host as a read-only FAT disk.
//!
//! The image is made once, when the disk is opened, in a sparse temporary file
//! without a name: what changes in the folder later is not seen. The same
//! folder gives the same image, byte for byte.
//!
//! Symbolic links are followed if what they lead to is inside the folder, and
//! refused if it is outside or leads round in a circle. Files that are neither
//! files nor folders (sockets, pipes, devices) are refused.
#![forbid(unsafe_code)]

mod dots;
mod scan;
mod store;

use fatfs::{Date, DateTime, Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use scan::{Entry, Kind};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use store::Store;

/// Most bytes of all files together: 2 GiB.
pub const MAX_BYTES: u64 = 2 << 30;
/// Most bytes of one file: FAT counts in 32 bits.
pub const MAX_FILE: u64 = u32::MAX as u64;
/// Most files and folders together. FAT looks names up one by one.
pub const MAX_ENTRIES: usize = 16 << 10;
/// Most folders within each other.
pub const MAX_DEPTH: usize = 64;

/// Bytes of a cluster: a page, so that reads of a guest are pages too.
const CLUSTER: u64 = 4096;
/// FAT32 has at least so many clusters; they cost nothing in a sparse file.
const MIN_CLUSTERS: u64 = 65_525 + 16;
const LABEL: &[u8; 11] = b"HV FOLDER  ";

/// Why a folder cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file or folder cannot be read.
    #[error("disk folder: cannot read {}: {source}", path.display())]
    Unreadable {
        /// What cannot be read.
        path: PathBuf,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// Together more than [`MAX_BYTES`].
    #[error("disk folder {}: holds more than {} MiB; make a disk image of it", path.display(), MAX_BYTES >> 20)]
    TooLarge {
        /// The folder.
        path: PathBuf,
    },
    /// More than [`MAX_FILE`].
    #[error("disk folder: {} has {size} bytes; a file on a FAT disk has 4 GiB - 1 at most", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// More than [`MAX_ENTRIES`].
    #[error("disk folder {}: holds more than {MAX_ENTRIES} files; make a disk image of it", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
    /// Deeper than [`MAX_DEPTH`], or links that lead round in a circle.
    #[error("disk folder: {} is more than {MAX_DEPTH} folders deep", path.display())]
    TooDeep {
        /// The innermost folder.
        path: PathBuf,
    },
    /// A link into one of the folders that it is in.
    #[error("disk folder: the link {} leads back to a folder that it is in; remove it", path.display())]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// A link out of the folder.
    #[error("disk folder: the link {} leads to {}, outside the folder; replace it with a copy", path.display(), target.display())]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A socket, a pipe, a device.
    #[error("disk folder: {} is neither a file nor a folder; remove it", path.display())]
    Special {
        /// What it is.
        path: PathBuf,
    },
    /// A name that FAT cannot hold.
    #[error("disk folder: a FAT disk cannot hold the name of {}: {reason}; rename it", path.display())]
    Name {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with the name.
        reason: &'static str,
    },
    /// Two names that FAT takes for the same.
    #[error("disk folder: the names {} and {} differ only in case; rename one", path.display(), other.display())]
    SameName {
        /// One of them.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// A file became longer or shorter meanwhile.
    #[error("disk folder: {} changed while it was read; try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The image cannot be written.
    #[error("disk folder {}: cannot write its image to the folder for temporary files: {source}; set TMPDIR to one with room", path.display())]
    Image {
        /// The folder, or what of it could not be written.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Makes the image of a folder: an open file, its size in bytes.
pub(super) fn image(path: &Path, sector_size: u32) -> Result<(File, u64), FolderError> {
    let tree = scan::scan(path)?;
    let failed = |source| FolderError::Image { path: path.into(), source };
    let size = size(&tree, sector_size);
    let mut file = tempfile::tempfile().map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    let mut store = Store::new(&mut file).map_err(failed)?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_sector(sector_size as u16)
        .bytes_per_cluster(CLUSTER as u32)
        .volume_label(*LABEL);
    fatfs::format_volume(&mut store, options).map_err(failed)?;
    store.seek(SeekFrom::Start(0)).map_err(failed)?;
    let system = FileSystem::new(&mut store, FsOptions::new().time_provider(&FILE_TIME)).map_err(failed)?;
    // The free space is then known, and a guest need not count it.
    system.stats().map_err(failed)?;
    fill(&system.root_dir(), &tree)?;
    system.unmount().map_err(failed)?;
    dots::repair(&mut store).map_err(failed)?;
    store.finish().map_err(failed)?;
    Ok((file, size))
}

/// Bytes of a disk that the tree fits on.
fn size(tree: &Entry, sector_size: u32) -> u64 {
    let clusters = (clusters(tree) + 16).max(MIN_CLUSTERS);
    // Boot sectors, two tables of 4 bytes for each cluster, and rounding.
    let overhead = 64 * u64::from(sector_size) + 2 * (4 * clusters).next_multiple_of(CLUSTER) + 16 * CLUSTER;
    clusters * CLUSTER + overhead.next_multiple_of(CLUSTER)
}

fn clusters(entry: &Entry) -> u64 {
    match &entry.kind {
        Kind::File { size } => size.div_ceil(CLUSTER),
        Kind::Folder(entries) => {
            // A long name takes a slot of 32 bytes for each 13 characters, and one more.
            let slots: u64 = entries.iter().map(|e| 2 + e.name.len() as u64 / 13).sum();
            (32 * (slots + 3)).div_ceil(CLUSTER) + entries.iter().map(clusters).sum::<u64>()
        }
    }
}

fn fill<T: Read + Write + Seek>(dir: &Dir<'_, T>, entry: &Entry) -> Result<(), FolderError> {
    let Kind::Folder(entries) = &entry.kind else { return Ok(()) };
    for entry in entries {
        let failed = |source| FolderError::Image { path: entry.path.clone(), source };
        NOW.set(entry.modified);
        match entry.kind {
            Kind::Folder(_) => fill(&dir.create_dir(&entry.name).map_err(failed)?, entry)?,
            Kind::File { size } => {
                let mut to = dir.create_file(&entry.name).map_err(failed)?;
                copy(&entry.path, size, &mut to)?;
                to.flush().map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn copy(path: &Path, size: u64, to: &mut impl Write) -> Result<(), FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: path.into(), source };
    let from = File::open(path).map_err(unreadable)?;
    let mut from = from.take(size + 1);
    let mut bytes = vec![0; (64 << 10).min(size as usize + 1)];
    let mut copied = 0;
    loop {
        let count = from.read(&mut bytes).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        copied += count as u64;
        if copied > size {
            break;
        }
        to.write_all(&bytes[..count]).map_err(|source| FolderError::Image { path: path.into(), source })?;
    }
    if copied == size { Ok(()) } else { Err(FolderError::Changed { path: path.into() }) }
}

thread_local! {
    /// When the entry that is being made was modified, in seconds since 1970.
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// The FAT crate asks a static clock: this one tells the time of the host's
/// file, so that an image does not depend on when it was made.
#[derive(Debug)]
struct FileTime;
static FILE_TIME: FileTime = FileTime;

impl TimeProvider for FileTime {
    fn get_current_date(&self) -> Date {
        self.get_current_date_time().date
    }
    fn get_current_date_time(&self) -> DateTime {
        date_time(NOW.get())
    }
}

/// A time in FAT's terms: UTC, from 1980 on, in steps of two seconds.
fn date_time(seconds: i64) -> DateTime {
    const FIRST: i64 = 315_532_800;
    const LAST: i64 = 4_354_819_198;
    let seconds = seconds.clamp(FIRST, LAST);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    DateTime {
        date: Date { year, month, day },
        time: Time {
            hour: (rest / 3600) as u16,
            min: (rest / 60 % 60) as u16,
            sec: (rest % 60) as u16,
            millis: 0,
        },
    }
}

/// The date of a day counted from 1970-01-01, which must not be before it.
fn civil(mut days: i64) -> (u16, u16, u16) {
    let leap = |year: u16| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for len in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    (year, month, days as u16 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_turned_into_dates() {
        let date = |seconds| {
            let DateTime { date, time } = date_time(seconds);
            (date.year, date.month, date.day, time.hour, time.min, time.sec)
        };
        assert_eq!(date(0), (1980, 1, 1, 0, 0, 0), "before FAT's time");
        assert_eq!(date(951_827_696), (2000, 2, 29, 12, 34, 56));
        assert_eq!(date(1_735_689_599), (2024, 12, 31, 23, 59, 59));
        assert_eq!(date(i64::MAX), (2107, 12, 31, 23, 59, 58));
    }
}
