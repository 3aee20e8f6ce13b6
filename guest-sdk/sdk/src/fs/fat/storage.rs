//! The disk below the crate.
#![forbid(unsafe_code)]

use crate::block::DiskReader;
use core::ops::Range;
use fatfs::{IoBase, IoError};
use hv_abi::Errno;

/// The disk, as the crate requires it.
pub(super) struct FatStorage {
    reader: DiskReader,
    /// The beginning of the boot sector.
    head: BootHead,
    /// Whether that is not what the disk has.
    enlarged: bool,
}

impl FatStorage {
    pub(super) fn new(mut reader: DiskReader) -> Result<FatStorage, Errno> {
        let mut head = [0; BOOT_HEAD];
        reader.read_exact_at(0, &mut head)?;
        let enlarged = enlarge_small_fat32(&mut head);
        Ok(FatStorage { reader, head, enlarged })
    }

    /// Whether it can be changed. The crate would use clusters that an [enlarged](enlarge_small_fat32) volume does not have.
    pub(super) fn is_writable(&self) -> bool {
        !self.enlarged && !self.reader.disk().read_only()
    }
}

/// The boot sector up to the count of sectors in 32 bits, and the length of a table on FAT32.
type BootHead = [u8; BOOT_HEAD];
const BOOT_HEAD: usize = 40;
const SECTORS_16: Range<usize> = 19..21;
const SECTORS_32: Range<usize> = 32..36;

/// Fewest clusters of a FAT32 volume, by its specification.
const FAT32_CLUSTERS: u32 = 65_525;

/// Makes a FAT32 volume that is smaller than the specification allows appear larger to the crate.
///
/// The crate detects FAT32 by the number of clusters, and refuses a volume whose boot sector contradicts that. Linux uses
/// the boot sector, and `mkfs.fat -F 32` makes such volumes. For read-only use the number has no other purpose: a cluster
/// beyond the disk cannot be read.
///
/// Returns whether it did.
fn enlarge_small_fat32(head: &mut BootHead) -> bool {
    let word = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let long = |at: usize| word(at) | word(at + 2) << 16;
    let (cluster, tables, tables_16) = (u32::from(head[13]), u32::from(head[16]), word(22));
    let sectors = match word(SECTORS_16.start) {
        0 => long(SECTORS_32.start),
        sectors => sectors,
    };
    let before = tables.checked_mul(long(36)).and_then(|tables| tables.checked_add(word(14)));
    let least = before.and_then(|before| before.checked_add(FAT32_CLUSTERS.checked_mul(cluster)?));
    let Some(least) = least.filter(|least| tables_16 == 0 && sectors != 0 && *least > sectors) else {
        return false;
    };
    head[SECTORS_16].fill(0);
    head[SECTORS_32].copy_from_slice(&least.to_le_bytes());
    true
}

#[derive(Debug)]
pub(super) struct StorageError(pub(super) Errno);

impl IoError for StorageError {
    fn is_interrupted(&self) -> bool {
        false
    }
    fn new_unexpected_eof_error() -> Self {
        StorageError(Errno::Invalid)
    }
    fn new_write_zero_error() -> Self {
        StorageError(Errno::ReadOnly)
    }
}

impl IoBase for FatStorage {
    type Error = StorageError;
}

impl fatfs::Read for FatStorage {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StorageError> {
        let at = fatfs::Seek::seek(self, fatfs::SeekFrom::Current(0))?;
        let count =
            embedded_io::Read::read(&mut self.reader, buffer).map_err(|error| StorageError(error.0))?;
        let head = usize::try_from(at).ok().and_then(|at| self.head.get(at..));
        for (byte, told) in buffer[..count].iter_mut().zip(head.unwrap_or_default()) {
            *byte = *told;
        }
        Ok(count)
    }
}

impl fatfs::Seek for FatStorage {
    fn seek(&mut self, to: fatfs::SeekFrom) -> Result<u64, StorageError> {
        let to = match to {
            fatfs::SeekFrom::Start(offset) => embedded_io::SeekFrom::Start(offset),
            fatfs::SeekFrom::End(offset) => embedded_io::SeekFrom::End(offset),
            fatfs::SeekFrom::Current(offset) => embedded_io::SeekFrom::Current(offset),
        };
        embedded_io::Seek::seek(&mut self.reader, to).map_err(|error| StorageError(error.0))
    }
}

impl fatfs::Write for FatStorage {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, StorageError> {
        if !self.is_writable() {
            return Err(StorageError(Errno::ReadOnly));
        }
        let at = fatfs::Seek::seek(self, fatfs::SeekFrom::Current(0))?;
        self.reader.write_all_at(at, bytes).map_err(StorageError)?;
        // The crate changes flags in the boot sector, and reads it again.
        if let Some(head) = usize::try_from(at).ok().and_then(|at| self.head.get_mut(at..)) {
            head.iter_mut().zip(bytes).for_each(|(told, byte)| *told = *byte);
        }
        fatfs::Seek::seek(self, fatfs::SeekFrom::Start(at + bytes.len() as u64))?;
        Ok(bytes.len())
    }

    /// Bytes are with the host as soon as they are written. When they are to be on its disk says `FileSystem::sync`.
    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }
}
