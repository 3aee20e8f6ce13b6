//! The contract between hv and its guests, written once.
//!
//! Everything that crosses the boundary is defined here and nowhere else: the
//! hypercall table, the error numbers, the pages that the host prepares, the
//! shared-memory rings and the requests that travel through them. The host and
//! the guest SDK both import this crate; the ring protocol even runs the same
//! code on both sides.
//!
//! The crate is `no_std` and contains no `unsafe`: it describes bytes, and
//! leaves touching them to whoever owns the memory ([`ring::SharedMemory`]).
//! All integers are little-endian; the only architecture is x86-64.
//!
//! `docs/abi.md` tells the same story per call and per field.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod layout;

pub mod addr;
pub mod device;
pub mod error;
pub mod event;
pub mod free_map;
pub mod hypercall;
pub mod io;
pub mod note;
pub mod ring;
pub mod shared_info;
pub mod start_info;
pub mod tasks;
pub mod vcpu;

pub use addr::{EventPort, GuestAddr};
pub use error::Errno;
pub use hypercall::Hypercall;

/// Bytes of a page, the unit of mapping and protection.
pub const PAGE_SIZE: u64 = 4096;

/// Version of this contract.
///
/// A host runs a guest whose major version is the same and whose minor version
/// is not newer than its own. A change that an old guest could notice raises
/// `major`; a field or call added behind a feature bit raises `minor`.
pub const ABI_VERSION: AbiVersion = AbiVersion { major: 1, minor: 8 };

/// A version of the contract, see [`ABI_VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbiVersion {
    /// Incompatible changes.
    pub major: u16,
    /// Additions that old guests do not notice.
    pub minor: u16,
}

impl AbiVersion {
    /// Whether a host of version `self` can run a guest built for `guest`.
    pub const fn can_run(self, guest: AbiVersion) -> bool {
        self.major == guest.major && guest.minor <= self.minor
    }
}

impl core::fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
