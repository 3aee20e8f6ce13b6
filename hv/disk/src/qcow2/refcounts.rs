//! Refcounts: which clusters of the file are free. Blocks are in memory while they are used, and written by
//! [`write_out`](Refcounts::write_out) before anything that relies on them.
#![forbid(unsafe_code)]

use super::header::{Header, MAX_REFCOUNT_TABLE};
use crate::file::ImageFile;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, ErrorKind};

/// Most bytes of blocks in memory that are not dirty.
const MAX_BLOCKS: u64 = 8 << 20;

/// Whether something fits into the image's structures at all.
fn no_space() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

pub(super) fn corrupt(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Refcounts {
    table: Vec<u64>,
    table_offset: u64,
    dirty_table: BTreeSet<usize>,
    blocks: HashMap<usize, Block>,
    cluster_bits: u32,
    order: u32,
    /// No cluster below is free, unless it was freed meanwhile.
    first_free: u64,
    /// Clusters of tables and of the header, which are never given away, whatever their refcount says.
    pub(super) taken: HashSet<u64>,
}

impl Refcounts {
    pub(super) fn new(header: &Header, table: Vec<u64>, taken: HashSet<u64>) -> Self {
        Refcounts {
            table,
            table_offset: header.refcount_offset,
            dirty_table: BTreeSet::new(),
            blocks: HashMap::new(),
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            first_free: 0,
            taken,
        }
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters that one block counts.
    fn per_block(&self) -> u64 {
        (self.cluster_size() * 8) >> self.order
    }

    fn locate(&self, cluster: u64) -> (usize, usize) {
        ((cluster / self.per_block()) as usize, (cluster % self.per_block()) as usize)
    }

    /// Reads a block, if there is one.
    fn load(&mut self, file: &ImageFile, index: usize) -> io::Result<bool> {
        if self.blocks.contains_key(&index) {
            return Ok(true);
        }
        let offset = match self.table.get(index) {
            None | Some(0) => return Ok(false),
            Some(offset) => *offset,
        };
        if !offset.is_multiple_of(self.cluster_size()) || offset >= 1 << 56 {
            return Err(corrupt("a refcount block is not at a cluster of the file"));
        }
        if self.blocks.len() as u64 * self.cluster_size() >= MAX_BLOCKS
            && let Some(old) = self.blocks.iter().find(|(_, block)| !block.dirty).map(|(old, _)| *old)
        {
            self.blocks.remove(&old);
        }
        let mut bytes = vec![0; self.cluster_size() as usize];
        file.read_padded(&mut bytes, offset)?;
        self.blocks.insert(index, Block { bytes, dirty: false });
        Ok(true)
    }

    pub(super) fn get(&mut self, file: &ImageFile, cluster: u64) -> io::Result<u64> {
        let (index, at) = self.locate(cluster);
        Ok(if self.load(file, index)? { count(&self.blocks[&index].bytes, at, self.order) } else { 0 })
    }

    /// Sets a refcount in a block that is there.
    fn set(&mut self, file: &ImageFile, cluster: u64, value: u64) -> io::Result<()> {
        let (index, at) = self.locate(cluster);
        if !self.load(file, index)? {
            return Err(corrupt("a cluster in use has no refcount"));
        }
        let order = self.order;
        let block = self.blocks.get_mut(&index).expect("loaded");
        set_count(&mut block.bytes, at, order, value);
        block.dirty = true;
        Ok(())
    }

    /// Sets a refcount that was found wrong.
    pub(super) fn correct(&mut self, file: &ImageFile, cluster: u64, value: u64) -> io::Result<()> {
        let most = if self.order == 6 { u64::MAX } else { (1 << (1 << self.order)) - 1 };
        if value > most {
            return Err(corrupt("more names than a refcount can count"));
        }
        self.set(file, cluster, value)
    }

    /// Adds to a refcount, or takes from it; returns what it is then.
    pub(super) fn add(&mut self, file: &ImageFile, cluster: u64, change: i64) -> io::Result<u64> {
        let old = self.get(file, cluster)?;
        let most = if self.order == 6 { u64::MAX } else { (1 << (1 << self.order)) - 1 };
        let new = old.checked_add_signed(change).filter(|new| *new <= most);
        let new = new.ok_or_else(|| corrupt("a refcount below zero or beyond its bits"))?;
        self.set(file, cluster, new)?;
        if new == 0 {
            self.first_free = self.first_free.min(cluster);
        }
        Ok(new)
    }

    /// Finds up to `most` free clusters side by side, of which there are `least` at least, and counts each once.
    /// Returns the first, and how many.
    pub(super) fn allocate(&mut self, file: &ImageFile, least: u64, most: u64) -> io::Result<(u64, u64)> {
        let mut cluster = self.first_free.max(1);
        loop {
            let (index, _) = self.locate(cluster + most);
            if index >= self.table.len() {
                self.grow(file, index)?;
            }
            let mut count = 0;
            while count < most && self.is_free(file, cluster + count)? {
                count += 1;
            }
            if count >= least.max(1) {
                for one in cluster..cluster + count {
                    self.make_block(file, one)?;
                }
                // A block may have been put there.
                if (cluster..cluster + count).any(|one| self.taken.contains(&one)) {
                    continue;
                }
                for one in cluster..cluster + count {
                    self.set(file, one, 1)?;
                }
                if least == 1 {
                    self.first_free = cluster + count;
                }
                return Ok((cluster, count));
            }
            cluster += count + 1;
        }
    }

    fn is_free(&mut self, file: &ImageFile, cluster: u64) -> io::Result<bool> {
        Ok(!self.taken.contains(&cluster) && self.get(file, cluster)? == 0)
    }

    /// Has a block for a cluster. A new one lies in the first of the clusters that it counts: all of them are free.
    fn make_block(&mut self, file: &ImageFile, cluster: u64) -> io::Result<()> {
        let (index, _) = self.locate(cluster);
        if self.load(file, index)? {
            return Ok(());
        }
        let own = (index as u64 * self.per_block()..(index as u64 + 1) * self.per_block())
            .find(|own| !self.taken.contains(own));
        let own = own.ok_or_else(|| corrupt("tables lie where no refcounts are"))?;
        self.put_block(index, own);
        self.set(file, own, 1)
    }

    fn put_block(&mut self, index: usize, cluster: u64) {
        self.taken.insert(cluster);
        self.table[index] = cluster << self.cluster_bits;
        self.dirty_table.insert(index);
        self.blocks.insert(index, Block { bytes: vec![0; self.cluster_size() as usize], dirty: true });
    }

    /// Makes the table large enough for a block of this index: a new one, in the first clusters that the old one
    /// could not count. The old one's clusters are free then.
    fn grow(&mut self, file: &ImageFile, index: usize) -> io::Result<()> {
        self.write_out(file)?;
        let entries = self.cluster_size() / 8;
        let old = (self.table_offset, self.table.len() as u64 / entries);
        let begin = self.table.len() as u64 * self.per_block();
        let clusters = ((index as u64 + 1).div_ceil(entries)).max(old.1 + old.1.div_ceil(2)) + 1;
        if clusters * self.cluster_size() > MAX_REFCOUNT_TABLE {
            return Err(no_space());
        }
        // The new table and the blocks that count both.
        let mut blocks = 1;
        while blocks * self.per_block() < clusters + blocks {
            blocks += 1;
        }
        let first = self.table.len();
        self.table.resize((clusters * entries) as usize, 0);
        for number in 0..blocks {
            self.put_block(first + number as usize, begin + number);
        }
        for cluster in begin..begin + blocks + clusters {
            self.taken.insert(cluster);
            self.set(file, cluster, 1)?;
        }
        self.table_offset = (begin + blocks) << self.cluster_bits;
        self.write_blocks(file)?;
        self.dirty_table.clear();
        let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        file.write(&bytes, self.table_offset)?;
        file.sync()?;
        let mut place = [0; 12];
        place[..8].copy_from_slice(&self.table_offset.to_be_bytes());
        place[8..].copy_from_slice(&(clusters as u32).to_be_bytes());
        file.write(&place, 48)?;
        file.sync()?;
        for cluster in (old.0 >> self.cluster_bits)..(old.0 >> self.cluster_bits) + old.1 {
            self.taken.remove(&cluster);
            self.add(file, cluster, -1)?;
        }
        Ok(())
    }

    fn write_blocks(&mut self, file: &ImageFile) -> io::Result<()> {
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            file.write(&block.bytes, self.table[*index])?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Writes what has changed. New blocks are on the host's disk before the table names them.
    pub(super) fn write_out(&mut self, file: &ImageFile) -> io::Result<()> {
        self.write_blocks(file)?;
        if self.dirty_table.is_empty() {
            return Ok(());
        }
        file.sync()?;
        while let Some(index) = self.dirty_table.first().copied() {
            file.write(&self.table[index].to_be_bytes(), self.table_offset + 8 * index as u64)?;
            self.dirty_table.remove(&index);
        }
        Ok(())
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty_table.is_empty() || self.blocks.values().any(|block| block.dirty)
    }
}

/// One of the refcounts of a block, each of `1 << order` bits.
pub(super) fn count(block: &[u8], at: usize, order: u32) -> u64 {
    if order < 3 {
        let bits = 1 << order;
        let shift = at * bits % 8;
        return u64::from(block[at * bits / 8]) >> shift & ((1 << bits) - 1);
    }
    let bytes = 1 << (order - 3);
    block[at * bytes..][..bytes].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

pub(super) fn set_count(block: &mut [u8], at: usize, order: u32, value: u64) {
    if order < 3 {
        let bits = 1 << order;
        let (byte, shift) = (at * bits / 8, at * bits % 8);
        let mask = ((1u16 << bits) - 1) as u8;
        block[byte] = block[byte] & !(mask << shift) | (value as u8 & mask) << shift;
        return;
    }
    let bytes = 1 << (order - 3);
    block[at * bytes..][..bytes].copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
}
