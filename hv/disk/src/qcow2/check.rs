//! Checking: every cluster is counted as often as it is named, no more and no less; and repairing what can be.
#![forbid(unsafe_code)]

use super::entry::{COPIED, Content, Entry, OFFSET};
use super::header::{Header, incompatible};
use super::refcounts::corrupt;
use super::snapshots::snapshots;
use super::{Qcow2, open};
use std::collections::BTreeMap;
use std::io;

/// Clusters whose counts lie together.
const CHUNK: u64 = 4096;
/// Most problems that are told one by one.
const TOLD: usize = 100;

/// What is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// Clusters that nothing names become free.
    Leaks,
    /// Refcounts and the marks that depend on them become right, too.
    All,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Clusters that are counted more often than they are named, and are still after repairs.
    pub leaks: u64,
    /// What makes reading or writing wrong, and still does after repairs.
    pub corruptions: u64,
    /// Leaks that were repaired.
    pub leaks_fixed: u64,
    /// Corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Clusters of the disk that have a place, of all.
    pub allocated: u64,
    /// All clusters of the disk.
    pub total: u64,
    /// Clusters of the disk that are compressed.
    pub compressed: u64,
    /// Bytes of the file up to the end of the last cluster in use.
    pub end: u64,
    /// The first problems, in words.
    pub problems: Vec<String>,
}

impl Checked {
    fn problem(&mut self, text: String) {
        if self.problems.len() < TOLD {
            self.problems.push(text);
        }
    }

    fn wrong(&mut self, text: String) {
        self.corruptions += 1;
        self.problem(text);
    }
}

/// How often each cluster of the file is named.
#[derive(Default)]
struct Names {
    chunks: BTreeMap<u64, Box<[u32; CHUNK as usize]>>,
}

impl Names {
    fn add(&mut self, cluster: u64) {
        let chunk = self.chunks.entry(cluster / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize]));
        let count = &mut chunk[(cluster % CHUNK) as usize];
        *count = count.saturating_add(1);
    }

    fn get(&self, cluster: u64) -> u64 {
        self.chunks.get(&(cluster / CHUNK)).map_or(0, |chunk| chunk[(cluster % CHUNK) as usize].into())
    }
}

/// A walk through everything that the file names.
struct Walk<'a> {
    image: &'a Qcow2,
    names: Names,
    found: Checked,
    /// Clusters behind it cannot be there.
    end: u64,
}

impl Walk<'_> {
    /// Counts the clusters of a part of the file.
    fn name(&mut self, offset: u64, len: u64, what: &str) {
        let size = self.image.header.cluster_size();
        let end = offset.saturating_add(len);
        if end >= self.end.saturating_add(size) {
            return self.found.wrong(format!("{what} at {offset} lies behind the end of the file"));
        }
        for cluster in self.image.cluster_of(offset)..end.div_ceil(size) {
            self.names.add(cluster);
        }
    }

    /// Reads a table of words that was named.
    fn words(&mut self, offset: u64, entries: u64, what: &str) -> Vec<u64> {
        let mut bytes = vec![0; entries as usize * 8];
        if self.image.file.read_padded(&mut bytes, offset).is_err() {
            self.found.wrong(format!("{what} at {offset} cannot be read"));
        }
        bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight"))).collect()
    }

    /// An L1 table with all that it names.
    fn l1(&mut self, l1: &[u64], active: bool) {
        let header = self.image.header.clone();
        let size = header.cluster_size();
        for word in l1.iter().copied().filter(|word| word & OFFSET != 0) {
            let table = word & OFFSET;
            if word & !(OFFSET | COPIED) != 0 {
                self.found.wrong(format!("an entry of an L1 table has reserved bits: {word:#x}"));
            }
            if !table.is_multiple_of(size) {
                self.found.wrong(format!("an L2 table at {table} is not at a cluster"));
                continue;
            }
            self.name(table, size, "an L2 table");
            if table >= self.end {
                continue;
            }
            let words = self.words(table, size / 8, "an L2 table");
            let width = if header.is_extended() { 2 } else { 1 };
            for words in words.chunks_exact(width) {
                let entry = Entry { word: words[0], bits: words.get(1).copied().unwrap_or(0) };
                self.entry(entry, &header, active);
            }
        }
    }

    fn entry(&mut self, entry: Entry, header: &Header, active: bool) {
        if entry == Entry::default() {
            return;
        }
        if entry.has_reserved(header) {
            self.found.wrong(format!("an entry of an L2 table has reserved bits: {:#x}", entry.word));
        }
        let units = if header.is_extended() { 32 } else { 1 };
        if (0..units).any(|unit| entry.content(unit, header) == Content::Invalid) {
            return self.found.wrong(format!("an entry of an L2 table is none: {:#x}", entry.word));
        }
        let (compressed, placed) = (entry.is_packed(), entry.cluster(header));
        if active {
            self.found.compressed += u64::from(compressed);
            self.found.allocated += u64::from(compressed || placed.is_some());
        }
        match (entry.content(0, header), placed) {
            (Content::Packed(at, most), _) => {
                // The end is known in sectors.
                let end = (at + most).min(self.end.next_multiple_of(512));
                self.name(at, end.saturating_sub(at).max(1), "a compressed cluster");
            }
            (_, Some((at, _))) if self.image.data.is_none() => {
                self.name(at, header.cluster_size(), "a cluster")
            }
            _ => {}
        }
    }

    /// What the header and refcounts take.
    fn structures(&mut self, table: &[u64]) {
        let header = self.image.header.clone();
        let size = header.cluster_size();
        self.name(0, size, "the header");
        self.name(header.l1_offset, u64::from(header.l1_entries) * 8, "the L1 table");
        self.name(header.refcount_offset, table.len() as u64 * 8, "the table of refcounts");
        for block in table.iter().copied().filter(|block| *block != 0) {
            match block.is_multiple_of(size) {
                true => self.name(block, size, "a refcount block"),
                false => self.found.wrong(format!("a refcount block at {block} is not at a cluster")),
            }
        }
    }

    fn snapshots(&mut self) {
        let header = self.image.header.clone();
        let list = match snapshots(&self.image.file, &header) {
            Ok(list) => list,
            Err(error) => return self.found.wrong(format!("the table of snapshots: {error}")),
        };
        if header.snapshots > 0 {
            let bytes = list.iter().map(|snapshot| snapshot.bytes).sum();
            self.name(header.snapshots_offset, bytes, "the table of snapshots");
        }
        for snapshot in list {
            self.name(snapshot.l1_offset, u64::from(snapshot.l1_entries) * 8, "the L1 table of a snapshot");
            let l1 = self.words(snapshot.l1_offset, snapshot.l1_entries.into(), "the L1 table of a snapshot");
            self.l1(&l1, false);
        }
    }

    /// Dirty bitmaps, where they are valid: a directory, tables and clusters.
    fn bitmaps(&mut self) {
        const BITMAPS: u32 = 0x2385_2875;
        let header = self.image.header.clone();
        let extension = header.other.iter().find(|(kind, _)| *kind == BITMAPS);
        let Some((_, content)) =
            extension.filter(|_| header.autoclear & super::header::autoclear::BITMAPS != 0)
        else {
            return;
        };
        let long = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 8).map_or(0, |b| u64::from_be_bytes(b.try_into().expect("eight")))
        };
        let (size, offset) = (long(content, 8), long(content, 16));
        if size > 64 << 20 {
            return self.found.wrong(format!("a directory of bitmaps of {size} bytes"));
        }
        self.name(offset, size, "the directory of bitmaps");
        let mut directory = vec![0; size as usize];
        if self.image.file.read_padded(&mut directory, offset).is_err() {
            return self.found.wrong("the directory of bitmaps cannot be read".into());
        }
        let mut rest = &directory[..];
        while rest.len() >= 24 {
            let table = long(rest, 0);
            let entries = u64::from(u32::from_be_bytes(rest[8..12].try_into().expect("four")));
            let name = usize::from(u16::from_be_bytes(rest[18..20].try_into().expect("two")));
            let extra = u32::from_be_bytes(rest[20..24].try_into().expect("four")) as usize;
            if entries * 8 > 8 << 20 {
                return self.found.wrong(format!("a table of a bitmap of {entries} entries"));
            }
            self.name(table, entries * 8, "the table of a bitmap");
            for word in self.words(table, entries, "the table of a bitmap") {
                if word & OFFSET != 0 {
                    self.name(word & OFFSET, header.cluster_size(), "a cluster of a bitmap");
                }
            }
            rest = rest.get((24 + name + extra).next_multiple_of(8)..).unwrap_or_default();
        }
    }
}

impl Qcow2 {
    /// Looks at everything that the file names. To repair, the image has to be open for that, and for nothing else.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or repairs cannot be written.
    pub fn check(&self, repair: Repair) -> io::Result<Checked> {
        let header = &self.header;
        let entries = u64::from(header.refcount_clusters) * header.cluster_size() / 8;
        let table = open::words(&self.file, header.refcount_offset, entries, "its table of refcounts");
        let table = table.map_err(|error| corrupt(&error.to_string()))?;
        let end = self.file.length();
        let total = header.size.div_ceil(header.cluster_size());
        let found = Checked { total, ..Checked::default() };
        let mut walk = Walk { image: self, names: Names::default(), found, end };
        walk.structures(&table);
        let l1 = self.active().tables.l1.clone();
        walk.l1(&l1, true);
        walk.snapshots();
        walk.bitmaps();
        let Walk { names, mut found, .. } = walk;
        self.compare_counts(&names, &table, repair, &mut found)?;
        if repair != Repair::None {
            self.refcounts().write_out(&self.file)?;
        }
        self.check_marks(&table, repair, &mut found)?;
        let bad = header.incompatible & (incompatible::DIRTY | incompatible::CORRUPT);
        if bad != 0 && found.corruptions == 0 && repair == Repair::All {
            self.file.write(&(header.incompatible & !bad).to_be_bytes(), 72)?;
        }
        if repair != Repair::None {
            self.file.sync()?;
        }
        Ok(found)
    }

    /// Compares names with counts.
    fn compare_counts(
        &self,
        names: &Names,
        table: &[u64],
        repair: Repair,
        found: &mut Checked,
    ) -> io::Result<()> {
        let mut refcounts =
            super::refcounts::Refcounts::new(&self.header, table.to_vec(), Default::default());
        let size = self.header.cluster_size();
        let last_named = names.chunks.last_key_value().map_or(0, |(chunk, _)| (chunk + 1) * CHUNK);
        let clusters = self.file.length().div_ceil(size).max(last_named);
        for cluster in 0..clusters {
            let named = names.get(cluster);
            let counted = match refcounts.get(&self.file, cluster) {
                Ok(counted) => counted,
                Err(error) => {
                    found.wrong(format!("refcounts: {error}"));
                    return Ok(());
                }
            };
            if named > 0 || counted > 0 {
                found.end = (cluster + 1) * size;
            }
            if named == counted {
                continue;
            }
            let text = format!("cluster {cluster}: named {named} times, counted {counted} times");
            let is_leak = counted > named;
            let wanted = if is_leak { repair != Repair::None } else { repair == Repair::All };
            if wanted && self.repair_count(cluster, named).is_ok() {
                match is_leak {
                    true => found.leaks_fixed += 1,
                    false => found.corruptions_fixed += 1,
                }
                found.problem(format!("{text}; repaired"));
            } else if is_leak {
                found.leaks += 1;
                found.problem(format!("{text} (a leak)"));
            } else {
                found.wrong(text);
            }
        }
        Ok(())
    }

    fn repair_count(&self, cluster: u64, named: u64) -> io::Result<()> {
        self.refcounts().correct(&self.file, cluster, named)
    }

    /// Whether entries say that a cluster is theirs alone if and only if it is counted once.
    fn check_marks(&self, table: &[u64], repair: Repair, found: &mut Checked) -> io::Result<()> {
        let header = &self.header;
        let (size, width) = (header.cluster_size(), if header.is_extended() { 16 } else { 8 });
        let mut refcounts =
            super::refcounts::Refcounts::new(&self.header, table.to_vec(), Default::default());
        let l1 = self.active().tables.l1.clone();
        let mut mark = |word: u64, place: u64, what: &str| -> io::Result<()> {
            // Blocks that cannot be read were told before.
            let Ok(counted) = refcounts.get(&self.file, self.cluster_of(word & OFFSET)) else {
                return Ok(());
            };
            if (word & COPIED != 0) == (counted == 1) {
                return Ok(());
            }
            let text = format!(
                "an entry of {what} at {place} has the wrong mark for a cluster that is counted {counted} times"
            );
            if repair == Repair::All {
                self.file.write(&(word ^ COPIED).to_be_bytes(), place)?;
                found.corruptions_fixed += 1;
                found.problem(format!("{text}; repaired"));
            } else {
                found.wrong(text);
            }
            Ok(())
        };
        for (index, word) in l1.iter().copied().enumerate() {
            let table = word & OFFSET;
            if table == 0 || !table.is_multiple_of(size) || table >= self.file.length() {
                continue;
            }
            mark(word, header.l1_offset + 8 * index as u64, "the L1 table")?;
            let mut bytes = vec![0; size as usize];
            self.file.read_padded(&mut bytes, table)?;
            for (index, entry) in bytes.chunks_exact(width).enumerate() {
                let word = u64::from_be_bytes(entry[..8].try_into().expect("eight"));
                let entry = Entry { word, bits: 0 };
                if self.data.is_none() && !entry.is_packed() && word & OFFSET != 0 {
                    mark(word, table + (index * width) as u64, "an L2 table")?;
                }
            }
        }
        Ok(())
    }
}
