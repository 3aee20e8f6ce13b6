//! Emulated hardware: what `hv bench` compares paravirtual devices with.
//!
//! Nothing here is for guests that do work. A guest sees such a device only if
//! [`Builder::bus`](hv_core::Builder::bus) gives it one, and then
//! exactly that device's ports or page ([`Opening`]); for every other guest they
//! are closed by the processor (I/O bitmap, page tables), and nothing of this code is reached.
//!
//! ```text
//! port 0x1f0…0x207   ATA disk and its bus master     [`ata`]
//! port 0x3f8…0x3ff   16550 UART (crate vm-superio)  [`uart`]
//! port 0x608…0x60b   ACPI power-management timer    [`timer`]
//! page 0xd0000000    virtio-mmio block              [`virtio`]
//! page 0xd0001000    virtio-mmio net
//! page 0xd0002000    virtio-mmio console
//! page 0xfed00000    HPET                           [`timer`]
//! ```
//!
//! Virtio devices raise an event instead of an interrupt, if the driver's event index asks for it, and guests wait for it as they do for that of a
//! paravirtual device: the nearest to an irqfd that there is without an interrupt controller in the kernel. The
//! others have no interrupts: a guest looks at their registers. Registers are served on the thread that runs the
//! guest; the queues of virtio devices are served by the I/O thread, which their
//! notification register reaches by an ioeventfd.

mod ata;
mod timer;
mod uart;
mod virtio;

use hv_abi::EventPort;
use hv_core::device::block::{Disk, EngineError, EngineKind};
use hv_core::device::console::Output;
use hv_core::device::net::Network;
use hv_core::domain::{Bus, BusError, Wiring};
use hv_core::event::Hub;
use hv_core::memory::GuestMemory;
use hv_core::platform::{BusAccess, Opening, Space};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
pub use virtio::ViewError;

/// What virtio devices raise instead of an interrupt.
const NET_EVENT: EventPort = EventPort(1022);
const BLOCK_EVENT: EventPort = EventPort(1021);
const CONSOLE_EVENT: EventPort = EventPort(1020);

/// A device to give to a guest; at most one of each kind.
pub enum Emulated {
    /// A UART; what the guest sends goes there.
    Uart(Box<dyn Output>),
    /// An ATA disk of 512-byte sectors.
    Ata(File),
    /// A clock of 3.579545 MHz.
    Timer,
    /// A virtio-mmio block device.
    VirtioBlock(Disk, EngineKind),
    /// A virtio-mmio net device.
    VirtioNet(Box<dyn Network>),
    /// A virtio-mmio console; what the guest sends goes there.
    VirtioConsole(Box<dyn Output>),
    /// A high-precision event timer: its main counter, of 10 MHz.
    Hpet,
}

/// Why an emulated device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EmulatedError {
    /// The engine of a disk refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The disk's file does not say how large it is, or there is no eventfd.
    #[error("cannot make an emulated device: {0}")]
    Host(#[from] io::Error),
    /// The guest's memory cannot be shown to virtio queues.
    #[error("cannot show the guest's memory to a virtio device: {0}")]
    Memory(#[from] ViewError),
}

/// Access to the registers of a device.
trait RegisterAccess: Send {
    /// Reads `size` bytes at this offset.
    fn read(&mut self, offset: u64, size: u8) -> u64;
    /// Writes the low `size` bytes of `value`.
    fn write(&mut self, offset: u64, size: u8, value: u64);
}

impl Emulated {
    /// Where its registers are.
    fn place(&self) -> (Space, Range<u64>) {
        match self {
            Emulated::Uart(_) => (Space::Port, 0x3f8..0x400),
            Emulated::Ata(_) => (Space::Port, 0x1f0..0x208),
            Emulated::Timer => (Space::Port, 0x608..0x60c),
            Emulated::VirtioBlock(..) => (Space::Memory, 0xd000_0000..0xd000_1000),
            Emulated::VirtioNet(_) => (Space::Memory, 0xd000_1000..0xd000_2000),
            Emulated::VirtioConsole(_) => (Space::Memory, 0xd000_2000..0xd000_3000),
            Emulated::Hpet => (Space::Memory, 0xfed0_0000..0xfed0_1000),
        }
    }
}

/// The emulated devices of a guest, as its virtual CPU sees them.
#[derive(Default)]
pub struct Hardware {
    /// Devices that are not connected yet.
    devices: Vec<Emulated>,
    registers: Vec<(Space, Range<u64>, Box<dyn RegisterAccess>)>,
}

impl Hardware {
    /// These devices, at most one of each kind.
    pub fn new(devices: Vec<Emulated>) -> Self {
        Hardware { devices, registers: Vec::new() }
    }

    fn make(&mut self, memory: &Arc<GuestMemory>, hub: &Arc<Hub>) -> Result<Wiring, EmulatedError> {
        let mut wiring = Wiring::default();
        for device in self.devices.drain(..) {
            let (space, range) = device.place();
            let mut wire = |parts: virtio::Parts| {
                wiring.bells.push((range.start + virtio::NOTIFY, parts.bell));
                wiring.sources.push(parts.source);
                parts.registers
            };
            let registers: Box<dyn RegisterAccess> = match device {
                Emulated::Uart(output) => Box::new(uart::Uart::new(output)),
                Emulated::Ata(file) => Box::new(ata::Ata::new(file, memory)?),
                Emulated::Timer => Box::new(timer::Timer::new()),
                Emulated::Hpet => Box::new(timer::Hpet::new()),
                Emulated::VirtioBlock(disk, engine) => {
                    wire(virtio::block(disk, engine, memory, hub.channel(BLOCK_EVENT))?)
                }
                Emulated::VirtioNet(network) => wire(virtio::net(network, memory, hub.channel(NET_EVENT))?),
                Emulated::VirtioConsole(output) => {
                    wire(virtio::console(output, memory, hub.channel(CONSOLE_EVENT))?)
                }
            };
            self.registers.push((space, range, registers));
        }
        Ok(wiring)
    }
}

impl Bus for Hardware {
    fn opening(&self) -> Opening {
        let mut opening = Opening::default();
        for (space, range) in self.devices.iter().map(Emulated::place) {
            let pages = &mut opening.pages;
            match space {
                Space::Port => opening.ports.push(range.start as u16..range.end as u16),
                Space::Memory if pages.is_empty() => *pages = range,
                Space::Memory => *pages = pages.start.min(range.start)..pages.end.max(range.end),
            }
        }
        opening
    }

    fn connect(&mut self, memory: &Arc<GuestMemory>, hub: &Arc<Hub>) -> Result<Wiring, BusError> {
        self.make(memory, hub).map_err(|error| BusError(error.into()))
    }

    /// What a read gets is all ones where nothing answers, as on a bus.
    fn access(&mut self, access: &BusAccess) -> Option<u64> {
        let device = self
            .registers
            .iter_mut()
            .find(|(space, range, _)| *space == access.space && range.contains(&access.address));
        match (device, access.value) {
            (Some((_, range, registers)), Some(value)) => {
                registers.write(access.address - range.start, access.size, value);
                None
            }
            (Some((_, range, registers)), None) => {
                Some(registers.read(access.address - range.start, access.size))
            }
            (None, value) => value.is_none().then_some(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests;
