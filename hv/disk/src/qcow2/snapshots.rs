//! The table of internal snapshots.
#![forbid(unsafe_code)]

use super::header::{Header, MAX_L1};
use super::refcounts::corrupt;
use crate::file::ImageFile;
use std::io;

/// Most bytes of an entry beyond its fixed part.
const MAX_EXTRA: u32 = 1024;

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Bytes of the disk then.
    pub disk_size: u64,
    /// Bytes of a saved machine, which hv does not use.
    pub vm_state_size: u64,
    /// When it was made: seconds since 1970, and nanoseconds.
    pub date: (u32, u32),
    /// Nanoseconds that the guest had run.
    pub vm_clock: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u32,
    /// Bytes in the table.
    pub(super) bytes: u64,
    /// The entry as it is there; empty for a new one.
    pub(super) raw: Vec<u8>,
}

impl Snapshot {
    /// The entry in the table, with all that other programs put into it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.raw.clone();
        if bytes.is_empty() {
            bytes.extend(self.l1_offset.to_be_bytes());
            bytes.extend(self.l1_entries.to_be_bytes());
            bytes.extend((self.id.len() as u16).to_be_bytes());
            bytes.extend((self.name.len() as u16).to_be_bytes());
            bytes.extend(self.date.0.to_be_bytes());
            bytes.extend(self.date.1.to_be_bytes());
            bytes.extend(self.vm_clock.to_be_bytes());
            // No state of a machine, and 16 bytes more: its size again, and that of the disk.
            bytes.extend(0u32.to_be_bytes());
            bytes.extend(16u32.to_be_bytes());
            bytes.extend(self.vm_state_size.to_be_bytes());
            bytes.extend(self.disk_size.to_be_bytes());
            bytes.extend(self.id.as_bytes());
            bytes.extend(self.name.as_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

/// The snapshots of an image.
///
/// # Errors
///
/// If the table cannot be read, or has sizes beyond all limits.
pub fn snapshots(file: &ImageFile, header: &Header) -> io::Result<Vec<Snapshot>> {
    let mut list = Vec::new();
    let mut at = header.snapshots_offset;
    for _ in 0..header.snapshots {
        let mut fixed = [0; 40];
        file.read(&mut fixed, at)?;
        let long = |at: usize| u64::from_be_bytes(fixed[at..at + 8].try_into().expect("eight"));
        let word = |at: usize| u32::from_be_bytes(fixed[at..at + 4].try_into().expect("four"));
        let short = |at: usize| u16::from_be_bytes(fixed[at..at + 2].try_into().expect("two"));
        let (id_len, name_len, extra) = (usize::from(short(12)), usize::from(short(14)), word(36));
        if extra > MAX_EXTRA || u64::from(word(8)) * 8 > MAX_L1 {
            return Err(corrupt("a snapshot with sizes that there are not"));
        }
        if !long(0).is_multiple_of(header.cluster_size()) || long(0) >= 1 << 56 {
            return Err(corrupt("a snapshot whose L1 table is not at a cluster"));
        }
        let mut rest = vec![0; extra as usize + id_len + name_len];
        file.read(&mut rest, at + 40)?;
        let extra_long = |at: usize| {
            (at + 8 <= extra as usize)
                .then(|| u64::from_be_bytes(rest[at..at + 8].try_into().expect("eight")))
        };
        let text = |from: usize, len: usize| String::from_utf8_lossy(&rest[from..from + len]).into_owned();
        let bytes = (40 + rest.len() as u64).next_multiple_of(8);
        list.push(Snapshot {
            id: text(extra as usize, id_len),
            name: text(extra as usize + id_len, name_len),
            disk_size: extra_long(8).unwrap_or(header.size),
            vm_state_size: extra_long(0).unwrap_or(word(32).into()),
            date: (word(16), word(20)),
            vm_clock: long(24),
            l1_offset: long(0),
            l1_entries: word(8),
            bytes,
            raw: [&fixed[..], &rest].concat(),
        });
        at += bytes;
    }
    Ok(list)
}
