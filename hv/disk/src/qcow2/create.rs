//! New images.
#![forbid(unsafe_code)]

use super::header::{Compression, Header, HeaderError, LAZY_REFCOUNTS, autoclear, incompatible};
use super::refcounts::set_count;
use crate::format::Format;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a new image is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes of the disk, a multiple of 512.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits of a refcount: a power of two from 1 to 64; 16 in version 2.
    pub refcount_bits: u32,
    /// Subclusters.
    pub extended_l2: bool,
    /// Others may bring refcounts up to date late.
    pub lazy_refcounts: bool,
    /// How clusters are compressed.
    pub compression: Compression,
    /// The name of the backing file, and its format.
    pub backing: Option<(Vec<u8>, Format)>,
    /// The name of a file for the data, and whether that is to be a raw image as well.
    pub data_file: Option<(Vec<u8>, bool)>,
}

impl CreateOptions {
    /// As `qemu-img create` makes them without options.
    pub fn new(size: u64) -> Self {
        CreateOptions {
            size,
            version: 3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            extended_l2: false,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            backing: None,
            data_file: None,
        }
    }

    fn check(&self) -> Result<(), CreateError> {
        let invalid = |what| Err(CreateError::Option(what));
        let needs_3 = self.extended_l2
            || self.lazy_refcounts
            || self.refcount_bits != 16
            || self.compression != Compression::Zlib
            || self.data_file.is_some();
        if !self.size.is_multiple_of(512) {
            return invalid("the size is no multiple of 512");
        }
        if !matches!(self.version, 2 | 3) {
            return invalid("the version is 2 or 3");
        }
        if self.version == 2 && needs_3 {
            return invalid(
                "version 2 has refcounts of 16 bits, zlib, and none of the newer features; use version 3",
            );
        }
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return invalid("a cluster has 512 bytes to 2 MiB, a power of two");
        }
        if self.extended_l2 && self.cluster_size < 16 << 10 {
            return invalid("clusters with subclusters have 16 KiB at least");
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return invalid("a refcount has 1, 2, 4, 8, 16, 32 or 64 bits");
        }
        if self.backing.is_some() && matches!(self.data_file, Some((_, true))) {
            return invalid("an image whose data file is a raw image has no backing file");
        }
        Ok(())
    }
}

/// Why an image is not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Options that there are not.
    #[error("{0}")]
    Option(&'static str),
    /// They make no header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The host.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes an empty image to an empty file; what is not written is a hole.
///
/// # Errors
///
/// If the options fit no image, or the file cannot be written.
pub fn create(file: &File, options: &CreateOptions) -> Result<Header, CreateError> {
    options.check()?;
    let mut header = Header {
        version: options.version,
        cluster_bits: options.cluster_size.ilog2(),
        size: options.size,
        refcount_order: options.refcount_bits.ilog2(),
        compression: options.compression,
        ..Header::default()
    };
    let mut feature = |set: bool, bit: u64| header.incompatible |= if set { bit } else { 0 };
    feature(options.extended_l2, incompatible::EXTENDED_L2);
    feature(options.compression != Compression::Zlib, incompatible::COMPRESSION);
    feature(options.data_file.is_some(), incompatible::DATA_FILE);
    header.compatible = if options.lazy_refcounts { LAZY_REFCOUNTS } else { 0 };
    if let Some((name, format)) = &options.backing {
        header.backing = Some(name.clone());
        header.backing_format = Some(format.name().into());
    }
    if let Some((name, raw)) = &options.data_file {
        header.data_file = Some(name.clone());
        header.autoclear = if *raw { autoclear::RAW_DATA_FILE } else { 0 };
    }
    let size = header.cluster_size();
    let entries = header.l1_entries_for(options.size);
    let entries = entries.ok_or(CreateError::Option("the disk is too large for clusters of this size"))?;
    let l1_clusters = (entries * 8).div_ceil(size).max(1);
    let per_block = (size * 8) >> header.refcount_order;
    // Header, table of blocks, blocks, L1 table; blocks count them all.
    let (mut table, mut blocks) = (1, 1);
    loop {
        let all = 1 + table + blocks + l1_clusters;
        let (needed, needed_table) = (all.div_ceil(per_block), (blocks * 8).div_ceil(size));
        if needed <= blocks && needed_table <= table {
            break;
        }
        (table, blocks) = (needed_table.max(table), needed.max(blocks));
    }
    header.refcount_offset = size;
    header.refcount_clusters = table as u32;
    header.l1_entries = entries as u32;
    header.l1_offset = (1 + table + blocks) * size;
    let first = header.encode()?;
    let all = 1 + table + blocks + l1_clusters;
    for block in 0..blocks {
        let mut bytes = vec![0; size as usize];
        for at in 0..all.saturating_sub(block * per_block).min(per_block) {
            set_count(&mut bytes, at as usize, header.refcount_order, 1);
        }
        let offset = (1 + table + block) * size;
        file.write_all_at(&bytes, offset)?;
        file.write_all_at(&offset.to_be_bytes(), size + block * 8)?;
    }
    file.set_len(all * size)?;
    file.sync_data()?;
    file.write_all_at(&first, 0)?;
    Ok(header)
}
