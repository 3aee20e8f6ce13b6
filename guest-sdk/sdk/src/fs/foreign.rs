//! Contents of a disk that cannot be read here, by their magic numbers.

use super::Error;
use crate::block::{Disk, DiskReader};

/// Names, and the bytes that identify them: an offset on the disk, and the bytes there.
const MAGICS: [(&str, u64, &[u8]); 12] = [
    ("exFAT", 3, b"EXFAT   "),
    ("NTFS", 3, b"NTFS    "),
    ("XFS", 0, b"XFSB"),
    ("SquashFS", 0, b"hsqs"),
    ("EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    ("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    ("HFS+", 1024, b"H+"),
    ("btrfs", 0x1_0040, b"_BHRfS_M"),
    ("ISO 9660", 0x8001, b"CD001"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("LVM", 0x218, b"LVM2 001"),
    ("swap", 4086, b"SWAPSPACE2"),
];

const GPT: &str = "a partition table (GPT)";
const MBR: &str = "a partition table (MBR)";

/// What is on a disk without a supported file system.
pub(super) fn name(disk: Disk) -> Result<Error, Error> {
    let mut reader = DiskReader::new(disk);
    let mut has = |at: u64, magic: &[u8]| -> Result<bool, Error> {
        let mut bytes = [0; 16];
        let bytes = &mut bytes[..magic.len()];
        if at + bytes.len() as u64 > disk.size() {
            return Ok(false);
        }
        reader.read_exact_at(at, bytes)?;
        Ok(bytes == magic)
    };
    for (name, at, magic) in MAGICS {
        if has(at, magic)? {
            return Ok(Error::Foreign(name));
        }
    }
    if has(512, b"EFI PART")? || has(4096, b"EFI PART")? {
        return Ok(Error::Foreign(GPT));
    }
    let mut sector = [0; 512];
    reader.read_exact_at(0, &mut sector)?;
    Ok(if is_mbr(&sector) { Error::Foreign(MBR) } else { Error::Unsupported })
}

/// Whether there are four partition entries, at least one of them in use, and the signature behind them.
fn is_mbr(sector: &[u8; 512]) -> bool {
    let (entries, signature) = sector[446..].split_at(64);
    let mut entries = entries.chunks_exact(16);
    signature == [0x55, 0xaa]
        && entries.clone().all(|entry| matches!(entry[0], 0 | 0x80))
        && entries.any(|entry| entry[4] != 0 && entry[12..] != [0; 4])
}
