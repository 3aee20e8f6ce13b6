//! Drivers of the hardware that hv emulates for comparison (`hv/bench/src/emulated`).
//!
//! A guest that was not given a device must not touch its registers: the
//! processor keeps it from doing so, and it crashes.

pub mod ata;
pub mod block;
pub mod memory;
pub mod net;
pub mod port;
pub mod uart;

use core::ptr::NonNull;
use virtio_drivers::transport::mmio::{MmioError, MmioTransport, VirtIOHeader};

/// Where the registers of the virtio block device are.
const BLOCK: usize = 0xd000_0000;
/// Where those of the virtio net device are.
const NET: usize = 0xd000_1000;
/// Bytes of the registers of one device.
const REGISTERS: usize = 4096;

/// The port of the ACPI timer.
pub const TIMER: u16 = 0x608;
