//! ⚠ A virtio console: each write is over when the device has passed it on.
#![allow(unsafe_code, reason = "buffers that a device reads")]

use super::queue::{self, Part, Queue};
use super::{CONSOLE, MmioTransport, transport};
use alloc::string::String;
use hv_guest::abi::EventPort;
use hv_guest::event;
use virtio_drivers::transport::Transport;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// What the device raises instead of an interrupt.
const EVENT: EventPort = EventPort(1020);

/// The device.
pub struct VirtioConsole {
    transport: MmioTransport<'static>,
    transmit: Queue,
    /// Never filled.
    _receive: Queue,
}

impl VirtioConsole {
    /// Initialises the device.
    pub fn open() -> Result<VirtioConsole, String> {
        let mut transport = transport(CONSOLE)?;
        queue::begin(&mut transport, 0)?;
        let _receive = Queue::new(&mut transport, RECEIVE)?;
        let transmit = Queue::new(&mut transport, TRANSMIT)?;
        transport.finish_init();
        Ok(VirtioConsole { transport, transmit, _receive })
    }

    /// Sends bytes, and waits until the device has passed them on.
    pub fn write(&mut self, bytes: &[u8]) {
        // SAFETY: this returns only when the device is done with them.
        if unsafe { self.transmit.add(&[Part::read(bytes)]) }.is_none() {
            return;
        }
        self.transmit.notify(&mut self.transport);
        while self.transmit.pop().is_none() {
            if self.transmit.arm() {
                event::wait_only(EVENT, None);
            }
        }
    }
}

impl Drop for VirtioConsole {
    fn drop(&mut self) {
        self.transport.queue_unset(TRANSMIT);
        self.transport.queue_unset(RECEIVE);
    }
}
