//! Numbers that must not be mixed up.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A virtual address of the guest, as a number.
///
/// On the host it is an allegation, never a pointer: it is resolved against
/// the guest's memory map each time it is used.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct GuestAddr(pub u64);

impl GuestAddr {
    /// The address `bytes` further on, or `None` past the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<GuestAddr> {
        match self.0.checked_add(bytes) {
            Some(a) => Some(GuestAddr(a)),
            None => None,
        }
    }
}

impl core::fmt::Display for GuestAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number of an event channel of one guest, see [`crate::event`].
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(transparent)]
pub struct EventPort(pub u32);
