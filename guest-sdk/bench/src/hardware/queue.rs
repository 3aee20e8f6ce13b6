//! ⚠ A split virtqueue (virtio 1.2, section 2.7), driven as a full driver does: event indices both ways, and an indirect table for each request.
//!
//! That of the crate virtio-drivers compares its index with the device's without regard to wrap-around, never tells the device when it wants an
//! interrupt, and allocates a table for each request: it would be a weak rival.
#![allow(unsafe_code, reason = "memory that a device shares")]

use super::memory::{Memory, physical};
use super::{MmioTransport, NonNull};
use crate::meter::failed;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU16, Ordering, fence};
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE};

/// Entries of a queue.
pub const SIZE: usize = 128;
/// Most parts of a request.
const PARTS: usize = 4;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const INDIRECT_DESCRIPTORS: u64 = 1 << 28;
const EVENT_INDEX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[repr(C)]
struct Available {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [u16; SIZE],
    used_event: AtomicU16,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct UsedElement {
    id: u32,
    len: u32,
}

#[repr(C, align(4))]
struct Used {
    flags: AtomicU16,
    index: AtomicU16,
    ring: [UsedElement; SIZE],
    available_event: AtomicU16,
}

/// What queue and device share. Zeros are a valid value.
#[repr(C)]
struct Shared {
    descriptors: [Descriptor; SIZE],
    available: Available,
    used: Used,
    tables: [[Descriptor; PARTS]; SIZE],
}

const PAGES: usize = size_of::<Shared>().div_ceil(PAGE_SIZE);

/// A part of a request.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    address: u64,
    len: u32,
    /// The device writes it.
    writable: bool,
}

impl Part {
    /// Bytes that the device reads.
    pub fn read(bytes: &[u8]) -> Part {
        Part { address: physical(bytes.as_ptr() as usize), len: bytes.len() as u32, writable: false }
    }

    /// Bytes that the device writes.
    pub fn written(bytes: &mut [u8]) -> Part {
        Part { address: physical(bytes.as_mut_ptr() as usize), len: bytes.len() as u32, writable: true }
    }
}

/// One queue of a device.
pub struct Queue {
    shared: NonNull<Shared>,
    number: u16,
    free: Vec<u16>,
    available: u16,
    /// The index at the last [`should_notify`](Self::should_notify).
    told: u16,
    used: u16,
}

/// Resets a device and settles on features: those that all devices here have, and these of its own. The queues are set up next.
pub fn begin(transport: &mut MmioTransport<'static>, own: u64) -> Result<(), String> {
    transport.set_status(DeviceStatus::empty());
    let found = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(found);
    let wanted = VERSION_1 | EVENT_INDEX | INDIRECT_DESCRIPTORS;
    let offered = transport.read_device_features();
    if offered & wanted != wanted {
        return Err(failed("virtio: features", offered));
    }
    transport.write_driver_features(wanted | offered & own);
    transport.set_status(found | DeviceStatus::FEATURES_OK);
    Ok(())
}

impl Queue {
    /// Sets a queue of the device up.
    pub fn new(transport: &mut MmioTransport<'static>, number: u16) -> Result<Queue, String> {
        if (transport.max_queue_size(number) as usize) < SIZE {
            return Err(failed("virtio: the size of a queue", number));
        }
        let (_, memory) = Memory::dma_alloc(PAGES, BufferDirection::Both);
        let shared = memory.cast::<Shared>();
        let at = shared.as_ptr();
        // SAFETY: addresses of fields of memory that is there; nothing is read.
        let places = unsafe {
            [
                &raw const (*at).descriptors as usize,
                &raw const (*at).available as usize,
                &raw const (*at).used as usize,
            ]
        };
        let [descriptors, driver, device] = places.map(physical);
        transport.queue_set(number, SIZE as u32, descriptors, driver, device);
        Ok(Queue { shared, number, free: (0..SIZE as u16).rev().collect(), available: 0, told: 0, used: 0 })
    }

    /// Puts a request into the queue; returns its token, or `None` if the queue is full. The device may not look at it before it is notified.
    ///
    /// # Safety
    ///
    /// Nothing else may use the parts until [`pop`](Self::pop) has returned the token.
    pub unsafe fn add(&mut self, parts: &[Part]) -> Option<u16> {
        if parts.is_empty() || parts.len() > PARTS {
            return None;
        }
        let token = self.free.pop()?;
        let (at, slot) = (self.shared.as_ptr(), usize::from(token));
        // SAFETY: `shared` is memory of this queue only, and the device does not use what is neither available nor in flight: this
        // descriptor and its table.
        unsafe {
            let whole = match *parts {
                [only] => descriptor(&only, 0, 0),
                _ => {
                    let table = &raw mut (*at).tables[slot];
                    for (n, part) in parts.iter().enumerate() {
                        let next = if n + 1 < parts.len() { NEXT } else { 0 };
                        write_volatile(&raw mut (*table)[n], descriptor(part, next, n as u16 + 1));
                    }
                    let len = (parts.len() * size_of::<Descriptor>()) as u32;
                    Descriptor { address: physical(table as usize), len, flags: INDIRECT, next: 0 }
                }
            };
            write_volatile(&raw mut (*at).descriptors[slot], whole);
            write_volatile(&raw mut (*at).available.ring[usize::from(self.available) % SIZE], token);
            self.available = self.available.wrapping_add(1);
            (*at).available.index.store(self.available, Ordering::Release);
        }
        Some(token)
    }

    /// Whether the device wants to be notified of what was added since the last call.
    fn should_notify(&mut self) -> bool {
        // The index has to be seen before the device's event index is read (section 2.7.13.4.1).
        fence(Ordering::SeqCst);
        // SAFETY: as in `add`; the field is atomic.
        let event = unsafe { (*self.shared.as_ptr()).used.available_event.load(Ordering::Relaxed) };
        let added = self.available.wrapping_sub(core::mem::replace(&mut self.told, self.available));
        self.available.wrapping_sub(event).wrapping_sub(1) < added
    }

    /// Notifies the device of what was added, if it wants that.
    pub fn notify(&mut self, transport: &mut MmioTransport<'static>) {
        if self.should_notify() {
            transport.notify(self.number);
        }
    }

    /// The next request that the device is done with, and how many bytes it has written.
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: as in `add`; the device has written this element before the index.
        let element = unsafe {
            read_volatile(&raw const (*self.shared.as_ptr()).used.ring[usize::from(self.used) % SIZE])
        };
        self.used = self.used.wrapping_add(1);
        let token = element.id as u16;
        self.free.push(token);
        Some((token, element.len))
    }

    fn is_empty(&self) -> bool {
        // SAFETY: as in `add`; the field is atomic.
        unsafe { (*self.shared.as_ptr()).used.index.load(Ordering::Acquire) == self.used }
    }

    /// Asks for an interrupt at the next request that is done. Returns false if there is one: then none may come.
    pub fn arm(&mut self) -> bool {
        // SAFETY: as in `add`; the field is atomic.
        unsafe { (*self.shared.as_ptr()).available.used_event.store(self.used, Ordering::Relaxed) };
        fence(Ordering::SeqCst);
        self.is_empty()
    }
}

fn descriptor(part: &Part, next: u16, following: u16) -> Descriptor {
    let write = if part.writable { WRITE } else { 0 };
    Descriptor { address: part.address, len: part.len, flags: write | next, next: following }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: from `dma_alloc` with the same number of pages. The owner has the device give the queue up before.
        unsafe { Memory::dma_dealloc(0, self.shared.cast(), PAGES) };
    }
}
