//! Which blocks of the disk a file's are: by extents, or by blocks of block numbers.

use crate::bytes::{join, le16, le32};
use crate::checksum::crc32c;
use crate::inode::Inode;
use crate::{Disk, Error, Fault, FileSystem};
use alloc::vec::Vec;

/// Blocks whose numbers the inode has itself.
const DIRECT: u64 = 12;
/// Most levels of blocks of block numbers.
const LEVELS: u32 = 3;

/// Head and entries of a node of the tree of extents.
const EXTENT: usize = 12;
const EXTENT_MAGIC: u16 = 0xf30a;
const MAX_DEPTH: u16 = 5;
/// Lengths beyond are of blocks that were set aside and never written.
const WRITTEN: u64 = 1 << 15;

/// Blocks of a file that lie one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of them on the disk; `None` for a hole, which is zeroes.
    pub block: Option<u64>,
    /// How many; never none.
    pub count: u64,
}

impl<D: Disk> FileSystem<D> {
    /// The run that starts with this block of a file; nothing is said of blocks beyond the file's end.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] and [`Error::Feature`] for what cannot be read, [`Error::Disk`] if the disk failed.
    pub fn map(&self, inode: &Inode, block: u64) -> Result<Run, Error<D::Error>> {
        let run = match inode.has_extents() {
            true => self.map_extents(inode, block)?,
            false => self.map_blocks(inode, block)?,
        };
        let Some(first) = run.block else { return Ok(run) };
        if first == 0 || first.checked_add(run.count).is_none_or(|end| end > self.superblock.blocks) {
            return Err(Error::Damaged("a file with blocks outside the disk"));
        }
        // Data can be in the journal, too.
        match self.replay.next(first, run.count) {
            None => Ok(run),
            Some((at, place)) if at == first => match place {
                (place, false) => Ok(Run { block: Some(place), count: 1 }),
                (_, true) => Err(Error::Feature("data=journal")),
            },
            Some((at, _)) => Ok(Run { count: at - first, ..run }),
        }
    }

    fn map_extents(&self, inode: &Inode, block: u64) -> Result<Run, Error<D::Error>> {
        let mut node = inode.blocks().to_vec();
        let mut end = 1 << 32;
        let mut depth = le16(&node, 6);
        if depth > MAX_DEPTH {
            return Err(Error::Damaged("a tree of extents that is too deep"));
        }
        loop {
            match step(&node, depth, block, end)? {
                Step::Run(run) => return Ok(run),
                Step::Down { node: below, end: before } => {
                    (node, end) = (self.extent_node(inode, below)?, before)
                }
            }
            depth -= 1;
        }
    }

    fn extent_node(&self, inode: &Inode, block: u64) -> Result<Vec<u8>, Error<D::Error>> {
        let node = self.block(block)?;
        if let Some(seed) = inode.seed {
            let tail = EXTENT + EXTENT * usize::from(le16(&node, 4));
            let sum = node.get(..tail).map(|entries| crc32c(seed, &[entries]));
            if sum != Some(le32(&node, tail)) {
                return Err(Error::Damaged("the checksum of extents is wrong"));
            }
        }
        Ok(node)
    }

    fn map_blocks(&self, inode: &Inode, block: u64) -> Result<Run, Error<D::Error>> {
        let Some(mut index) = block.checked_sub(DIRECT) else {
            return Ok(run_in(&inode.blocks()[..DIRECT as usize * 4], block));
        };
        let per_block = self.block_size() / 4;
        for level in 1..=LEVELS {
            if index < per_block.pow(level) {
                let root = le32(inode.blocks(), (DIRECT as usize + level as usize - 1) * 4);
                return self.map_indirect(root, level, index);
            }
            index -= per_block.pow(level);
        }
        Err(Error::Damaged("a file that is too large"))
    }

    /// `index` counts the blocks below `root`, which is so many levels above them.
    fn map_indirect(&self, root: u32, level: u32, index: u64) -> Result<Run, Error<D::Error>> {
        let per_block = self.block_size() / 4;
        let mut number = root;
        for level in (1..=level).rev() {
            // A hole is as large as everything below it.
            let below = per_block.pow(level);
            if number == 0 {
                return Ok(Run { block: None, count: below - index % below });
            }
            let table = self.block(number.into())?;
            let place = index % below / (below / per_block);
            if level == 1 {
                return Ok(run_in(&table, place));
            }
            number = le32(&table, place as usize * 4);
        }
        Err(Error::Damaged("a map without levels"))
    }

    /// Reads a part of a file, all of which lies within it.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn read(&self, inode: &Inode, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error<D::Error>> {
        if inode.is_inline() {
            copy_inline(&inode.inline(), offset, buffer);
            return Ok(());
        }
        let size = self.block_size();
        while !buffer.is_empty() {
            let run = self.map(inode, offset / size)?;
            let skip = offset % size;
            let len = usize::try_from(run.count.saturating_mul(size) - skip)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let (piece, rest) = core::mem::take(&mut buffer).split_at_mut(len);
            match run.block {
                Some(block) => self.read_at(block * size + skip, piece)?,
                None => piece.fill(0),
            }
            (offset, buffer) = (offset + len as u64, rest);
        }
        Ok(())
    }

    /// The data of a small file that is kept in its inode, for [`copy_inline`].
    pub fn inline(&self, inode: &Inode) -> Option<Vec<u8>> {
        inode.is_inline().then(|| inode.inline())
    }

    /// Follows a file's map to its end, so that what is wrong with it is known before it is read.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn check_map(&self, inode: &Inode) -> Result<(), Error<D::Error>> {
        if inode.is_inline() {
            return Ok(());
        }
        let (mut block, end) = (0, inode.size().div_ceil(self.block_size()));
        while block < end {
            block += self.map(inode, block)?.count;
        }
        Ok(())
    }
}

/// Reads a part of a file that is kept in its inode.
pub fn copy_inline(data: &[u8], offset: u64, buffer: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|from| data.get(from..)).unwrap_or_default();
    let (there, hole) = buffer.split_at_mut(from.len().min(buffer.len()));
    there.copy_from_slice(&from[..there.len()]);
    hole.fill(0);
}

/// The run from one of the block numbers in a table on.
fn run_in(table: &[u8], from: u64) -> Run {
    let numbers = table.chunks_exact(4).skip(from as usize).map(|bytes| u64::from(le32(bytes, 0)));
    let first = numbers.clone().next().unwrap_or(0);
    let expected = |index: u64| if first == 0 { 0 } else { first + index };
    let count = (0..).zip(numbers).take_while(|(index, number)| *number == expected(*index)).count();
    Run { block: (first != 0).then_some(first), count: (count as u64).max(1) }
}

/// What a node of the tree of extents says of a block.
enum Step {
    Run(Run),
    /// Another node knows, which has nothing from `end` on.
    Down {
        node: u64,
        end: u64,
    },
}

/// Looks a block up in a node that is so deep, and has nothing from `end` on.
fn step(node: &[u8], depth: u16, block: u64, end: u64) -> Result<Step, Fault> {
    let count = usize::from(le16(node, 2));
    let fits = (count + 1) * EXTENT <= node.len() && count <= le16(node, 4).into();
    if le16(node, 0) != EXTENT_MAGIC || le16(node, 6) != depth || !fits {
        return Err(Fault::Damaged("a tree of extents"));
    }
    let entries = || node[EXTENT..].chunks_exact(EXTENT).take(count);
    let first = |entry: &[u8]| u64::from(le32(entry, 0));
    let next = entries().map(first).find(|first| *first > block).unwrap_or(end).min(end);
    let hole = Run { block: None, count: next.saturating_sub(block).max(1) };
    let Some(entry) = entries().take_while(|entry| first(entry) <= block).last() else {
        return Ok(Step::Run(hole));
    };
    if depth > 0 {
        return Ok(Step::Down { node: join(le16(entry, 8), le32(entry, 4)), end: next });
    }
    let (skip, len) = (block - first(entry), u64::from(le16(entry, 4)));
    let (written, len) = if len > WRITTEN { (false, len - WRITTEN) } else { (true, len) };
    let Some(count) = len.checked_sub(skip).filter(|count| *count > 0) else {
        return Ok(Step::Run(hole));
    };
    let start = join(le16(entry, 6), le32(entry, 8));
    Ok(Step::Run(Run { block: written.then(|| start + skip), count }))
}
