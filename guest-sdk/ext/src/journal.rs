//! The journal of a file system that was not unmounted: committed blocks that are not yet in their place.
//!
//! Nothing is written: it is only noted which block is to be read from where.

use crate::bytes::{be32, join};
use crate::checksum::{SEED, crc32c};
use crate::{Disk, Error, FileSystem};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// At the start of each block of the journal that is not data.
pub(crate) const MAGIC: u32 = 0xc03b_3998;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCKS: [u32; 2] = [3, 4];
const REVOKE: u32 = 5;

const IS_64BIT: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CHECKSUMS_2: u32 = 0x8;
const CHECKSUMS_3: u32 = 0x10;
const KNOWN: u32 = 0x1 | IS_64BIT | ASYNC_COMMIT | CHECKSUMS_2 | CHECKSUMS_3;
const FAST_COMMIT: u32 = 0x20;

const ESCAPED: u32 = 0x1;
const SAME_UUID: u32 = 0x2;
const DELETED: u32 = 0x4;
const LAST: u32 = 0x8;

/// Where the newest version of a block is, and whether its first bytes were the journal's magic number.
type Place = (u64, bool);

/// Blocks whose newest version is in the journal.
#[derive(Default)]
pub(crate) struct Replay(BTreeMap<u64, Place>);

impl Replay {
    /// Where a block is to be read.
    pub(crate) fn place(&self, block: u64) -> Place {
        self.0.get(&block).copied().unwrap_or((block, false))
    }

    /// The first of some blocks that is in the journal.
    pub(crate) fn next(&self, first: u64, count: u64) -> Option<(u64, Place)> {
        self.0.range(first..first.saturating_add(count)).next().map(|(block, place)| (*block, *place))
    }
}

/// What the journal's own superblock says.
struct Format {
    features: u32,
    /// Seed of checksums.
    seed: u32,
    /// Blocks of the journal, the first that is used for transactions among them.
    first: u32,
    end: u32,
}

impl Format {
    fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    fn has_checksums(&self) -> bool {
        self.has(CHECKSUMS_2 | CHECKSUMS_3)
    }

    fn after(&self, block: u32) -> u32 {
        if block + 1 >= self.end { self.first } else { block + 1 }
    }

    /// The blocks that a descriptor names, with their flags.
    fn tags(&self, descriptor: &[u8]) -> Vec<(u64, u32)> {
        let end = descriptor.len() - if self.has_checksums() { 4 } else { 0 };
        let mut at = 12;
        let mut tags = Vec::new();
        let size = match (self.has(CHECKSUMS_3), self.has(IS_64BIT)) {
            (true, _) => 16,
            (false, is_64bit) => 8 + if self.has(CHECKSUMS_2) { 2 } else { 0 } + if is_64bit { 4 } else { 0 },
        };
        while at + size <= end {
            let flags = match self.has(CHECKSUMS_3) {
                true => be32(descriptor, at + 4),
                false => be32(descriptor, at + 4) & 0xffff,
            };
            let high = if self.has(IS_64BIT) { be32(descriptor, at + 8) } else { 0 };
            tags.push((join(high, be32(descriptor, at)), flags));
            at += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        tags
    }

    /// The blocks that a revocation names.
    fn revoked(&self, block: &[u8]) -> Vec<u64> {
        let entries = block.get(16..be32(block, 12) as usize).unwrap_or_default();
        match self.has(IS_64BIT) {
            true => entries.chunks_exact(8).map(|entry| join(be32(entry, 0), be32(entry, 4))).collect(),
            false => entries.chunks_exact(4).map(|entry| be32(entry, 0).into()).collect(),
        }
    }

    /// Whether a transaction was written whole, by its commit block.
    fn is_committed(&self, block: &[u8]) -> bool {
        !self.has_checksums() || crc32c(self.seed, &[&block[..16], &[0; 4], &block[20..]]) == be32(block, 16)
    }
}

impl<D: Disk> FileSystem<D> {
    pub(crate) fn load_journal(&self) -> Result<Replay, Error<D::Error>> {
        let Some(number) = self.superblock.journal else { return Ok(Replay::default()) };
        if number == 0 {
            return Err(Error::Feature("journal_dev"));
        }
        let inode = self.inode(number)?;
        let place = |block: u32| match self.map(&inode, block.into())?.block {
            Some(place) => Ok(place),
            None => Err(Error::Damaged("a journal with holes")),
        };
        let head = self.block_in_place(place(0)?)?;
        if be32(&head, 0) != MAGIC || !SUPERBLOCKS.contains(&be32(&head, 4)) {
            return Err(Error::Damaged("its journal has no magic number"));
        }
        let features = if be32(&head, 4) == SUPERBLOCKS[1] { be32(&head, 0x28) } else { 0 };
        let seed = crc32c(SEED, &[&head[0x30..0x40]]);
        let format = Format { features, seed, first: be32(&head, 0x14), end: be32(&head, 0x10) };
        let (mut sequence, mut block) = (be32(&head, 0x18), be32(&head, 0x1c));
        if block == 0 {
            return Ok(Replay::default());
        }
        if format.has(FAST_COMMIT) {
            return Err(Error::Feature("fast_commit"));
        }
        if features & !KNOWN != 0 {
            return Err(Error::Feature("of a later version of the journal"));
        }
        let blocks = inode.size() / self.block_size();
        if u64::from(be32(&head, 0xc)) != self.block_size()
            || u64::from(format.end) > blocks
            || !(1..format.end).contains(&format.first)
            || !(format.first..format.end).contains(&block)
        {
            return Err(Error::Damaged("the sizes of its journal"));
        }

        let mut written: BTreeMap<u64, (u32, Place)> = BTreeMap::new();
        let mut revoked: BTreeMap<u64, u32> = BTreeMap::new();
        let (mut writes, mut revocations) = (Vec::new(), Vec::new());
        // Once round at most.
        let mut left = format.end - format.first;
        let mut advance = |block: &mut u32| {
            *block = format.after(*block);
            left = left.saturating_sub(1);
            left > 0
        };
        loop {
            let bytes = self.block_in_place(place(block)?)?;
            if be32(&bytes, 0) != MAGIC || be32(&bytes, 8) != sequence {
                break;
            }
            let mut goes_on = advance(&mut block);
            match be32(&bytes, 4) {
                DESCRIPTOR => {
                    for (target, flags) in format.tags(&bytes) {
                        if flags & DELETED == 0 {
                            writes.push((target, (place(block)?, flags & ESCAPED != 0)));
                        }
                        goes_on = advance(&mut block);
                    }
                }
                REVOKE => revocations.extend(format.revoked(&bytes)),
                COMMIT if format.is_committed(&bytes) => {
                    written.extend(writes.drain(..).map(|(target, place)| (target, (sequence, place))));
                    revoked.extend(revocations.drain(..).map(|target| (target, sequence)));
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
            if !goes_on {
                break;
            }
        }
        // What was freed later may hold something else by now.
        written.retain(|target, (at, _)| {
            revoked.get(target).is_none_or(|revoked| (revoked.wrapping_sub(*at) as i32) < 0)
        });
        Ok(Replay(written.into_iter().map(|(target, (_, place))| (target, place)).collect()))
    }
}
