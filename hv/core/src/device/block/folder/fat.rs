//! Writes a tree as a FAT32 volume, once and in order.
//!
//! Sizes are known beforehand and nothing is ever deleted, so every file lies
//! in one piece and the table is a list of runs. The `fatfs` crate, which this
//! module is tested against, took 1.4 s for a folder of 1,000 similar names and
//! 108 s for one of 10,000, as it looks through the folder for each new name,
//! and gives `.` and `..` long names, which `fsck.fat` calls errors.
#![forbid(unsafe_code)]

use super::names::{Name, SLOT, names};
use super::scan::{Entry, EntryKind};
use super::{FolderError, time};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a cluster: a page, so that reads of a guest are pages too.
const CLUSTER: u64 = 4096;
/// With fewer, a volume would be FAT16 by definition. They cost nothing in a sparse file.
const MIN_CLUSTERS: u64 = 65_525 + 16;
/// Clusters that are left free: some drivers do not like a full volume.
const SPARE: u64 = 16;
/// Sectors before the tables; with both sizes of sectors, a multiple of the cluster.
const RESERVED: u64 = 32;
const INFO_SECTOR: u64 = 1;
const BACKUP_SECTOR: u64 = 6;
const TABLES: u64 = 2;
/// Most slots of a folder.
const MAX_SLOTS: usize = 65_536;

const FIRST_CLUSTER: u32 = 2;
const END_OF_RUN: u32 = 0x0fff_ffff;
const MEDIA: u8 = 0xf8;
const LABEL: &[u8; 11] = b"HV FOLDER  ";
const VOLUME_ID: u32 = 0x4856_4644;

const ATTR_LABEL: u8 = 0x08;
const ATTR_FOLDER: u8 = 0x10;
const ATTR_ARCHIVE: u8 = 0x20;

/// An entry and its position in the volume.
struct Placed<'a> {
    entry: &'a Entry,
    /// First cluster; zero for an empty file.
    first: u32,
    /// Names and positions of the entries of a folder.
    inner: Vec<(Name, Placed<'a>)>,
}

/// Gives out clusters, and keeps the table of runs.
struct FatTable(Vec<u32>);

impl FatTable {
    fn run(&mut self, bytes: u64) -> u32 {
        let count = bytes.div_ceil(CLUSTER) as u32;
        if count == 0 {
            return 0;
        }
        let first = self.0.len() as u32;
        self.0.extend((first + 1)..(first + count));
        self.0.push(END_OF_RUN);
        first
    }
}

/// Writes the tree to an empty file, and returns the size of the volume in bytes.
pub(super) fn write(file: &mut File, tree: &Entry, sector: u64) -> Result<u64, FolderError> {
    let failed = |source| FolderError::Image { path: tree.path.clone(), source };
    let mut table = FatTable(vec![0x0fff_ff00 | u32::from(MEDIA), END_OF_RUN]);
    let root = place(tree, &mut table, true)?;
    let used = table.0.len() as u64 - u64::from(FIRST_CLUSTER);
    let volume = Volume::new(used, sector);
    file.set_len(volume.size()).map_err(failed)?;
    volume.write_head(file).map_err(failed)?;
    let bytes: Vec<u8> = table.0.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    for index in 0..TABLES {
        file.write_all_at(&bytes, (RESERVED + index * volume.table_sectors) * sector).map_err(failed)?;
    }
    fill(file, &volume, &root, None)?;
    Ok(volume.size())
}

fn place<'a>(entry: &'a Entry, table: &mut FatTable, is_root: bool) -> Result<Placed<'a>, FolderError> {
    let entries = match &entry.kind {
        EntryKind::File { size } => return Ok(Placed { entry, first: table.run(*size), inner: Vec::new() }),
        EntryKind::Folder(entries) => entries,
    };
    let names = names(entries.iter().map(|entry| entry.name.as_str()));
    // The label, or `.` and `..`.
    let slots = if is_root { 1 } else { 2 } + names.iter().map(Name::slots).sum::<usize>();
    if slots > MAX_SLOTS {
        return Err(FolderError::TooMany { path: entry.path.clone() });
    }
    let first = table.run((slots * SLOT) as u64);
    let inner = names
        .into_iter()
        .zip(entries)
        .map(|(name, entry)| Ok((name, place(entry, table, false)?)))
        .collect::<Result<_, _>>()?;
    Ok(Placed { entry, first, inner })
}

/// Writes a folder and all that is in it. `parent` is the cluster of the folder around it.
fn fill(
    file: &mut File,
    volume: &Volume,
    folder: &Placed<'_>,
    parent: Option<u32>,
) -> Result<(), FolderError> {
    let mut slots = Vec::new();
    let time = folder.entry.modified;
    match parent {
        None => slots.extend(slot(LABEL, ATTR_LABEL, 0, 0, time)),
        Some(parent) => {
            slots.extend(slot(b".          ", ATTR_FOLDER, folder.first, 0, time));
            slots.extend(slot(b"..         ", ATTR_FOLDER, parent, 0, time));
        }
    }
    for (name, placed) in &folder.inner {
        name.push_long(&mut slots);
        let (attributes, size) = match placed.entry.kind {
            EntryKind::File { size } => (ATTR_ARCHIVE, size as u32),
            EntryKind::Folder(_) => (ATTR_FOLDER, 0),
        };
        slots.extend(slot(&name.short, attributes, placed.first, size, placed.entry.modified));
    }
    let failed = |source| FolderError::Image { path: folder.entry.path.clone(), source };
    file.write_all_at(&slots, volume.offset(folder.first)).map_err(failed)?;
    // In the outermost folders, `..` says zero instead of the root's cluster.
    let own = if parent.is_none() { 0 } else { folder.first };
    for (_, placed) in &folder.inner {
        match placed.entry.kind {
            EntryKind::Folder(_) => fill(file, volume, placed, Some(own))?,
            EntryKind::File { size: 0 } => {}
            EntryKind::File { size } => copy(file, volume.offset(placed.first), &placed.entry.path, size)?,
        }
    }
    Ok(())
}

fn slot(name: &[u8; 11], attributes: u8, first: u32, size: u32, modified: i64) -> [u8; SLOT] {
    let (date, time) = time::stamp(modified);
    let mut slot = [0; SLOT];
    slot[..11].copy_from_slice(name);
    slot[11] = attributes;
    for (at, value) in [
        (14, time),
        (16, date),
        (18, date),
        (20, (first >> 16) as u16),
        (22, time),
        (24, date),
        (26, first as u16),
    ] {
        slot[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    slot[28..].copy_from_slice(&size.to_le_bytes());
    slot
}

fn copy(to: &mut File, offset: u64, path: &Path, size: u64) -> Result<(), FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: path.into(), source };
    let failed = |source| FolderError::Image { path: path.into(), source };
    let mut from = File::open(path).map_err(unreadable)?;
    to.seek(SeekFrom::Start(offset)).map_err(failed)?;
    // Within the kernel, where it can.
    let copied = io::copy(&mut (&mut from).take(size), to).map_err(failed)?;
    let len = from.metadata().map_err(unreadable)?.len();
    if copied == size && len == size { Ok(()) } else { Err(FolderError::Changed { path: path.into() }) }
}

/// The measures of a volume.
struct Volume {
    sector: u64,
    /// Clusters, used and free.
    clusters: u64,
    used: u64,
    /// Sectors of one table.
    table_sectors: u64,
}

impl Volume {
    fn new(used: u64, sector: u64) -> Self {
        let clusters = (used + SPARE).max(MIN_CLUSTERS);
        // Whole clusters, so that the clusters themselves are aligned too.
        let table = ((clusters + u64::from(FIRST_CLUSTER)) * 4).next_multiple_of(CLUSTER);
        Volume { sector, clusters, used, table_sectors: table / sector }
    }

    /// Sectors before the first cluster.
    fn overhead(&self) -> u64 {
        RESERVED + TABLES * self.table_sectors
    }

    fn size(&self) -> u64 {
        self.overhead() * self.sector + self.clusters * CLUSTER
    }

    fn offset(&self, cluster: u32) -> u64 {
        self.overhead() * self.sector + u64::from(cluster - FIRST_CLUSTER) * CLUSTER
    }

    /// Writes the boot sector, the counts of clusters, and the copies of both.
    fn write_head(&self, file: &File) -> io::Result<()> {
        let boot = put(&[
            (0, &[0xeb, 0x58, 0x90]),
            (3, b"HV FAT32"),
            (11, &(self.sector as u16).to_le_bytes()),
            (13, &[(CLUSTER / self.sector) as u8]),
            (14, &(RESERVED as u16).to_le_bytes()),
            (16, &[TABLES as u8]),
            (21, &[MEDIA]),
            (24, &32u16.to_le_bytes()),
            (26, &64u16.to_le_bytes()),
            (32, &((self.size() / self.sector) as u32).to_le_bytes()),
            (36, &(self.table_sectors as u32).to_le_bytes()),
            (44, &FIRST_CLUSTER.to_le_bytes()),
            (48, &(INFO_SECTOR as u16).to_le_bytes()),
            (50, &(BACKUP_SECTOR as u16).to_le_bytes()),
            (64, &[0x80]),
            (66, &[0x29]),
            (67, &VOLUME_ID.to_le_bytes()),
            (71, LABEL),
            (82, b"FAT32   "),
        ]);
        let info = put(&[
            (0, b"RRaA"),
            (484, b"rrAa"),
            (488, &((self.clusters - self.used) as u32).to_le_bytes()),
            (492, &(self.used as u32 + FIRST_CLUSTER).to_le_bytes()),
        ]);
        for copy in [0, BACKUP_SECTOR] {
            file.write_all_at(&boot, copy * self.sector)?;
            file.write_all_at(&info, (copy + INFO_SECTOR) * self.sector)?;
        }
        Ok(())
    }
}

/// A sector with these bytes at these offsets.
fn put(fields: &[(usize, &[u8])]) -> [u8; 512] {
    let mut sector = [0; 512];
    for (at, bytes) in fields {
        sector[*at..][..bytes.len()].copy_from_slice(bytes);
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}
