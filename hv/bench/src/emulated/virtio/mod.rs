//! virtio devices behind virtio-mmio registers (virtio 1.2, section 4.2), with
//! queues of the crate virtio-queue.
//!
//! A write to the notification register is an ioeventfd that wakes the I/O thread. Both sides tell each other by event
//! indices when they want to be told, requests may have indirect descriptors, and an interrupt is one of hv's events: an irqfd needs
//! an interrupt controller in the kernel, which guests in ring 3 cannot have.

mod block;
mod console;
mod net;
mod registers;
mod view;

pub(super) use view::View;
pub use view::ViewError;

use super::EmulatedError;
use hv_core::device::block::{Disk, EngineKind, engine};
use hv_core::device::console::Output;
use hv_core::device::net::Network;
use hv_core::event::Channel;
use hv_core::memory::GuestMemory;
use hv_core::reactor::Source;
use registers::VirtioRegisters;
use std::sync::{Arc, Mutex, MutexGuard};
use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Offset of the notification register.
pub(super) const NOTIFY: u64 = 0x50;

/// Most entries of a queue.
const QUEUE_SIZE: u16 = 256;

/// A device, ready to be connected.
pub(super) struct Parts {
    pub(super) registers: Box<dyn super::RegisterAccess>,
    pub(super) source: Box<dyn Source>,
    /// What a write to the notification register is to signal.
    pub(super) bell: EventFd,
}

/// What registers and queues share: the queues, once the driver has set the device going.
#[derive(Default)]
struct Shared(Mutex<Running>);

#[derive(Default)]
struct Running {
    /// Empty while the device is not to work.
    queues: Vec<Queue>,
    /// Grows each time that the driver sets the device going.
    epoch: u32,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().expect("no panic while held")
    }
}

fn bell() -> std::io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// A block device: hv's own engine behind a virtio queue. It polls as long as that of the paravirtual disk does.
pub(super) fn block(
    disk: Disk,
    kind: EngineKind,
    memory: &Arc<GuestMemory>,
    channel: Channel,
) -> Result<Parts, EmulatedError> {
    let (shared, bell) = (Arc::<Shared>::default(), bell()?);
    let (config, spin) = (disk.config(), disk.spin());
    let engine = engine::open(Arc::new(disk), QUEUE_SIZE.into(), kind, &Arc::default())?;
    let registers =
        VirtioRegisters::new(block::identity(&config), View::new(memory)?, shared.clone(), bell.try_clone()?);
    let rung = bell.try_clone()?;
    let source = Box::new(block::Block::new(shared, View::new(memory)?, engine, config, bell, channel, spin));
    Ok(Parts { registers: Box::new(registers), source, bell: rung })
}

/// A net device: one of hv's networks behind two virtio queues.
pub(super) fn net(
    network: Box<dyn Network>,
    memory: &Arc<GuestMemory>,
    channel: Channel,
) -> Result<Parts, EmulatedError> {
    let (shared, bell) = (Arc::<Shared>::default(), bell()?);
    let identity = net::identity(&network.config());
    let registers = VirtioRegisters::new(identity, View::new(memory)?, shared.clone(), bell.try_clone()?);
    let rung = bell.try_clone()?;
    let source = Box::new(net::Net::new(shared, View::new(memory)?, network, bell, channel));
    Ok(Parts { registers: Box::new(registers), source, bell: rung })
}

/// A console: what the guest sends goes to this output.
pub(super) fn console(
    output: Box<dyn Output>,
    memory: &Arc<GuestMemory>,
    channel: Channel,
) -> Result<Parts, EmulatedError> {
    let (shared, bell) = (Arc::<Shared>::default(), bell()?);
    let registers =
        VirtioRegisters::new(console::identity(), View::new(memory)?, shared.clone(), bell.try_clone()?);
    let rung = bell.try_clone()?;
    let source = Box::new(console::Console::new(shared, View::new(memory)?, output, bell, channel));
    Ok(Parts { registers: Box::new(registers), source, bell: rung })
}
