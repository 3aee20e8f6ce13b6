//! ⚠ A virtio block device, many reads at a time.
#![allow(unsafe_code, reason = "buffers that a device writes")]

use super::queue::{self, Part, Queue};
use super::{BLOCK, MmioTransport, transport};
use crate::meter::failed;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;
use hv_guest::abi::EventPort;
use hv_guest::event;
use virtio_drivers::transport::Transport;

const QUEUE: u16 = 0;
/// Status of a request that was done.
const OK: u8 = 0;

/// What the device raises instead of an interrupt.
const EVENT: EventPort = EventPort(1021);

/// The device.
pub struct VirtioDisk {
    transport: MmioTransport<'static>,
    queue: Queue,
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

impl VirtioDisk {
    /// Initialises the device.
    pub fn open() -> Result<VirtioDisk, String> {
        let mut transport = transport(BLOCK)?;
        queue::begin(&mut transport, 0)?;
        let half = |at| transport.read_config_space::<u32>(at).map_err(|error| failed("virtio block", error));
        let sectors = u64::from(half(0)?) | u64::from(half(4)?) << 32;
        let queue = Queue::new(&mut transport, QUEUE)?;
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
        let parts =
            [Part::read(&slot.header), Part::written(&mut slot.data), Part::written(&mut slot.status)];
        // SAFETY: the slot's token keeps it from being submitted or looked at
        // again before `finished` has popped it, and slots outlive the device's work.
        let token = unsafe { self.queue.add(&parts) };
        slot.token = Some(token.ok_or("virtio block: the queue is full")?);
        Ok(())
    }

    /// Notifies the device if it wants to be.
    pub fn notify(&mut self) {
        self.queue.notify(&mut self.transport);
    }

    /// The next read that is done: the number of its slot.
    pub fn finished(&mut self, slots: &mut [Slot]) -> Result<Option<usize>, String> {
        let Some((token, _)) = self.queue.pop() else { return Ok(None) };
        let number = slots.iter().position(|slot| slot.token == Some(token));
        let number = number.ok_or("virtio block: an answer to nothing")?;
        let slot = &mut slots[number];
        slot.token = None;
        if slot.status != [OK] {
            return Err(failed("virtio block", slot.status));
        }
        Ok(Some(number))
    }

    /// Waits until a read is done, as for a paravirtual disk: for an event.
    pub async fn wait(&mut self) {
        poll_fn(|context| {
            loop {
                if !self.queue.arm() {
                    return Poll::Ready(());
                }
                if !event::poll_taken(EVENT, context.waker()) {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }
}

impl Drop for VirtioDisk {
    fn drop(&mut self) {
        // What is still in the queue is the device's no longer.
        self.transport.queue_unset(QUEUE);
    }
}
