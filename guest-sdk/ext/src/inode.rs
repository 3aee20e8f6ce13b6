//! Inodes: what is known of a file, and where that is kept.

use crate::bytes::{join, le16, le32};
use crate::checksum::crc32c;
use crate::{Disk, Error, FileSystem};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// The inode of the root directory.
pub(crate) const ROOT: u32 = 2;

/// What inodes had at first; the rest is extra.
const OLD_SIZE: usize = 128;
const CHECKSUM_LOW: usize = 0x7c;
const CHECKSUM_HIGH: usize = 0x82;
/// The map of blocks, the root of the tree of extents, the target of a short link, or data.
const BLOCKS: Range<usize> = 0x28..0x64;

const FILE: u16 = 0x8000;
const DIRECTORY: u16 = 0x4000;
const LINK: u16 = 0xa000;

const ENCRYPTED: u32 = 0x800;
const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;

/// The extended attribute with what of inline data does not fit [`BLOCKS`]: `system.data`.
const SYSTEM: u8 = 7;
const DATA: &[u8] = b"data";
const ATTRIBUTES: u32 = 0xea02_0000;

/// A file, a directory or something else.
#[derive(Clone, Debug)]
pub struct Inode {
    number: u32,
    size: u64,
    raw: Vec<u8>,
    /// The seed of the checksums of its blocks.
    pub(crate) seed: Option<u32>,
}

impl Inode {
    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When it was last changed, in seconds since 1970.
    pub fn modified(&self) -> i64 {
        // Two bits of an extra field go on where 32 bits end.
        let epoch = if self.has_extra(0x8c) { i64::from(le32(&self.raw, 0x88) & 3) } else { 0 };
        i64::from(le32(&self.raw, 0x10) as i32) + (epoch << 32)
    }

    fn kind(&self) -> u16 {
        le16(&self.raw, 0) & 0xf000
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        self.kind() == FILE
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == DIRECTORY
    }

    pub(crate) fn is_link(&self) -> bool {
        self.kind() == LINK
    }

    fn flags(&self) -> u32 {
        le32(&self.raw, 0x20)
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.flags() & ENCRYPTED != 0
    }

    pub(crate) fn has_extents(&self) -> bool {
        self.flags() & EXTENTS != 0
    }

    pub(crate) fn is_inline(&self) -> bool {
        self.flags() & INLINE != 0
    }

    pub(crate) fn blocks(&self) -> &[u8] {
        &self.raw[BLOCKS]
    }

    /// Whether extra fields reach to this offset.
    fn has_extra(&self, end: usize) -> bool {
        self.raw.len() > OLD_SIZE && OLD_SIZE + usize::from(le16(&self.raw, OLD_SIZE)) >= end
    }

    /// What is kept in the inode itself: the data of small files and directories. What a file has beyond is a hole.
    pub(crate) fn inline(&self) -> Vec<u8> {
        let mut data = self.blocks().to_vec();
        data.extend_from_slice(self.attribute(SYSTEM, DATA).unwrap_or_default());
        data.truncate(usize::try_from(self.size).unwrap_or(usize::MAX));
        data
    }

    /// An extended attribute in the inode.
    fn attribute(&self, space: u8, name: &[u8]) -> Option<&[u8]> {
        let extra = self.raw.get(OLD_SIZE + usize::from(le16(&self.raw, OLD_SIZE))..)?;
        let entries = (le32(extra, 0) == ATTRIBUTES).then(|| extra.get(4..))??;
        let mut entry = entries;
        // Each entry is a head of 16 bytes and a name; four zero bytes are the end.
        while entry.len() >= 16 && le32(entry, 0) != 0 {
            let len = usize::from(entry[0]);
            if entry[1] == space && entry.get(16..16 + len)? == name {
                let at = usize::from(le16(entry, 2));
                return entries.get(at..)?.get(..le32(entry, 8) as usize);
            }
            entry = entry.get((16 + len).next_multiple_of(4)..)?;
        }
        None
    }

    /// Whether its checksum is right, and the seed of those of its blocks.
    fn check(&self, seed: u32) -> (bool, u32) {
        let raw = &self.raw;
        let seed = crc32c(seed, &[&self.number.to_le_bytes(), &raw[0x64..0x68]]);
        let old = [&raw[..CHECKSUM_LOW], &[0; 2], &raw[CHECKSUM_LOW + 2..OLD_SIZE]];
        let low = le16(raw, CHECKSUM_LOW);
        let right = if self.has_extra(CHECKSUM_HIGH + 2) {
            let extra = [&raw[OLD_SIZE..CHECKSUM_HIGH], &[0; 2], &raw[CHECKSUM_HIGH + 2..]];
            crc32c(crc32c(seed, &old), &extra) == u32::from(le16(raw, CHECKSUM_HIGH)) << 16 | u32::from(low)
        } else {
            // Where there is no room for the upper half, the lower one has to do.
            crc32c(crc32c(seed, &old), &[&raw[OLD_SIZE..]]) as u16 == low
        };
        (right, seed)
    }
}

impl<D: Disk> FileSystem<D> {
    /// The inode of a number.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if there is none of that number or its checksum is wrong,
    /// [`Error::Disk`] if the disk failed.
    pub fn inode(&self, number: u32) -> Result<Inode, Error<D::Error>> {
        let superblock = &self.superblock;
        if number == 0 || number > superblock.inodes {
            return Err(Error::Damaged("an inode that there is not"));
        }
        let (group, index) =
            ((number - 1) / superblock.inodes_per_group, (number - 1) % superblock.inodes_per_group);
        let table = self.inode_table(group)?;
        let at = u64::from(index) * superblock.inode_size as u64;
        let block = self.block(table.saturating_add(at / superblock.block_size))?;
        let at = (at % superblock.block_size) as usize;
        let raw = block[at..at + superblock.inode_size].to_vec();

        let mut inode = Inode { number, size: le32(&raw, 4).into(), raw, seed: None };
        // The upper half of a directory's size was something else once.
        if inode.is_file() || superblock.large_directories {
            inode.size = join(le32(&inode.raw, 0x6c), inode.size as u32);
        }
        if let Some(seed) = superblock.seed {
            let (right, seed) = inode.check(seed);
            if !right {
                return Err(Error::Damaged("the checksum of an inode is wrong"));
            }
            inode.seed = Some(seed);
        }
        Ok(inode)
    }

    /// The first block of a group's inodes.
    fn inode_table(&self, group: u32) -> Result<u64, Error<D::Error>> {
        let superblock = &self.superblock;
        let size = superblock.descriptor_size;
        let per_block = superblock.block_size / size as u64;
        let group_in_block = (u64::from(group) % per_block) as usize;
        let block = self.block(superblock.first_block + 1 + u64::from(group) / per_block)?;
        let descriptor = &block[group_in_block * size..][..size];
        if let Some(seed) = superblock.seed {
            let sum = [&group.to_le_bytes(), &descriptor[..0x1e], &[0; 2], &descriptor[0x20..]];
            if crc32c(seed, &sum) as u16 != le16(descriptor, 0x1e) {
                return Err(Error::Damaged("the checksum of a group descriptor is wrong"));
            }
        }
        let high = if size >= 64 { le32(descriptor, 0x28) } else { 0 };
        Ok(join(high, le32(descriptor, 8)))
    }

    /// All bytes of a small file: a link, a directory's block.
    pub(crate) fn content(&self, inode: &Inode, most: u64) -> Result<Vec<u8>, Error<D::Error>> {
        if inode.size > most {
            return Err(Error::Damaged("a link that is too long"));
        }
        let mut bytes = vec![0; inode.size as usize];
        self.read(inode, 0, &mut bytes)?;
        Ok(bytes)
    }
}
