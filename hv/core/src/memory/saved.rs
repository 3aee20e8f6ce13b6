//! The saved form of an access map.

use super::{Access, GuestMemory, Template};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A range of an access map, as it stands in snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SavedRange {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset behind its last byte.
    pub end: u64,
    /// [`Access`] bits.
    pub access: u32,
    /// Zero.
    pub reserved: u32,
}

impl Template {
    /// The access map.
    pub fn saved_map(&self) -> Vec<SavedRange> {
        let saved = |(range, access): &(std::ops::Range<u64>, Access)| SavedRange {
            start: range.start,
            end: range.end,
            access: access.bits().into(),
            reserved: 0,
        };
        self.access().iter().map(saved).collect()
    }
}

impl GuestMemory {
    /// Gives the guest access to a range that comes from a file. Returns false if it
    /// has no place behind those that were given before.
    pub fn allow_saved(&mut self, saved: &SavedRange) -> bool {
        let access = u8::try_from(saved.access).ok().and_then(Access::from_bits);
        let range = saved.start..saved.end;
        match access {
            Some(access) if saved.reserved == 0 && self.may_allow(&range, access) => {
                self.allow(range, access);
                true
            }
            _ => false,
        }
    }
}
