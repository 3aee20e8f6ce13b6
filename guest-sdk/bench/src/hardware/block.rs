//! ⚠ A virtio block device, many reads at a time.
//!
//! Transport and queue are those of the crate virtio-drivers. Its own block
//! driver has room for five requests; this one has room for 42.
#![allow(unsafe_code, reason = "buffers that a device writes")]

use super::memory::Memory;
use super::{BLOCK, MmioError, MmioTransport, NonNull, REGISTERS, VirtIOHeader};
use crate::meter::failed;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, Transport};

const QUEUE: u16 = 0;
const QUEUE_SIZE: usize = 128;
const VERSION_1: u64 = 1 << 32;
/// Status of a request that was done.
const OK: u8 = 0;

/// The device.
pub struct VirtioDisk {
    transport: MmioTransport<'static>,
    queue: VirtQueue<Memory, QUEUE_SIZE>,
    sectors: u64,
}

/// A read under way, or one that could be.
#[derive(Debug)]
pub struct Slot {
    header: [u8; 16],
    data: Vec<u8>,
    status: [u8; 1],
    token: Option<u16>,
}

impl Slot {
    /// A slot for reads of so many bytes.
    pub fn new(bytes: usize) -> Slot {
        Slot { header: [0; 16], data: alloc::vec![1; bytes], status: [0xff], token: None }
    }
}

fn transport() -> Result<MmioTransport<'static>, MmioError> {
    let registers = NonNull::new(BLOCK as *mut VirtIOHeader).expect("not 0");
    // SAFETY: hv maps this page for good together with the device; nothing else
    // in the guest uses it, but for one driver at a time.
    unsafe { MmioTransport::new(registers, REGISTERS) }
}

impl VirtioDisk {
    /// Initialises the device.
    pub fn open() -> Result<VirtioDisk, String> {
        let error = |error| failed("virtio block", error);
        let mut transport = transport().map_err(|error| failed("virtio block", error))?;
        transport.set_status(DeviceStatus::empty());
        let found = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(found);
        let offered = transport.read_device_features();
        transport.write_driver_features(offered & VERSION_1);
        transport.set_status(found | DeviceStatus::FEATURES_OK);
        let sectors = transport.read_config_space::<u32>(0).map_err(error)?.into();
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false).map_err(error)?;
        transport.finish_init();
        Ok(VirtioDisk { transport, queue, sectors })
    }

    /// How many sectors of 512 bytes it has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Puts a read into the queue. The device may not look at it before it is [notified](Self::notify).
    pub fn submit(&mut self, slot: &mut Slot, sector: u64) -> Result<(), String> {
        slot.header = [0; 16];
        slot.header[8..].copy_from_slice(&sector.to_le_bytes());
        let outputs = &mut [&mut slot.data[..], &mut slot.status[..]];
        // SAFETY: the slot's token keeps it from being submitted or looked at
        // again before `finished` has popped it, and slots outlive the device's work.
        let token = unsafe { self.queue.add(&[&slot.header], outputs) };
        slot.token = Some(token.map_err(|error| failed("virtio block", error))?);
        Ok(())
    }

    /// Notifies the device if it wants to be.
    pub fn notify(&mut self) {
        // The queue's index has to be seen before the device's flag is read (virtio 1.2, 2.7.13.4.1);
        // the crate has a barrier before the index only. Without this one in some 100 million reads
        // finds the device asleep.
        fence(Ordering::SeqCst);
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
    }

    /// The next read that is done: the number of its slot.
    pub fn finished(&mut self, slots: &mut [Slot]) -> Result<Option<usize>, String> {
        let Some(token) = self.queue.peek_used() else { return Ok(None) };
        let number = slots.iter().position(|slot| slot.token == Some(token));
        let number = number.ok_or("virtio block: an answer to nothing")?;
        let slot = &mut slots[number];
        let outputs = &mut [&mut slot.data[..], &mut slot.status[..]];
        // SAFETY: these are the buffers that were added with this token.
        unsafe { self.queue.pop_used(token, &[&slot.header], outputs) }
            .map_err(|error| failed("virtio block", error))?;
        slot.token = None;
        if slot.status != [OK] {
            return Err(failed("virtio block", slot.status));
        }
        Ok(Some(number))
    }
}

impl Drop for VirtioDisk {
    fn drop(&mut self) {
        // What is still in the queue is the device's no longer.
        self.transport.queue_unset(QUEUE);
    }
}
