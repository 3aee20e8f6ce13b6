//! The header of a qcow2 image, and its extensions: bytes in, checked values out, and back.
//!
//! Pure. Every field is checked against the limits below before anything is computed from it.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// `QFI\xfb`
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of a header of version 2, and the least and usual of one of version 3.
const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 104;
const V3_USUAL: usize = 112;

/// Bytes of a cluster, as powers of two: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Most bytes of an L1 table, which is kept in memory. Enough for 2 EiB in clusters of 2 MiB.
pub const MAX_L1: u64 = 32 << 20;
/// Most bytes of a table of refcount blocks, which is kept in memory.
pub const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// Most internal snapshots.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// Most bytes of the name of a file.
const MAX_NAME: u32 = 1023;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Features without which an image must not be opened.
pub mod incompatible {
    /// Refcounts may be wrong.
    pub const DIRTY: u64 = 1;
    /// Tables may be wrong: it must not be written.
    pub const CORRUPT: u64 = 2;
    /// Data is in a file of its own.
    pub const DATA_FILE: u64 = 4;
    /// The byte of the compression type counts.
    pub const COMPRESSION: u64 = 8;
    /// Entries of L2 tables have 16 bytes.
    pub const EXTENDED_L2: u64 = 16;
    /// All that hv knows.
    pub const KNOWN: u64 = 31;
}
/// Refcounts are brought up to date late. hv never does that, and need not be told.
pub const LAZY_REFCOUNTS: u64 = 1;
/// Features that are cleared by who writes the image and does not know them.
pub mod autoclear {
    /// Dirty bitmaps are valid.
    pub const BITMAPS: u64 = 1;
    /// The external data file is a raw image, too.
    pub const RAW_DATA_FILE: u64 = 2;
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Deflate without a header.
    #[default]
    Zlib,
    /// Frames of Zstandard.
    Zstd,
}

/// Why bytes are no header of an image that hv reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Another magic number.
    #[error("it does not begin as a qcow2 image does")]
    Magic,
    /// A version that there is not.
    #[error("qcow2 of version {0}, and hv reads 2 and 3")]
    Version(u32),
    /// It ends within its header.
    #[error("it ends within its header")]
    Truncated,
    /// A field beyond its limits.
    #[error("its header says {field} = {value}, {rule}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What it may say.
        rule: &'static str,
    },
    /// Encrypted.
    #[error(
        "it is encrypted ({0}), which hv does not read; decrypt it with `qemu-img convert`, and encrypt inside the guest"
    )]
    Encrypted(&'static str),
    /// It needs what hv does not know.
    #[error("it needs features that hv does not know: {0}")]
    Features(String),
}

/// What the header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster are this power of two.
    pub cluster_bits: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// Entries of the active L1 table, and its place.
    pub l1_entries: u32,
    /// Byte offset in the file.
    pub l1_offset: u64,
    /// Byte offset in the file.
    pub refcount_offset: u64,
    /// Clusters of the table.
    pub refcount_clusters: u32,
    /// Bits of a refcount are this power of two.
    pub refcount_order: u32,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Byte offset in the file.
    pub snapshots_offset: u64,
    /// See [`incompatible`].
    pub incompatible: u64,
    /// See [`LAZY_REFCOUNTS`].
    pub compatible: u64,
    /// See [`autoclear`].
    pub autoclear: u64,
    /// How clusters are compressed.
    pub compression: Compression,
    /// The name of the backing file.
    pub backing: Option<Vec<u8>>,
    /// The name of its format.
    pub backing_format: Option<Vec<u8>>,
    /// The name of the file with the data.
    pub data_file: Option<Vec<u8>>,
    /// Extensions that hv does not know, as they are: type and bytes.
    pub other: Vec<(u32, Vec<u8>)>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn check(holds: bool, field: &'static str, value: u64, rule: &'static str) -> Result<(), HeaderError> {
    if holds { Ok(()) } else { Err(HeaderError::Field { field, value, rule }) }
}

impl Header {
    /// Bytes of the first cluster, which holds the whole header, by the first bytes of a file.
    ///
    /// # Errors
    ///
    /// If it is no qcow2 image, or says a size that there is not.
    pub fn first_cluster(bytes: &[u8]) -> Result<usize, HeaderError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(HeaderError::Magic);
        }
        let bits = u32_at(bytes, 20).ok_or(HeaderError::Truncated)?;
        check(CLUSTER_BITS.contains(&bits), "cluster_bits", bits.into(), "not 9 to 21")?;
        Ok(1 << bits)
    }

    /// The header at the start of these bytes: the first cluster, or all of a file that is shorter.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or not known to hv.
    pub fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
        let cluster = Header::first_cluster(bytes)? as u64;
        let word = |at| u32_at(bytes, at).ok_or(HeaderError::Truncated);
        let long = |at| u64_at(bytes, at).ok_or(HeaderError::Truncated);
        let version = word(4)?;
        if !matches!(version, 2 | 3) {
            return Err(HeaderError::Version(version));
        }
        let mut header = Header {
            version,
            cluster_bits: word(20)?,
            size: long(24)?,
            l1_entries: word(36)?,
            l1_offset: long(40)?,
            refcount_offset: long(48)?,
            refcount_clusters: word(56)?,
            snapshots: word(60)?,
            snapshots_offset: long(64)?,
            refcount_order: 4,
            ..Header::default()
        };
        let mut length = V2_LENGTH;
        if version == 3 {
            (header.incompatible, header.compatible, header.autoclear) = (long(72)?, long(80)?, long(88)?);
            (header.refcount_order, length) = (word(96)?, word(100)? as usize);
            let rule = "not 104 to a cluster in steps of 8";
            let fits = (V3_LENGTH..=cluster as usize).contains(&length) && length.is_multiple_of(8);
            check(fits, "header_length", length as u64, rule)?;
        }
        match word(32)? {
            0 => {}
            1 => return Err(HeaderError::Encrypted("AES")),
            2 => return Err(HeaderError::Encrypted("LUKS")),
            _ => return Err(HeaderError::Encrypted("a method that is not known")),
        }
        header.extensions(bytes, length)?;
        let compression =
            if length > V3_LENGTH { *bytes.get(V3_LENGTH).ok_or(HeaderError::Truncated)? } else { 0 };
        header.compression = match compression {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return Err(HeaderError::Features(format!("compression type {other}"))),
        };
        let marked = header.incompatible & incompatible::COMPRESSION != 0;
        check(
            marked == (compression != 0),
            "compression_type",
            compression.into(),
            "against its feature bits",
        )?;
        let (at, len) = (long(8)?, word(16)?);
        if at != 0 && len != 0 {
            check(len <= MAX_NAME, "backing_file_size", len.into(), "more than 1023")?;
            let end = at.checked_add(len.into()).filter(|end| *end <= cluster);
            check(end.is_some(), "backing_file_offset", at, "outside the first cluster")?;
            let name = bytes.get(at as usize..at as usize + len as usize).ok_or(HeaderError::Truncated)?;
            header.backing = Some(name.to_vec());
        }
        header.check()?;
        Ok(header)
    }

    fn extensions(&mut self, bytes: &[u8], start: usize) -> Result<(), HeaderError> {
        let (mut at, mut names) = (start, &[][..]);
        // A header without room for an end has none.
        while let (Some(kind), Some(len)) = (u32_at(bytes, at), u32_at(bytes, at + 4)) {
            if kind == EXTENSION_END {
                break;
            }
            let content = (len as usize).checked_add(at + 8).and_then(|end| bytes.get(at + 8..end));
            check(content.is_some(), "extension length", len.into(), "beyond the first cluster")?;
            let content = content.unwrap_or_default();
            match kind {
                EXTENSION_BACKING_FORMAT => self.backing_format = Some(content.to_vec()),
                EXTENSION_DATA_FILE => self.data_file = Some(content.to_vec()),
                EXTENSION_FEATURE_NAMES => names = content,
                _ => self.other.push((kind, content.to_vec())),
            }
            at += 8 + content.len().next_multiple_of(8);
        }
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown == 0 { Ok(()) } else { Err(HeaderError::Features(named(unknown, names))) }
    }

    /// The limits of everything that something is computed from.
    fn check(&self) -> Result<(), HeaderError> {
        let (cluster, aligned) = (self.cluster_size(), "not at a cluster of the file");
        let placed = |offset: u64| offset.is_multiple_of(cluster) && offset < 1 << 56;
        check(placed(self.l1_offset), "l1_table_offset", self.l1_offset, aligned)?;
        check(placed(self.refcount_offset), "refcount_table_offset", self.refcount_offset, aligned)?;
        check(placed(self.snapshots_offset), "snapshots_offset", self.snapshots_offset, aligned)?;
        check(self.refcount_offset != 0, "refcount_table_offset", 0, "which is the header itself")?;
        check(self.refcount_order <= 6, "refcount_order", self.refcount_order.into(), "more than 6")?;
        let table = u64::from(self.refcount_clusters) * cluster;
        let rule = "an empty table, or one of more than 8 MiB";
        let clusters = self.refcount_clusters.into();
        check(clusters != 0 && table <= MAX_REFCOUNT_TABLE, "refcount_table_clusters", clusters, rule)?;
        check(self.snapshots <= MAX_SNAPSHOTS, "nb_snapshots", self.snapshots.into(), "more than 65536")?;
        let entries = u64::from(self.l1_entries);
        check(entries * 8 <= MAX_L1, "l1_size", entries, "a table of more than 32 MiB")?;
        let needed = self.l1_entries_for(self.size);
        check(
            needed.is_some_and(|needed| needed <= entries),
            "l1_size",
            entries,
            "too small for the disk's size",
        )?;
        check(entries == 0 || self.l1_offset != 0, "l1_table_offset", 0, "which is the header itself")?;
        if self.is_extended() {
            check(
                self.cluster_bits >= 14,
                "cluster_bits",
                self.cluster_bits.into(),
                "too small for subclusters",
            )?;
        }
        Ok(())
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Whether entries of L2 tables have 16 bytes.
    pub fn is_extended(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Whether data is in a file of its own.
    pub fn has_data_file(&self) -> bool {
        self.incompatible & incompatible::DATA_FILE != 0
    }

    /// Entries of an L2 table are this power of two.
    pub fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.is_extended() { 4 } else { 3 }
    }

    /// Entries of an L1 table for a disk of this size; `None` beyond all limits.
    pub fn l1_entries_for(&self, size: u64) -> Option<u64> {
        let entries = size.div_ceil(1 << (self.cluster_bits + self.l2_bits()).min(63));
        (entries * 8 <= MAX_L1).then_some(entries)
    }

    /// The header and its extensions as the first bytes of a file.
    ///
    /// # Errors
    ///
    /// If they do not fit into the first cluster.
    pub fn encode(&self) -> Result<Vec<u8>, HeaderError> {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend(MAGIC);
        let mut word = |value: u32| bytes.extend(value.to_be_bytes());
        // The name of the backing file, set below.
        for value in [self.version, 0, 0, 0, self.cluster_bits] {
            word(value);
        }
        for value in [(self.size >> 32) as u32, self.size as u32, 0, self.l1_entries] {
            word(value);
        }
        for value in [self.l1_offset, self.refcount_offset] {
            bytes.extend(value.to_be_bytes());
        }
        bytes.extend(self.refcount_clusters.to_be_bytes());
        bytes.extend(self.snapshots.to_be_bytes());
        bytes.extend(self.snapshots_offset.to_be_bytes());
        if self.version == 3 {
            for value in [self.incompatible, self.compatible, self.autoclear] {
                bytes.extend(value.to_be_bytes());
            }
            bytes.extend(self.refcount_order.to_be_bytes());
            bytes.extend((V3_USUAL as u32).to_be_bytes());
            bytes.push(if self.compression == Compression::Zstd { 1 } else { 0 });
            bytes.resize(V3_USUAL, 0);
        }
        let mut extension = |kind: u32, content: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend((content.len() as u32).to_be_bytes());
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        };
        for (kind, content) in
            [(EXTENSION_BACKING_FORMAT, &self.backing_format), (EXTENSION_DATA_FILE, &self.data_file)]
        {
            if let Some(content) = content {
                extension(kind, content);
            }
        }
        for (kind, content) in &self.other {
            extension(*kind, content);
        }
        extension(EXTENSION_END, &[]);
        if let Some(name) = &self.backing {
            let (at, len) = (bytes.len() as u64, name.len() as u32);
            check(len <= MAX_NAME, "backing_file_size", len.into(), "more than 1023")?;
            bytes[8..16].copy_from_slice(&at.to_be_bytes());
            bytes[16..20].copy_from_slice(&len.to_be_bytes());
            bytes.extend(name);
        }
        let rule = "more than the first cluster; use larger clusters or shorter names";
        check(bytes.len() as u64 <= self.cluster_size(), "header", bytes.len() as u64, rule)?;
        Ok(bytes)
    }
}

/// The names of feature bits, by the image's own table of them: 48 bytes each, type, bit, name.
fn named(bits: u64, table: &[u8]) -> String {
    let mut text = String::new();
    for bit in (0..64).filter(|bit| bits & 1 << bit != 0) {
        let name = table.chunks_exact(48).find(|entry| entry[0] == 0 && entry[1] == bit);
        let name = name.map(|entry| String::from_utf8_lossy(&entry[2..]).trim_end_matches('\0').to_owned());
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = match name {
            Some(name) => write!(text, "{separator}{name} (bit {bit})"),
            None => write!(text, "{separator}bit {bit}"),
        };
    }
    text
}
