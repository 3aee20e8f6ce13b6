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

/// What the tools of ext4 call a feature that has no name, by its bit.
const NAMELESS: [&str; 32] = [
    "FEATURE_I0",
    "FEATURE_I1",
    "FEATURE_I2",
    "FEATURE_I3",
    "FEATURE_I4",
    "FEATURE_I5",
    "FEATURE_I6",
    "FEATURE_I7",
    "FEATURE_I8",
    "FEATURE_I9",
    "FEATURE_I10",
    "FEATURE_I11",
    "FEATURE_I12",
    "FEATURE_I13",
    "FEATURE_I14",
    "FEATURE_I15",
    "FEATURE_I16",
    "FEATURE_I17",
    "FEATURE_I18",
    "FEATURE_I19",
    "FEATURE_I20",
    "FEATURE_I21",
    "FEATURE_I22",
    "FEATURE_I23",
    "FEATURE_I24",
    "FEATURE_I25",
    "FEATURE_I26",
    "FEATURE_I27",
    "FEATURE_I28",
    "FEATURE_I29",
    "FEATURE_I30",
    "FEATURE_I31",
];

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
        if let Some(bit) = (0..32).find(|bit| incompatible & !KNOWN & 1 << bit != 0) {
            return Err(Fault::Feature(NAMELESS[bit]));
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
