//! The file `state` of a snapshot: a fixed header, and the sections that it lists.
//!
//! The file is validated in this order: whether it is a snapshot, whether this version reads its format,
//! whether it is complete, and only then its content.
//!
//! Checksums (XXH3, 64 bits) find bits that flipped and files that were cut. They do not prove where a
//! snapshot is from: an attacker who changes a snapshot can write new checksums, too. So nothing relies on
//! them for safety; what a snapshot says is validated as if a guest had written it. That it *is* the guest
//! that was saved depends on who can write to the folder.

use super::Features;
use hv_abi::ABI_VERSION;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// First bytes of `state`.
const MAGIC: [u8; 8] = *b"hv-snap\0";

/// The format that this version writes, and the newest that it reads.
pub(super) const FORMAT: u32 = 1;

/// Bytes of memory under one checksum.
pub(super) const CHUNK: u64 = 1 << 20;

/// Most bytes that the file may have: the chunks of 64 GiB take half a MiB.
pub(super) const MAX_SIZE: u64 = 4 << 20;

/// What of the guest is in which section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Cpu,
    Offsets,
    Access,
    Devices,
    Name,
    Disks,
    /// Checksums of the memory, one for each [`CHUNK`].
    Chunks,
}

pub(super) const PARTS: [(Part, &str); 7] = [
    (Part::Cpu, "the virtual CPU"),
    (Part::Offsets, "the places"),
    (Part::Access, "the access map"),
    (Part::Devices, "the device table"),
    (Part::Name, "the name"),
    (Part::Disks, "the disks"),
    (Part::Chunks, "the checksums of the memory"),
];

/// Where a section is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Section {
    /// From the start of the file.
    offset: u64,
    len: u64,
    checksum: u64,
}

/// The part of the header that is the same in all formats.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Prefix {
    magic: [u8; 8],
    format: u32,
    /// Bytes of the header.
    size: u32,
    abi_major: u16,
    abi_minor: u16,
    reserved: u32,
}

/// The part of the header with a fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Facts {
    /// What the host's processor has to have.
    pub(super) features: Features,
    /// Guest address of the first byte of memory.
    pub(super) base: u64,
    /// Bytes of memory, and of the file `memory`.
    pub(super) memory: u64,
    /// The guest's clock, in nanoseconds since its start.
    pub(super) time: u64,
    /// Bytes of the file `image`.
    pub(super) image: u64,
    /// Its checksum.
    pub(super) image_checksum: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SnapshotHeader {
    prefix: Prefix,
    facts: Facts,
    sections: [Section; PARTS.len()],
    /// Of everything before it.
    checksum: u64,
}

const _: () = assert!(size_of::<SnapshotHeader>() == 24 + 72 + 7 * 24 + 8);

/// Why the bytes of `state` are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StateFileError {
    Foreign,
    /// What is newer, and what this version knows.
    Newer(String),
    /// Bytes that are missing at least.
    Truncated(u64),
    /// What is damaged.
    Damaged(&'static str),
}

impl SnapshotHeader {
    fn sum(&self) -> u64 {
        let bytes = self.as_bytes();
        xxh3_64(&bytes[..bytes.len() - 8])
    }
}

/// Puts the file together.
pub(super) fn compose(facts: Facts, parts: &[(Part, Vec<u8>); PARTS.len()]) -> Vec<u8> {
    let mut header = SnapshotHeader { facts, ..SnapshotHeader::new_zeroed() };
    header.prefix = Prefix {
        magic: MAGIC,
        format: FORMAT,
        size: size_of::<SnapshotHeader>() as u32,
        abi_major: ABI_VERSION.major,
        abi_minor: ABI_VERSION.minor,
        reserved: 0,
    };
    let mut bytes = vec![0; size_of::<SnapshotHeader>()];
    for ((section, (name, _)), (part, content)) in header.sections.iter_mut().zip(PARTS).zip(parts) {
        assert_eq!(name, *part, "the parts come in their order");
        let (offset, len) = (bytes.len() as u64, content.len() as u64);
        *section = Section { offset, len, checksum: xxh3_64(content) };
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    header.checksum = header.sum();
    bytes[..size_of::<SnapshotHeader>()].copy_from_slice(header.as_bytes());
    bytes
}

/// A file whose header and checksums are right.
pub(super) struct Parsed<'a> {
    pub(super) facts: Facts,
    bytes: &'a [u8],
    sections: [Range<usize>; PARTS.len()],
}

impl Parsed<'_> {
    /// The bytes of a section.
    pub(super) fn part(&self, part: Part) -> &[u8] {
        &self.bytes[self.sections[part as usize].clone()]
    }
}

/// Parses the file; validation of the guest itself comes later.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed<'_>, StateFileError> {
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) || bytes.is_empty() {
        return Err(StateFileError::Foreign);
    }
    let missing = |size: usize| StateFileError::Truncated(size.saturating_sub(bytes.len()) as u64);
    let (prefix, _) = Prefix::read_from_prefix(bytes).map_err(|_| missing(size_of::<SnapshotHeader>()))?;
    if prefix.format > FORMAT {
        return Err(StateFileError::Newer(format!(
            "format {}; this version reads up to {FORMAT}",
            prefix.format
        )));
    }
    let (major, minor) = (prefix.abi_major, prefix.abi_minor);
    let ours = ABI_VERSION;
    if (major, minor) > (ours.major, ours.minor) {
        let known = format!("{}.{}", ours.major, ours.minor);
        return Err(StateFileError::Newer(format!("ABI {major}.{minor}; this version has {known}")));
    }
    let (header, _) =
        SnapshotHeader::read_from_prefix(bytes).map_err(|_| missing(size_of::<SnapshotHeader>()))?;
    let whole = prefix.format == FORMAT
        && prefix.size as usize == size_of::<SnapshotHeader>()
        && prefix.reserved == 0;
    if header.checksum != header.sum() || !whole || major != ours.major {
        return Err(StateFileError::Damaged("the header"));
    }
    let mut sections = [const { 0..0 }; PARTS.len()];
    for ((section, range), (_, name)) in header.sections.iter().zip(&mut sections).zip(PARTS) {
        let end = section.offset.checked_add(section.len).filter(|&end| end <= MAX_SIZE);
        let end = end.ok_or(StateFileError::Damaged("the header"))? as usize;
        *range = section.offset as usize..end;
        let content = bytes.get(range.clone()).ok_or_else(|| missing(end))?;
        if xxh3_64(content) != section.checksum {
            return Err(StateFileError::Damaged(name));
        }
    }
    Ok(Parsed { facts: header.facts, bytes, sections })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let parts = PARTS.map(|(part, name)| (part, name.as_bytes().to_vec()));
        compose(Facts { base: 5, ..Facts::new_zeroed() }, &parts)
    }

    fn refused(bytes: &[u8]) -> StateFileError {
        parse(bytes).err().expect("it is refused")
    }

    #[test]
    fn what_is_put_together_comes_apart() {
        let bytes = file();
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.facts.base, 5);
        for (part, name) in PARTS {
            assert_eq!(parsed.part(part), name.as_bytes());
        }
    }

    #[test]
    fn each_damage_is_called_what_it_is() {
        let bytes = file();
        assert_eq!(refused(b""), StateFileError::Foreign);
        assert_eq!(refused(b"\x7fELF and more"), StateFileError::Foreign);
        for len in 1..bytes.len() - 8 {
            assert!(
                matches!(refused(&bytes[..len]), StateFileError::Truncated(missing) if missing > 0),
                "{len}"
            );
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            refused(&bytes)
        };
        assert_eq!(with(0, 0), StateFileError::Foreign);
        assert_eq!(with(8, 2), StateFileError::Newer("format 2; this version reads up to 1".into()));
        assert!(matches!(with(16, 9), StateFileError::Newer(what) if what.starts_with("ABI 9.")));
        assert_eq!(with(40, 1), StateFileError::Damaged("the header"));
        assert_eq!(with(size_of::<SnapshotHeader>() + 2, 0), StateFileError::Damaged("the virtual CPU"));
    }
}
