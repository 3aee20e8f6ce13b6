//! Opening: the header and the tables that are kept in memory.
#![forbid(unsafe_code)]

use super::entry::OFFSET;
use super::header::{Header, autoclear, incompatible};
use super::refcounts::Refcounts;
use super::tables::Tables;
use super::{Active, Qcow2};
use crate::error::ImageError;
use crate::file::ImageFile;
use crate::image::{Image, Numbered};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

impl Qcow2 {
    /// The header of an image, checked.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or begins with no header that hv reads.
    pub fn read_header(file: &ImageFile) -> Result<Header, ImageError> {
        let path = || file.path().to_owned();
        let unreadable = |source| ImageError::Io { path: path(), source };
        let wrong = |source| ImageError::Header { path: path(), source };
        let mut first = vec![0; file.length().min(512) as usize];
        file.read(&mut first, 0).map_err(unreadable)?;
        let cluster = Header::first_cluster(&first).map_err(wrong)?;
        first.resize(file.length().min(cluster as u64) as usize, 0);
        file.read(&mut first, 0).map_err(unreadable)?;
        Header::parse(&first).map_err(wrong)
    }

    pub(crate) fn open(
        mut header: Header,
        file: Numbered,
        data: Option<Numbered>,
        backing: Option<Arc<dyn Image>>,
        writable: bool,
        repair: bool,
    ) -> Result<Qcow2, ImageError> {
        let path = || file.path().to_owned();
        let corrupt = |what| ImageError::Corrupt { path: path(), what };
        if writable && !repair {
            if header.incompatible & incompatible::CORRUPT != 0 {
                return Err(corrupt("it is marked as corrupt"));
            }
            if header.incompatible & incompatible::DIRTY != 0 {
                return Err(ImageError::Dirty { path: path() });
            }
        }
        let l1 = words(&file, header.l1_offset, header.l1_entries.into(), "its L1 table")?;
        let (mut table, mut taken) = (Vec::new(), HashSet::new());
        if writable {
            let entries = u64::from(header.refcount_clusters) * header.cluster_size() / 8;
            table = words(&file, header.refcount_offset, entries, "its table of refcounts")?;
            // Up to the end of its last cluster: what is written there in place may be read at the same time.
            let whole = file.length().next_multiple_of(header.cluster_size());
            if whole > file.length() {
                file.lengthen(whole).map_err(|source| ImageError::Io { path: path(), source })?;
            }
            taken = if repair { HashSet::new() } else { tables(&header, &l1, &table).map_err(corrupt)? };
            // Others that write the image keep dirty bitmaps up to date; hv does not, and so says that they are not.
            let keeps = if header.has_data_file() { autoclear::RAW_DATA_FILE } else { 0 };
            if header.version >= 3 && header.autoclear & !keeps != 0 {
                header.autoclear &= keeps;
                let cleared = file.write(&header.autoclear.to_be_bytes(), 88);
                cleared.map_err(|source| ImageError::Io { path: path(), source })?;
            }
        }
        Ok(Qcow2 {
            active: Mutex::new(Active {
                tables: Tables::new(&header, l1),
                generation: Arc::default(),
                unlinked: Vec::new(),
                retired: Default::default(),
            }),
            refcounts: Mutex::new(Refcounts::new(&header, table, taken)),
            header,
            file,
            data,
            backing,
            writable,
            loading: Mutex::default(),
            placing: Mutex::default(),
            committing: Mutex::default(),
            claimed: Mutex::default(),
            unclaimed: Default::default(),
            changes: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            unpacked: Mutex::default(),
            next_packed: Mutex::new(0),
        })
    }
}

/// A table of words. Its size is within the limits of the header.
pub(super) fn words(
    file: &ImageFile,
    offset: u64,
    entries: u64,
    what: &'static str,
) -> Result<Vec<u64>, ImageError> {
    let corrupt = |what| ImageError::Corrupt { path: file.path().to_owned(), what };
    if offset.checked_add(entries * 8).is_none_or(|end| end > file.length()) {
        return Err(match what {
            "its L1 table" => corrupt("its L1 table ends behind the file"),
            _ => corrupt("its table of refcounts ends behind the file"),
        });
    }
    let mut bytes = vec![0; entries as usize * 8];
    let read = file.read(&mut bytes, offset);
    read.map_err(|source| ImageError::Io { path: file.path().to_owned(), source })?;
    Ok(bytes.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().expect("eight"))).collect())
}

/// The clusters of the header and all tables, each of which has to be there once.
fn tables(header: &Header, l1: &[u64], refcounts: &[u64]) -> Result<HashSet<u64>, &'static str> {
    let (bits, size) = (header.cluster_bits, header.cluster_size());
    let mut taken = HashSet::new();
    let span = |offset: u64, bytes: u64| offset >> bits..(offset + bytes).div_ceil(size);
    let l1_table = span(header.l1_offset, l1.len() as u64 * 8);
    let refcount_table = span(header.refcount_offset, refcounts.len() as u64 * 8);
    let single =
        l1.iter().map(|word| word & OFFSET).chain(refcounts.iter().copied()).filter(|place| *place != 0);
    let single: Vec<u64> = single.collect();
    if single.iter().any(|place| !place.is_multiple_of(size) || *place >= 1 << 56) {
        return Err("a table is not at a cluster of the file");
    }
    let clusters = std::iter::once(0).chain(l1_table).chain(refcount_table);
    for cluster in clusters.chain(single.iter().map(|place| place >> bits)) {
        if !taken.insert(cluster) {
            return Err("two of its tables lie in the same place");
        }
    }
    Ok(taken)
}
