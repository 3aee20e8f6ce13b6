//! Writing: clusters get their places, and lose them.
#![forbid(unsafe_code)]

use super::entry::Entry;
use super::map::Own;
use super::refcounts::corrupt;
use super::{Clusters, Qcow2};
use crate::image::Access;
use std::io;
use std::sync::atomic::Ordering;

/// Most clusters that get their places at once.
const MOST: u64 = 256;
/// Slices that may be dirty, and places that may wait to be free, before they are brought to the file.
const MOST_DIRTY: usize = 256;
const MOST_UNLINKED: usize = 4096;

impl Qcow2 {
    pub(super) fn write_runs(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let (own, guard) = self.own_known(offset, bytes.len() as u64, Access::Write)?;
            let count = match own {
                Own::Data(at, len) => {
                    self.data().write(&bytes[..len as usize], at)?;
                    len
                }
                Own::Unplaced(len) => {
                    drop(guard);
                    self.relieve()?;
                    self.write_unplaced(&bytes[..len as usize], offset)?
                }
                _ => unreachable!("of writes that are known"),
            };
            offset += count;
            bytes = &bytes[count as usize..];
        }
        Ok(())
    }

    /// Writes the first of these bytes, whose clusters had no place of their own; returns how many.
    fn write_unplaced(&self, bytes: &[u8], offset: u64) -> io::Result<u64> {
        let first = self.cluster_of(offset);
        // Tables get their places one by one.
        let table_end = (first >> self.header.l2_bits()).wrapping_add(1) << self.header.l2_bits();
        let end = (self.cluster_of(offset + bytes.len() as u64 - 1) + 1).min(table_end).min(first + MOST);
        let _claim = self.claim(first..end);
        // Who had the claim before may have written there.
        let len = (bytes.len() as u64).min(self.start_of(end) - offset);
        let len = match self.own_known(offset, len, Access::Write)?.0 {
            Own::Unplaced(len) => len,
            _ => return Ok(0),
        };
        self.place_table(first)?;
        let bytes = &bytes[..len as usize];
        let end = self.cluster_of(offset + len - 1) + 1;
        let entry = self.entry(first)?;
        if self.is_fresh(entry) {
            let mut fresh = first + 1;
            while fresh < end && self.is_fresh(self.entry(fresh)?) {
                fresh += 1;
            }
            return self.write_fresh(bytes, offset, first..fresh);
        }
        self.write_again(bytes, offset, entry)
    }

    /// Whether a cluster has no place in the file at all.
    fn is_fresh(&self, entry: Entry) -> bool {
        !entry.is_packed() && entry.cluster(&self.header).is_none()
    }

    /// Writes to clusters without a place.
    fn write_fresh(&self, bytes: &[u8], offset: u64, clusters: std::ops::Range<u64>) -> io::Result<u64> {
        let wanted = clusters.end - clusters.start;
        let (place, got) = match self.data {
            // There, each cluster has the place that it has on the disk.
            Some(_) => (self.start_of(clusters.start), wanted),
            None => {
                self.reclaim()?;
                let (first, got) = self.refcounts().allocate(&self.file, 1, wanted)?;
                (self.start_of(first), got)
            }
        };
        let start = self.start_of(clusters.start);
        let end = self.start_of(clusters.start + got).min(offset + bytes.len() as u64);
        let bytes = &bytes[..(end - offset) as usize];
        let written = self.write_around(bytes, offset, self.unit(), |at| place + (at - start));
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                // Nothing names them.
                if self.data.is_none() {
                    let mut refcounts = self.refcounts();
                    for cluster in self.cluster_of(place)..self.cluster_of(place) + got {
                        refcounts.add(&self.file, cluster, -1)?;
                    }
                }
                return Err(error);
            }
        };
        for cluster in clusters.start..self.cluster_of(end - 1) + 1 {
            let old = self.entry(cluster)?;
            let units = self.units_of(cluster, &written);
            let at = place + (self.start_of(cluster) - start);
            self.set(cluster, old.with_data(at, units, &self.header))?;
        }
        Ok(end - offset)
    }

    /// Writes to one cluster that has a place: in it, if it may be written, or else in a new one.
    fn write_again(&self, bytes: &[u8], offset: u64, old: Entry) -> io::Result<u64> {
        let cluster = self.cluster_of(offset);
        let start = self.start_of(cluster);
        let bytes = &bytes[..bytes.len().min((start + self.header.cluster_size() - offset) as usize)];
        if let Some((place, true)) = old.cluster(&self.header) {
            let written = self.write_around(bytes, offset, self.unit(), |at| place + (at - start))?;
            self.set(cluster, old.with_data(place, self.units_of(cluster, &written), &self.header))?;
            return Ok(bytes.len() as u64);
        }
        if self.data.is_some() {
            return Err(corrupt("a cluster of a data file is shared"));
        }
        self.reclaim()?;
        let (first, _) = self.refcounts().allocate(&self.file, 1, 1)?;
        let place = self.start_of(first);
        if let Err(error) =
            self.write_around(bytes, offset, self.header.cluster_size(), |at| place + (at - start))
        {
            self.refcounts().add(&self.file, first, -1)?;
            return Err(error);
        }
        self.set(cluster, Entry::at(place, self.header.is_extended()))?;
        self.unlink(old);
        Ok(bytes.len() as u64)
    }

    /// Writes bytes, with what is around them up to whole units; returns what was written, in bytes of the disk.
    fn write_around(
        &self,
        bytes: &[u8],
        offset: u64,
        unit: u64,
        place: impl Fn(u64) -> u64,
    ) -> io::Result<std::ops::Range<u64>> {
        let end = offset + bytes.len() as u64;
        let around = offset - offset % unit..end.next_multiple_of(unit);
        let mut before = vec![0; (offset - around.start) as usize];
        let mut behind = vec![0; (around.end - end) as usize];
        if !before.is_empty() {
            self.read_runs(&mut before, around.start)?;
        }
        // The last cluster may go on behind the disk's end.
        let there = self.header.size.saturating_sub(end).min(behind.len() as u64) as usize;
        if there > 0 {
            self.read_runs(&mut behind[..there], end)?;
        }
        self.data().write_parts(&[&before, bytes, &behind], place(around.start))?;
        Ok(around)
    }

    /// The subclusters of a cluster that lie in a part of the disk.
    fn units_of(&self, cluster: u64, part: &std::ops::Range<u64>) -> std::ops::Range<u32> {
        let start = self.start_of(cluster);
        let end = start + self.header.cluster_size();
        let unit = self.unit();
        ((part.start.max(start) - start) / unit) as u32..((part.end.min(end) - start) / unit) as u32
    }

    /// Has a table for a cluster's entry that may be written.
    fn place_table(&self, cluster: u64) -> io::Result<()> {
        let _one = self.placing.lock().expect("no panic while held");
        let (index, old, owned) = self.active().tables.table(cluster);
        if old != 0 && owned {
            return Ok(());
        }
        let mut table = vec![0; self.header.cluster_size() as usize];
        if old != 0 {
            self.file.read(&mut table, old)?;
        }
        self.reclaim()?;
        let place = {
            let mut refcounts = self.refcounts();
            let (first, _) = refcounts.allocate(&self.file, 1, 1)?;
            if let Err(error) = self.file.write(&table, self.start_of(first)) {
                refcounts.add(&self.file, first, -1)?;
                return Err(error);
            }
            refcounts.taken.insert(first);
            self.start_of(first)
        };
        let mut active = self.active();
        active.tables.set_table(index, place);
        if old != 0 {
            active.unlinked.push(Clusters { first: self.cluster_of(old), count: 1 });
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Changes an entry in memory.
    fn set(&self, cluster: u64, entry: Entry) -> io::Result<()> {
        loop {
            let mut active = self.active();
            if active.tables.set(cluster, entry) {
                self.changes.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            drop(active);
            self.entry(cluster)?;
        }
    }

    /// What an entry named is free once the file no longer names it.
    fn unlink(&self, old: Entry) {
        let clusters = match old.content(0, &self.header) {
            super::entry::Content::Packed(at, most) => {
                let first = self.cluster_of(at);
                Clusters { first, count: self.cluster_of(at + most - 1) - first + 1 }
            }
            _ => match old.cluster(&self.header) {
                Some((at, _)) if self.data.is_none() => Clusters { first: self.cluster_of(at), count: 1 },
                _ => return,
            },
        };
        self.active().unlinked.push(clusters);
    }

    /// Makes a part read as zeroes; or, if `exact` is not asked for, as before where that is simpler.
    pub(super) fn clear(&self, mut offset: u64, len: u64, exact: bool) -> io::Result<()> {
        let (end, size) = (offset + len, self.header.cluster_size());
        while offset < end {
            let cluster = self.cluster_of(offset);
            let next = (self.start_of(cluster) + size).min(end);
            // The last cluster may go on behind the disk's end.
            let whole = offset.is_multiple_of(size) && (next - offset == size || next == self.header.size);
            if !whole {
                if exact {
                    self.write_zeroes(offset, next - offset)?;
                }
            } else if !self.clear_cluster(cluster)? && exact {
                self.write_zeroes(offset, next - offset)?;
            }
            offset = next;
            self.relieve()?;
        }
        Ok(())
    }

    /// Brings changes to the file when there are many: a guest that never flushes must not grow what is kept, nor the time for which
    /// the lock of the tables is held.
    pub(super) fn relieve(&self) -> io::Result<()> {
        let active = self.active();
        let many = active.tables.dirty() > MOST_DIRTY || active.unlinked.len() > MOST_UNLINKED;
        drop(active);
        if many { self.commit() } else { Ok(()) }
    }

    fn write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        let (own, _) = self.own_known(offset, len, Access::Read)?;
        if own == Own::Zeroes(len) || (self.backing.is_none() && own == Own::Backing(len)) {
            return Ok(());
        }
        self.write_runs(&vec![0; len as usize], offset)
    }

    /// Takes a cluster's place away, so that it reads as zeroes; false if the format cannot say that.
    fn clear_cluster(&self, cluster: u64) -> io::Result<bool> {
        let _claim = self.claim(cluster..cluster + 1);
        let old = self.entry(cluster)?;
        if self.data.is_some() && old.cluster(&self.header).is_some() {
            let start = self.start_of(cluster);
            let len = self.header.cluster_size().min(self.header.size - start);
            let units = self.units_of(cluster, &(start..start + self.header.cluster_size()));
            self.data().zero(start, len)?;
            self.set(cluster, old.with_data(start, units, &self.header))?;
            return Ok(true);
        }
        let new = match (self.header.version, &self.backing) {
            (_, None) => Entry::default(),
            (3.., Some(_)) => Entry::zeroes(self.header.is_extended()),
            (_, Some(_)) => return Ok(false),
        };
        if old != new {
            self.replace(cluster, new)?;
        }
        Ok(true)
    }

    /// Another entry for a cluster; what the old one named becomes free.
    pub(super) fn replace(&self, cluster: u64, new: Entry) -> io::Result<()> {
        let old = self.entry(cluster)?;
        self.place_table(cluster)?;
        self.set(cluster, new)?;
        self.unlink(old);
        Ok(())
    }
}
