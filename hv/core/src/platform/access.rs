//! Ports and pages of emulated hardware: what a guest may reach, and how it did.
//!
//! Only guests that are given such hardware (`hv bench` compares with it) can
//! make these accesses; for all others ports and pages are closed.

use std::ops::Range;

/// What a guest may reach besides the ABI's ports and its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// I/O ports, none of them below 256.
    pub ports: Vec<Range<u16>>,
    /// Pages without memory behind them, at the same guest-physical and
    /// virtual addresses: page-aligned, above the guest's memory and below 4 GiB. Empty for none.
    pub pages: Range<u64>,
}

/// Where an access went.
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
    /// What `address` is.
    pub space: Space,
    /// The port, or the guest-physical address.
    pub address: u64,
    /// Bytes: 1, 2, 4 or, in memory, 8.
    pub size: u8,
    /// What is written; `None` for a read, which waits for [`Vcpu::answer`](super::Vcpu::answer).
    pub value: Option<u64>,
}
