//! ⚠ Drivers of the hardware that hv emulates for comparison (`hv/bench/src/emulated`).
//!
//! A guest that was not given a device must not touch its registers: the
//! processor keeps it from doing so, and it crashes.
#![allow(unsafe_code, reason = "registers of devices")]

pub mod ata;
pub mod block;
pub mod console;
pub mod hpet;
pub mod memory;
pub mod net;
pub mod port;
pub mod queue;
pub mod uart;

use crate::meter::failed;
use alloc::string::String;
use core::ptr::NonNull;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};

/// Where the registers of the virtio block device are.
const BLOCK: usize = 0xd000_0000;
/// Where those of the virtio net device are.
const NET: usize = 0xd000_1000;
/// Where those of the virtio console are.
const CONSOLE: usize = 0xd000_2000;
/// Bytes of the registers of one device.
const REGISTERS: usize = 4096;

/// The port of the ACPI timer.
pub const TIMER: u16 = 0x608;

/// The registers of the virtio device there.
fn transport(address: usize) -> Result<MmioTransport<'static>, String> {
    let registers = NonNull::new(address as *mut VirtIOHeader).ok_or("no device is at address 0")?;
    // SAFETY: hv maps these pages for good together with the devices; nothing else
    // in the guest uses them, but for one driver of each at a time.
    unsafe { MmioTransport::new(registers, REGISTERS) }.map_err(|error| failed("virtio", error))
}
