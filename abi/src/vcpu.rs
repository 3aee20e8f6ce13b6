//! Virtual CPUs: what each has of its own, and how they are started.
//!
//! Virtual CPU 0 runs the image's entry point. The others do not run until one that does starts them
//! ([`Hypercall::VcpuStart`](crate::Hypercall::VcpuStart)). All of them see the same memory, of which each has for itself
//!
//! - a hypercall page, with the words that its results come in: virtual CPU `n` calls into the page that is `n` pages behind
//!   [`StartInfo::hypercall_page`](crate::start_info::StartInfo::hypercall_page), and into no other;
//! - a mask of events and a mask of upcalls: virtual CPU 0 those of [`SharedInfo`](crate::shared_info::SharedInfo), the others
//!   those of their [`VcpuInfo`].
//!
//! An event goes to every virtual CPU that has it unmasked, and ends the [`Block`](crate::Hypercall::Block) of those. Which one
//! of them clears the bit is the guest's business. The handler of upcalls is the same for all of them.
//!
//! The guest ends when any of them calls [`Exit`](crate::Hypercall::Exit) or [`Panic`](crate::Hypercall::Panic), or crashes.

use crate::{layout::layout, shared_info::EVENT_WORDS};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most virtual CPUs of a guest.
pub const MAX: u32 = 64;

/// What a virtual CPU other than 0 has of its own of what host and guest share.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Events that do not end [`Block`](crate::Hypercall::Block) on this virtual CPU: written by the guest; all ones at the start.
    pub mask: [u64; EVENT_WORDS],
    /// Whether upcalls are held back, as [`SharedInfo::upcall_mask`](crate::shared_info::SharedInfo::upcall_mask); 1 at the start.
    pub upcall_mask: u32,
    reserved: [u32; 31],
}

layout!(VcpuInfo: 256 { mask @ 0, upcall_mask @ 128, reserved @ 132 });

impl VcpuInfo {
    /// What the host writes before the guest starts.
    pub const START: VcpuInfo = VcpuInfo { mask: [u64::MAX; EVENT_WORDS], upcall_mask: 1, reserved: [0; 31] };
}
