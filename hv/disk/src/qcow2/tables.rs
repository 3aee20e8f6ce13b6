//! The active L1 table and pieces of L2 tables in memory: what is known of where clusters are, without any I/O.
//!
//! Pieces ([slices](Slice)) are looked up by the guest's clusters, not by where a table lies: tables that overlap
//! give each piece its own copy.
#![forbid(unsafe_code)]

use super::entry::{COPIED, Entry, OFFSET};
use super::header::Header;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Bytes of a slice, or of a cluster that is smaller.
const SLICE: u64 = 4096;
/// Most slices in memory that are not dirty: 32 MiB of L2 tables map 256 GiB in clusters of 64 KiB.
const MAX_SLICES: usize = 8192;

/// A piece of an L2 table.
#[derive(Debug)]
struct Slice {
    /// As in the file: one word for each entry, or two.
    words: Box<[u64]>,
}

/// Where a slice is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlicePlace {
    pub(super) number: u64,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// A slice to be written.
#[derive(Debug)]
pub(super) struct DirtySlice {
    pub(super) number: u64,
    /// Byte offset in the file.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Entry(Entry),
    /// This slice has to be read first.
    Missing(SlicePlace),
    /// The table of it lies where none can.
    Invalid,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) l1: Vec<u64>,
    slices: HashMap<u64, Slice>,
    dirty_slices: BTreeSet<u64>,
    /// Those that are being written: they are not dropped until the file has them.
    written_slices: BTreeSet<u64>,
    dirty_l1: BTreeSet<usize>,
    l2_bits: u32,
    words_per_entry: usize,
    slice_bits: u32,
    cluster_size: u64,
}

impl Tables {
    pub(super) fn new(header: &Header, l1: Vec<u64>) -> Self {
        let words_per_entry = if header.is_extended() { 2 } else { 1 };
        let bytes = header.cluster_size().min(SLICE);
        let slice_bits = (bytes / (8 * words_per_entry as u64)).ilog2();
        Tables {
            l1,
            slices: HashMap::new(),
            dirty_slices: BTreeSet::new(),
            written_slices: BTreeSet::new(),
            dirty_l1: BTreeSet::new(),
            l2_bits: header.l2_bits(),
            words_per_entry,
            slice_bits,
            cluster_size: header.cluster_size(),
        }
    }

    /// The entry of a cluster of the guest.
    pub(super) fn get(&self, cluster: u64) -> Known {
        let number = cluster >> self.slice_bits;
        if let Some(slice) = self.slices.get(&number) {
            return Known::Entry(self.entry(slice, cluster));
        }
        let l1 = self.l1.get((cluster >> self.l2_bits) as usize).copied().unwrap_or(0);
        match l1 & OFFSET {
            0 => Known::Entry(Entry::default()),
            table if !table.is_multiple_of(self.cluster_size) => Known::Invalid,
            table => {
                let bytes = (8 * self.words_per_entry) << self.slice_bits;
                let within = number & ((1 << (self.l2_bits - self.slice_bits)) - 1);
                Known::Missing(SlicePlace { number, offset: table + within * bytes as u64, bytes })
            }
        }
    }

    fn entry(&self, slice: &Slice, cluster: u64) -> Entry {
        let at = self.index(cluster);
        let bits = if self.words_per_entry == 2 { slice.words[at + 1] } else { 0 };
        Entry { word: slice.words[at], bits }
    }

    fn index(&self, cluster: u64) -> usize {
        (cluster & ((1 << self.slice_bits) - 1)) as usize * self.words_per_entry
    }

    /// Takes in a slice that was read. One that is there already stays: it may have been changed.
    pub(super) fn insert(&mut self, number: u64, bytes: &[u8]) {
        let kept = |slice: &u64| self.dirty_slices.contains(slice) || self.written_slices.contains(slice);
        if self.slices.len() >= MAX_SLICES
            && let Some(old) = self.slices.keys().copied().find(|old| !kept(old))
        {
            self.slices.remove(&old);
        }
        let words = || {
            bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight"))).collect()
        };
        self.slices.entry(number).or_insert_with(|| Slice { words: words() });
    }

    /// The first cluster of a slice.
    pub(super) fn first_of(&self, number: u64) -> u64 {
        number << self.slice_bits
    }

    /// The clusters of the guest whose entries a slice has.
    pub(super) fn clusters_of(&self, number: u64) -> std::ops::Range<u64> {
        self.first_of(number)..self.first_of(number + 1)
    }

    /// Drops a slice that turned out to be wrong.
    pub(super) fn forget(&mut self, number: u64) {
        self.slices.remove(&number);
    }

    /// Changes an entry whose slice is in memory; false if it is not.
    #[must_use]
    pub(super) fn set(&mut self, cluster: u64, entry: Entry) -> bool {
        let (number, at, words) = (cluster >> self.slice_bits, self.index(cluster), self.words_per_entry);
        let Some(slice) = self.slices.get_mut(&number) else { return false };
        slice.words[at] = entry.word;
        if words == 2 {
            slice.words[at + 1] = entry.bits;
        }
        self.dirty_slices.insert(number);
        true
    }

    /// The L1 entry above a cluster: its index, the place of the table, whether that may be written.
    pub(super) fn table(&self, cluster: u64) -> (usize, u64, bool) {
        let index = (cluster >> self.l2_bits) as usize;
        let word = self.l1.get(index).copied().unwrap_or(0);
        (index, word & OFFSET, word & COPIED != 0)
    }

    /// A new place for a table.
    pub(super) fn set_table(&mut self, index: usize, offset: u64) {
        self.l1[index] = offset | COPIED;
        self.dirty_l1.insert(index);
    }

    /// Dirty slices.
    pub(super) fn dirty(&self) -> usize {
        self.dirty_slices.len()
    }

    /// What is to be written: L1 entries by their index, and slices with their places. They count as clean from now on.
    pub(super) fn take_dirty(&mut self) -> (BTreeMap<usize, u64>, Vec<DirtySlice>) {
        let l1 =
            std::mem::take(&mut self.dirty_l1).into_iter().map(|index| (index, self.l1[index])).collect();
        let mut slices = Vec::new();
        for number in std::mem::take(&mut self.dirty_slices) {
            let cluster = number << self.slice_bits;
            let (_, table, _) = self.table(cluster);
            let Some(slice) = self.slices.get(&number) else { continue };
            let bytes: Vec<u8> = slice.words.iter().flat_map(|word| word.to_be_bytes()).collect();
            let within = number & ((1 << (self.l2_bits - self.slice_bits)) - 1);
            slices.push(DirtySlice { number, offset: table + within * bytes.len() as u64, bytes });
            self.written_slices.insert(number);
        }
        (l1, slices)
    }

    /// What was taken is in the file.
    pub(super) fn written(&mut self) {
        self.written_slices.clear();
    }

    /// What was taken could not be written: it is dirty again.
    pub(super) fn mark_dirty(
        &mut self,
        l1: impl IntoIterator<Item = usize>,
        slices: impl IntoIterator<Item = u64>,
    ) {
        self.dirty_l1.extend(l1);
        self.dirty_slices.extend(slices);
        self.written_slices.clear();
    }
}
