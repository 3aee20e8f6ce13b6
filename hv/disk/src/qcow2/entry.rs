//! Entries of L2 tables: where the data of a cluster is. Pure.
//!
//! A cluster has 32 subclusters with entries of 16 bytes (extended L2), and is one subcluster otherwise.
#![forbid(unsafe_code)]

use super::header::Header;

/// The refcount is exactly one: the cluster may be written in place.
pub(crate) const COPIED: u64 = 1 << 63;
const PACKED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Byte offsets in the file.
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An entry as it is in a table, with the bits of its subclusters (0 where there are none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) word: u64,
    /// Lower half: allocated; upper half: zero.
    pub(crate) bits: u64,
}

/// What a subcluster reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// What the backing file has there, or zeroes.
    Backing,
    Zeroes,
    /// At this byte offset in the file, which is that of the cluster.
    Data(u64),
    /// A compressed cluster: its place, and the most bytes that it has.
    Packed(u64, u64),
    /// What no image may say.
    Invalid,
}

impl Entry {
    /// One that says where a cluster is, and that it may be written there.
    pub(crate) fn at(offset: u64, extended: bool) -> Entry {
        Entry { word: offset | COPIED, bits: if extended { u64::from(u32::MAX) } else { 0 } }
    }

    /// One that reads as zeroes, without a cluster.
    pub(crate) fn zeroes(extended: bool) -> Entry {
        if extended {
            Entry { word: 0, bits: u64::from(u32::MAX) << 32 }
        } else {
            Entry { word: ZERO, bits: 0 }
        }
    }

    /// A compressed cluster at this byte offset, of so many bytes (at least 1).
    pub(crate) fn packed(offset: u64, len: u64, header: &Header) -> Entry {
        let sectors = (offset + len - 1) / 512 - offset / 512;
        Entry { word: PACKED | sectors << packed_bits(header) | offset, bits: 0 }
    }

    /// What a subcluster (0 to 31, or 0) reads as.
    pub(crate) fn content(self, subcluster: u32, header: &Header) -> Content {
        if self.word & PACKED != 0 {
            if self.word & COPIED != 0 || header.has_data_file() {
                return Content::Invalid;
            }
            let bits = packed_bits(header);
            let offset = self.word & ((1 << bits) - 1);
            let sectors = ((self.word & !(COPIED | PACKED)) >> bits) + 1;
            return Content::Packed(offset, sectors * 512 - offset % 512);
        }
        let offset = self.word & OFFSET;
        if !offset.is_multiple_of(header.cluster_size()) {
            return Content::Invalid;
        }
        // A data file has data at its start, an image has its header there.
        let placed = offset != 0 || (header.has_data_file() && self.word & COPIED != 0);
        if header.is_extended() {
            let (data, zero) = (self.bits >> subcluster & 1 != 0, self.bits >> (32 + subcluster) & 1 != 0);
            return match (data, zero) {
                (true, true) => Content::Invalid,
                (false, true) => Content::Zeroes,
                (true, false) if placed => Content::Data(offset),
                (true, false) => Content::Invalid,
                (false, false) => Content::Backing,
            };
        }
        match (self.word & ZERO != 0 && header.version >= 3, placed) {
            (true, _) => Content::Zeroes,
            (false, true) => Content::Data(offset),
            (false, false) => Content::Backing,
        }
    }

    /// The cluster that it has, whatever is in it: byte offset, and whether it may be written in place.
    pub(crate) fn cluster(self, header: &Header) -> Option<(u64, bool)> {
        let offset = self.word & OFFSET;
        let copied = self.word & COPIED != 0;
        let placed = offset != 0 || (header.has_data_file() && copied);
        (self.word & PACKED == 0 && placed && offset.is_multiple_of(header.cluster_size()))
            .then_some((offset, copied))
    }

    pub(crate) fn is_packed(self) -> bool {
        self.word & PACKED != 0
    }

    /// The same with data in some subclusters, of a cluster that may be written.
    pub(crate) fn with_data(self, offset: u64, subclusters: std::ops::Range<u32>, header: &Header) -> Entry {
        if !header.is_extended() {
            return Entry::at(offset, false);
        }
        let mask = (u64::MAX >> (64 - (subclusters.end - subclusters.start))) << subclusters.start;
        Entry { word: offset | COPIED, bits: (self.bits | mask) & !(mask << 32) }
    }

    /// Bits that the standard keeps at zero, and are not.
    pub(crate) fn has_reserved(self, header: &Header) -> bool {
        if self.is_packed() {
            return false;
        }
        let zero = if header.version >= 3 && !header.is_extended() { ZERO } else { 0 };
        self.word & !(COPIED | OFFSET | zero) != 0
    }
}

/// Bits of the byte offset of a compressed cluster; those above, up to 61, count its sectors.
fn packed_bits(header: &Header) -> u32 {
    62 - (header.cluster_bits - 8)
}
