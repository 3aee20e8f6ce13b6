//! The superblock: sizes and features.

use crate::Fault;
use crate::bytes::{join, le16, le32};
use crate::checksum::{SEED, crc32c};

/// Where it is on the disk, and its size.
pub(crate) const AT: u64 = 1024;
pub(crate) const SIZE: usize = 1024;

const MAGIC: u16 = 0xef53;
/// The checksum is the last field.
const CHECKSUM: usize = SIZE - 4;

const HAS_JOURNAL: u32 = 0x4;
const METADATA_CHECKSUMS: u32 = 0x400;

const RECOVER: u32 = 0x4;
const IS_64BIT: u32 = 0x80;
const CHECKSUM_SEED: u32 = 0x2000;
const LARGE_DIRECTORIES: u32 = 0x4000;

/// Incompatible features that make no difference here, or are looked at where they do: filetype, needs_recovery, extents,
/// 64bit, mmp, flex_bg, ea_inode, metadata_csum_seed, large_dir, inline_data, encrypt, casefold.
const KNOWN: u32 = 0x2
    | RECOVER
    | 0x40
    | IS_64BIT
    | 0x100
    | 0x200
    | 0x400
    | CHECKSUM_SEED
    | LARGE_DIRECTORIES
    | 0x8000
    | 0x1_0000
    | 0x2_0000;

/// The others that have a name.
const REFUSED: [(u32, &str); 4] =
    [(0x1, "compression"), (0x8, "journal_dev"), (0x10, "meta_bg"), (0x1000, "dirdata")];

/// What is used of the superblock.
#[derive(Debug)]
pub(crate) struct Superblock {
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    /// The block of the superblock itself, which the group descriptors follow.
    pub(crate) first_block: u64,
    pub(crate) inodes: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: usize,
    pub(crate) descriptor_size: usize,
    pub(crate) large_directories: bool,
    /// The journal's inode, if it has to be replayed.
    pub(crate) journal: Option<u32>,
    /// With checksums of metadata, the seed of all of them.
    pub(crate) seed: Option<u32>,
}

impl Superblock {
    pub(crate) fn parse(bytes: &[u8; SIZE]) -> Result<Superblock, Fault> {
        if le16(bytes, 0x38) != MAGIC {
            return Err(Fault::Damaged("its superblock has no magic number"));
        }
        // The first revision has neither features nor a size of inodes.
        let dynamic = le32(bytes, 0x4c) > 0;
        let field = |at| if dynamic { le32(bytes, at) } else { 0 };
        let (compatible, incompatible, read_only) = (field(0x5c), field(0x60), field(0x64));
        if let Some((_, name)) = REFUSED.iter().find(|(bit, _)| incompatible & bit != 0) {
            return Err(Fault::Feature(name));
        }
        if incompatible & !KNOWN != 0 {
            return Err(Fault::Feature("of a later version"));
        }
        let seed = (read_only & METADATA_CHECKSUMS != 0).then(|| match incompatible & CHECKSUM_SEED {
            0 => crc32c(SEED, &[&bytes[0x68..0x78]]),
            _ => le32(bytes, 0x270),
        });
        if seed.is_some() && crc32c(SEED, &[&bytes[..CHECKSUM]]) != le32(bytes, CHECKSUM) {
            return Err(Fault::Damaged("the checksum of its superblock is wrong"));
        }
        let is_64bit = incompatible & IS_64BIT != 0;
        let log_size = le32(bytes, 0x18);
        if log_size > 6 {
            return Err(Fault::Damaged("its size of blocks"));
        }
        let superblock = Superblock {
            block_size: 1024 << log_size,
            blocks: join(if is_64bit { le32(bytes, 0x150) } else { 0 }, le32(bytes, 0x4)),
            // It starts in the second KiB of the disk.
            first_block: u64::from(log_size == 0),
            inodes: le32(bytes, 0),
            inodes_per_group: le32(bytes, 0x28),
            inode_size: if dynamic { le16(bytes, 0x58).into() } else { 128 },
            descriptor_size: if is_64bit { le16(bytes, 0xfe).into() } else { 32 },
            large_directories: incompatible & LARGE_DIRECTORIES != 0,
            journal: (compatible & HAS_JOURNAL != 0 && incompatible & RECOVER != 0)
                .then(|| le32(bytes, 0xe0)),
            seed,
        };
        let block_size = superblock.block_size as usize;
        if !superblock.inode_size.is_power_of_two() || !(128..=block_size).contains(&superblock.inode_size) {
            return Err(Fault::Damaged("its size of inodes"));
        }
        let least = if is_64bit { 64 } else { 32 };
        if !(least..=1024.min(block_size)).contains(&superblock.descriptor_size) {
            return Err(Fault::Damaged("its size of group descriptors"));
        }
        if superblock.inodes_per_group == 0 {
            return Err(Fault::Damaged("its groups without inodes"));
        }
        // A block number times the size of a block is an offset on the disk.
        if superblock.blocks > u64::MAX / superblock.block_size {
            return Err(Fault::Damaged("its count of blocks"));
        }
        Ok(superblock)
    }
}
