//! Puts the entries `.` and `..` of an image in order.
//!
//! The FAT crate (0.3) gives both a long name, and lets `..` in the outermost
//! folders name the root's cluster instead of 0. It reads that itself; the
//! specification forbids both, and checkers and other drivers complain.
#![forbid(unsafe_code)]

use std::io::{self, Read, Seek, SeekFrom, Write};

const SLOT: usize = 32;
const DOT: &[u8; 11] = b".          ";
const DOT_DOT: &[u8; 11] = b"..         ";
const FREE: u8 = 0xe5;
const ATTRIBUTES: usize = 11;
const FOLDER: u8 = 0x10;
const LABEL: u8 = 0x08;

/// Where things are on the volume, in bytes.
struct Volume {
    table: u64,
    data: u64,
    cluster: usize,
}

/// Goes through all folders of a FAT32 volume.
pub(super) fn repair(disk: &mut (impl Read + Write + Seek)) -> io::Result<()> {
    let boot = read(disk, 0, 48)?;
    let half = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
    let word = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
    let sector = half(11);
    let table = half(14) * sector;
    let data = table + u64::from(boot[16]) * u64::from(word(36)) * sector;
    let volume = Volume { table, data, cluster: usize::from(boot[13]) * sector as usize };
    let root = word(44);
    // Pairs of a folder's first cluster and what its `..` has to say.
    let mut folders = vec![(root, None)];
    while let Some((first, parent)) = folders.pop() {
        if let Some(parent) = parent {
            order(disk, &volume, first, parent)?;
        }
        let own = if first == root { 0 } else { first };
        inner(disk, &volume, first, |inner| folders.push((inner, Some(own))))?;
    }
    Ok(())
}

/// Replaces long `.`, `.`, long `..`, `..` by the two that belong there.
fn order(disk: &mut (impl Read + Write + Seek), volume: &Volume, first: u32, parent: u32) -> io::Result<()> {
    let at = volume.data + u64::from(first - 2) * volume.cluster as u64;
    let mut slots = read(disk, at, 4 * SLOT)?;
    if !slots[SLOT..].starts_with(DOT) || !slots[3 * SLOT..].starts_with(DOT_DOT) {
        return Ok(());
    }
    slots.copy_within(SLOT..2 * SLOT, 0);
    slots.copy_within(3 * SLOT.., SLOT);
    slots[2 * SLOT..].fill(0);
    (slots[2 * SLOT], slots[3 * SLOT]) = (FREE, FREE);
    let [low_0, low_1, high_0, high_1] = parent.to_le_bytes();
    slots[SLOT..][20..22].copy_from_slice(&[high_0, high_1]);
    slots[SLOT..][26..28].copy_from_slice(&[low_0, low_1]);
    disk.seek(SeekFrom::Start(at))?;
    disk.write_all(&slots)
}

/// Tells the first clusters of the folders in a folder.
fn inner(
    disk: &mut (impl Read + Write + Seek),
    volume: &Volume,
    first: u32,
    mut found: impl FnMut(u32),
) -> io::Result<()> {
    let mut cluster = first;
    loop {
        let bytes = read(disk, volume.data + u64::from(cluster - 2) * volume.cluster as u64, volume.cluster)?;
        for slot in bytes.chunks_exact(SLOT) {
            match slot[0] {
                0 => return Ok(()),
                FREE | b'.' => {}
                _ if slot[ATTRIBUTES] & (FOLDER | LABEL) == FOLDER => {
                    found(u32::from_le_bytes([slot[26], slot[27], slot[20], slot[21]]));
                }
                _ => {}
            }
        }
        let next = read(disk, volume.table + 4 * u64::from(cluster), 4)?;
        cluster = u32::from_le_bytes([next[0], next[1], next[2], next[3]]) & 0x0fff_ffff;
        if cluster >= 0x0fff_fff8 {
            return Ok(());
        }
    }
}

fn read(disk: &mut (impl Read + Seek), at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    disk.seek(SeekFrom::Start(at))?;
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}
