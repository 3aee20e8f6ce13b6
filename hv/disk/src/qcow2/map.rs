//! Where bytes are, and reading them.
#![forbid(unsafe_code)]

use super::entry::{Content, Entry};
use super::packed::unpack;
use super::refcounts::corrupt;
use super::tables::{Known, SlicePlace};
use super::{Active, Qcow2};
use crate::image::{Access, Guard, Run, within};
use std::io;
use std::sync::Arc;

/// Clusters that stay unpacked.
const UNPACKED: usize = 4;

/// What this image, apart from its backing file, says of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// At this offset of the data file, for so many bytes.
    Data(u64, u64),
    Zeroes(u64),
    Backing(u64),
    /// Compressed: place, most bytes there, and bytes of the run.
    Packed(u64, u64, u64),
    /// To be written, so many bytes have no place of their own yet.
    Unplaced(u64),
    Missing(SlicePlace),
    Invalid,
}

impl Qcow2 {
    /// The run at `offset`, of at most `len` bytes.
    pub(super) fn own(&self, active: &Active, offset: u64, len: u64, access: Access) -> Own {
        let mut run = self.own_piece(active, offset, len, access);
        loop {
            let done = match run {
                Own::Data(_, n) | Own::Zeroes(n) | Own::Backing(n) | Own::Unplaced(n) if n < len => n,
                _ => return run,
            };
            run = match (run, self.own_piece(active, offset + done, len - done, access)) {
                (Own::Data(at, n), Own::Data(next, m)) if next == at + n => Own::Data(at, n + m),
                (Own::Zeroes(n), Own::Zeroes(m)) => Own::Zeroes(n + m),
                (Own::Backing(n), Own::Backing(m)) => Own::Backing(n + m),
                (Own::Unplaced(n), Own::Unplaced(m)) => Own::Unplaced(n + m),
                _ => return run,
            };
        }
    }

    /// The same up to the end of a subcluster, or of a cluster.
    fn own_piece(&self, active: &Active, offset: u64, len: u64, access: Access) -> Own {
        let cluster_size = self.header.cluster_size();
        let within = offset % cluster_size;
        let entry = match active.tables.get(self.cluster_of(offset)) {
            Known::Entry(entry) => entry,
            Known::Missing(place) => return Own::Missing(place),
            Known::Invalid => return Own::Invalid,
        };
        let unit = self.unit();
        let subcluster = if self.header.is_extended() { (within / unit) as u32 } else { 0 };
        let len = len.min(unit - within % unit);
        match (entry.content(subcluster, &self.header), access) {
            (Content::Invalid, _) => Own::Invalid,
            (Content::Data(at), Access::Write) if self.is_copied(entry) => Own::Data(at + within, len),
            (_, Access::Write) => Own::Unplaced(len),
            (Content::Backing, _) => Own::Backing(len),
            (Content::Zeroes, _) => Own::Zeroes(len),
            // The file may end within its last cluster.
            (Content::Data(at), _) => match self.data().length().saturating_sub(at + within) {
                0 => Own::Zeroes(len),
                there => Own::Data(at + within, len.min(there)),
            },
            (Content::Packed(at, most), _) => Own::Packed(at, most, len.min(cluster_size - within)),
        }
    }

    fn is_copied(&self, entry: Entry) -> bool {
        entry.cluster(&self.header).is_some_and(|(_, copied)| copied)
    }

    /// Bytes that have a place, or none, together: of a subcluster or a cluster.
    pub(super) fn unit(&self) -> u64 {
        if self.header.is_extended() { self.header.cluster_size() / 32 } else { self.header.cluster_size() }
    }

    pub(super) fn find_run(&self, offset: u64, len: u64, access: Access) -> Run {
        if within(self.header.size, offset, len).is_err() || (access == Access::Write && !self.writable) {
            return Run::Other;
        }
        let active = self.active();
        match self.own(&active, offset, len, access) {
            Own::Data(at, len) => self.run_of_data(&active, at, len, access),
            Own::Zeroes(len) => Run::Zeroes(len),
            Own::Backing(len) => {
                drop(active);
                self.behind(offset, len, |offset, len, image| Ok(image.find(offset, len, access)))
                    .unwrap_or(Run::Other)
            }
            Own::Packed(..) | Own::Unplaced(_) | Own::Missing(_) | Own::Invalid => Run::Other,
        }
    }

    fn run_of_data(&self, active: &Active, offset: u64, len: u64, access: Access) -> Run {
        let data = self.data();
        if access == Access::Write {
            data.reaches(offset + len);
        }
        Run::Data { file: data.number, offset, len, guard: self.guard(active) }
    }

    /// Asks the backing file for a run, or has zeroes behind its end and where there is none.
    fn behind(
        &self,
        offset: u64,
        len: u64,
        ask: impl FnOnce(u64, u64, &dyn crate::image::Image) -> io::Result<Run>,
    ) -> io::Result<Run> {
        let Some(backing) = &self.backing else { return Ok(Run::Zeroes(len)) };
        match backing.size().saturating_sub(offset) {
            0 => Ok(Run::Zeroes(len)),
            there => ask(offset, len.min(there), &**backing),
        }
    }

    /// As [`own`](Self::own), after reading what is missing; with what guards the run.
    pub(super) fn own_known(&self, offset: u64, len: u64, access: Access) -> io::Result<(Own, Guard)> {
        loop {
            let active = self.active();
            match self.own(&active, offset, len, access) {
                Own::Missing(place) => {
                    drop(active);
                    self.load(place)?;
                }
                Own::Invalid => return Err(corrupt("an entry of an L2 table is wrong")),
                known => return Ok((known, self.guard(&active))),
            }
        }
    }

    /// The entry of a cluster, read if it has to be.
    pub(super) fn entry(&self, cluster: u64) -> io::Result<Entry> {
        loop {
            let known = self.active().tables.get(cluster);
            match known {
                Known::Entry(entry) => return Ok(entry),
                Known::Missing(place) => self.load(place)?,
                Known::Invalid => return Err(corrupt("an L2 table is not at a cluster of the file")),
            }
        }
    }

    /// Reads a slice and takes it in.
    pub(super) fn load(&self, place: SlicePlace) -> io::Result<()> {
        let _one = self.loading.lock().expect("no panic while held");
        let first = self.active().tables.first_of(place.number);
        // Another one may have done it; and the table may be elsewhere by now.
        let Known::Missing(place) = self.active().tables.get(first) else { return Ok(()) };
        let mut bytes = vec![0; place.bytes];
        self.file.read(&mut bytes, place.offset)?;
        self.active().tables.insert(place.number, &bytes);
        if self.writable && self.data.is_none() {
            let clusters = self.active().tables.clusters_of(place.number);
            let refcounts = self.refcounts();
            for cluster in clusters {
                let Known::Entry(entry) = self.active().tables.get(cluster) else { continue };
                let placed = entry.cluster(&self.header).map(|(at, _)| self.cluster_of(at));
                if placed.is_some_and(|at| refcounts.taken.contains(&at)) {
                    self.active().tables.forget(place.number);
                    return Err(corrupt("an entry of an L2 table names a cluster of a table"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn map_run(&self, offset: u64, len: u64) -> io::Result<Run> {
        let (own, guard) = self.own_known(offset, len, Access::Read)?;
        match own {
            Own::Data(offset, len) => Ok(Run::Data { file: self.data().number, offset, len, guard }),
            Own::Zeroes(len) => Ok(Run::Zeroes(len)),
            Own::Backing(len) => self.behind(offset, len, |offset, len, image| image.map(offset, len)),
            Own::Packed(_, _, len) => Ok(Run::Packed(self.file.number, len)),
            Own::Unplaced(_) | Own::Missing(_) | Own::Invalid => unreachable!("of reads that are known"),
        }
    }

    pub(super) fn read_runs(&self, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let (own, guard) = self.own_known(offset, bytes.len() as u64, Access::Read)?;
            let count = match own {
                Own::Data(at, len) => {
                    self.data().read(&mut bytes[..len as usize], at)?;
                    len
                }
                Own::Zeroes(len) => {
                    bytes[..len as usize].fill(0);
                    len
                }
                Own::Backing(len) => {
                    let backing = self.backing.as_deref();
                    let there = backing.map_or(0, |backing| backing.size().saturating_sub(offset).min(len));
                    let (from_backing, behind) = bytes[..len as usize].split_at_mut(there as usize);
                    behind.fill(0);
                    if let Some(backing) = backing.filter(|_| there > 0) {
                        backing.read(from_backing, offset)?;
                    }
                    len
                }
                Own::Packed(at, most, len) => {
                    let within = (offset % self.header.cluster_size()) as usize;
                    let cluster = self.unpack(at, most)?;
                    bytes[..len as usize].copy_from_slice(&cluster[within..within + len as usize]);
                    len
                }
                Own::Unplaced(_) | Own::Missing(_) | Own::Invalid => unreachable!("of reads that are known"),
            };
            drop(guard);
            offset += count;
            bytes = &mut bytes[count as usize..];
        }
        Ok(())
    }

    /// The compressed cluster at this place.
    fn unpack(&self, at: u64, most: u64) -> io::Result<Arc<[u8]>> {
        let known = |unpacked: &std::collections::VecDeque<(u64, Arc<[u8]>)>| {
            unpacked.iter().find(|(place, _)| *place == at).map(|(_, cluster)| cluster.clone())
        };
        if let Some(cluster) = known(&self.unpacked.lock().expect("no panic while held")) {
            return Ok(cluster);
        }
        let mut packed = vec![0; most as usize];
        self.file.read_padded(&mut packed, at)?;
        let mut cluster = vec![0; self.header.cluster_size() as usize];
        if !unpack(self.header.compression, &packed, &mut cluster) {
            return Err(corrupt("a compressed cluster is not one"));
        }
        let cluster: Arc<[u8]> = cluster.into();
        let mut unpacked = self.unpacked.lock().expect("no panic while held");
        unpacked.truncate(UNPACKED - 1);
        unpacked.push_front((at, cluster.clone()));
        Ok(cluster)
    }
}
