//! Ports and pages of emulated hardware: what a guest may access, and the accesses.
//!
//! Only guests with such hardware (`hv bench` compares with it) can make these accesses. For all others, ports and pages are closed.

use std::ops::Range;

/// What a guest may access besides the ABI's ports and its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// I/O ports, none of them below 256.
    pub ports: Vec<Range<u16>>,
    /// Pages without memory behind them, at the same guest-physical and
    /// virtual addresses: page-aligned, above the guest's memory and below 4 GiB. Empty for none.
    pub pages: Range<u64>,
}

/// The target of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// To an I/O port.
    Port,
    /// To a page without memory, at this guest-physical address.
    Memory,
}

/// An access to emulated hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusAccess {
    /// Which kind of address `address` is.
    pub space: Space,
    /// The port, or the guest-physical address.
    pub address: u64,
    /// Bytes: 1, 2, 4 or, in memory, 8.
    pub size: u8,
    /// The value that is written; `None` for a read.
    pub value: Option<u64>,
}
