//! The registers of virtio-mmio (virtio 1.2, section 4.2.2).
#![forbid(unsafe_code)]

use super::view::View;
use super::{QUEUE_SIZE, Running, Shared};
use std::sync::Arc;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio as mmio;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Without the legacy interface.
const VERSION: u32 = 2;
/// "hv".
const VENDOR: u32 = 0x7668;

/// What a device is.
pub(super) struct Identity {
    /// Its kind (virtio 1.2, section 5).
    pub(super) device: u32,
    /// Its own feature bits.
    pub(super) features: u64,
    /// Number of its queues.
    pub(super) queues: usize,
    /// Its configuration.
    pub(super) config: Vec<u8>,
}

/// A queue as the driver sets it up.
#[derive(Clone, Default)]
struct Setup {
    size: u16,
    ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

pub(super) struct VirtioRegisters {
    identity: Identity,
    view: View,
    shared: Arc<Shared>,
    bell: EventFd,
    status: u32,
    /// Which half of the feature bits is shown, and which is written.
    device_half: u32,
    driver_half: u32,
    driver_features: u64,
    queue: usize,
    queues: Vec<Setup>,
}

impl VirtioRegisters {
    pub(super) fn new(identity: Identity, view: View, shared: Arc<Shared>, bell: EventFd) -> Self {
        let queues = vec![Setup::default(); identity.queues];
        VirtioRegisters {
            identity,
            view,
            shared,
            bell,
            status: 0,
            device_half: 0,
            driver_half: 0,
            driver_features: 0,
            queue: 0,
            queues,
        }
    }

    fn features(&self) -> u64 {
        self.identity.features
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    /// Sets the device going with the queues as they are set up now.
    fn go(&mut self) {
        let queues: Option<Vec<Queue>> = self.queues.iter().map(|setup| self.made(setup)).collect();
        let Running { queues: running, epoch } = &mut *self.shared.lock();
        *running = queues.unwrap_or_default();
        *epoch = epoch.wrapping_add(1);
        // What the driver has put into the queues before this.
        let _ = self.bell.write(1);
    }

    /// The queue, if it can be used.
    fn made(&self, setup: &Setup) -> Option<Queue> {
        let mut queue = Queue::new(QUEUE_SIZE).ok()?;
        queue.try_set_size(setup.size).ok()?;
        queue.try_set_desc_table_address(vm_memory::GuestAddress(setup.descriptors)).ok()?;
        queue.try_set_avail_ring_address(vm_memory::GuestAddress(setup.driver)).ok()?;
        queue.try_set_used_ring_address(vm_memory::GuestAddress(setup.device)).ok()?;
        queue.set_event_idx(self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        queue.set_ready(setup.ready);
        queue.is_valid(self.view.memory()).then_some(queue)
    }

    /// Has the device stop: it touches no queue from here on.
    fn halt(&self) {
        self.shared.lock().queues.clear();
    }

    fn set_status(&mut self, status: u32) {
        let begins = status & !self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0;
        self.status = status;
        if status == 0 {
            self.halt();
            (self.driver_features, self.queue) = (0, 0);
            self.queues.fill(Setup::default());
        } else if begins {
            self.go();
        }
    }

    fn read_config(&self, offset: u64, size: u8) -> u64 {
        let mut bytes = [0; 8];
        let config = self.identity.config.get(offset as usize..).unwrap_or_default();
        bytes.iter_mut().take(size.into()).zip(config).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(bytes)
    }
}

/// Half of a 64-bit number: the low one for 0, the high one for 1, none beyond.
fn half(value: u64, which: u32) -> u32 {
    value.checked_shr(which.saturating_mul(32)).unwrap_or(0) as u32
}

fn set_half(value: &mut u64, high: bool, to: u32) {
    let shift = if high { 32 } else { 0 };
    *value = *value & !(0xffff_ffff << shift) | u64::from(to) << shift;
}

impl super::super::RegisterAccess for VirtioRegisters {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let queue = self.queues.get(self.queue);
        u64::from(match offset as u32 {
            mmio::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            mmio::VIRTIO_MMIO_VERSION => VERSION,
            mmio::VIRTIO_MMIO_DEVICE_ID => self.identity.device,
            mmio::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            mmio::VIRTIO_MMIO_DEVICE_FEATURES => half(self.features(), self.device_half),
            mmio::VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |_| QUEUE_SIZE.into()),
            mmio::VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| queue.ready.into()),
            mmio::VIRTIO_MMIO_STATUS => self.status,
            offset @ mmio::VIRTIO_MMIO_CONFIG.. => {
                return self.read_config(u64::from(offset - mmio::VIRTIO_MMIO_CONFIG), size);
            }
            _ => 0,
        })
    }

    fn write(&mut self, offset: u64, _: u8, value: u64) {
        let value = value as u32;
        match offset as u32 {
            mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_half = value,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_half = value,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES => {
                set_half(&mut self.driver_features, self.driver_half != 0, value);
            }
            mmio::VIRTIO_MMIO_QUEUE_SEL => self.queue = value as usize,
            // Until the register is bound to the eventfd.
            mmio::VIRTIO_MMIO_QUEUE_NOTIFY => drop(self.bell.write(1)),
            mmio::VIRTIO_MMIO_STATUS => self.set_status(value),
            offset => {
                if offset == mmio::VIRTIO_MMIO_QUEUE_READY && value == 0 {
                    self.halt();
                }
                let Some(queue) = self.queues.get_mut(self.queue) else { return };
                match offset {
                    mmio::VIRTIO_MMIO_QUEUE_NUM => queue.size = value as u16,
                    mmio::VIRTIO_MMIO_QUEUE_READY => queue.ready = value == 1,
                    mmio::VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut queue.descriptors, false, value),
                    mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, true, value),
                    mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut queue.driver, false, value),
                    mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut queue.driver, true, value),
                    mmio::VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut queue.device, false, value),
                    mmio::VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut queue.device, true, value),
                    _ => {}
                }
            }
        }
    }
}
