//! ⚠ A virtio net device under embassy-net, by the driver of the crate virtio-drivers.
//!
//! MTU and checksums are as on hv's own device: frames never leave the host's
//! memory, so none are computed. Only the transport differs: the guest even
//! waits as it does for its own device, for an event.
//!
//! The crate looks at the device's flag without a barrier after the queue's index (see the disk's
//! `notify`): very rarely a frame lies there until the next one, which TCP sends again.
#![allow(unsafe_code, reason = "buffers that a device writes")]

use super::memory::Memory;
use super::{MmioTransport, NET, transport};
use crate::meter::failed;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::task::Context;
use embassy_net_driver::{
    Capabilities, Checksum, ChecksumCapabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken,
};
use hv_guest::abi::EventPort;
use hv_guest::embassy_net::{Config, Ipv4Address, Ipv4Cidr, Stack, StackResources, StaticConfigV4};
use hv_guest::event;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::Transport;

/// Buffers each way.
const BUFFERS: usize = 64;
const QUEUE_SIZE: usize = 128;
/// Bytes of the virtio header before a frame, and of an Ethernet header.
const HEADERS: usize = 12 + 14;
/// Where the MTU is in the device's configuration.
const MTU: usize = 10;

/// What the device raises when it has used a buffer.
const EVENT: EventPort = EventPort(1022);

type Net = VirtIONetRaw<Memory, MmioTransport<'static>, QUEUE_SIZE>;
type Buffer = Vec<u8>;

/// The device.
pub struct Device {
    net: Net,
    mtu: usize,
    /// By the token of the request that they are in.
    receiving: [Option<Buffer>; QUEUE_SIZE],
    sending: [Option<(Buffer, usize)>; QUEUE_SIZE],
    free: VecDeque<Buffer>,
    /// Buffers whose frames were looked at; they are lent again.
    returned: Vec<Buffer>,
}

impl Device {
    /// Initialises the device, and lends it buffers.
    pub fn open() -> Result<Device, String> {
        let transport = transport(NET)?;
        let error = |error| failed("virtio net", error);
        let mtu: u16 = transport.read_config_space(MTU).map_err(error)?;
        let mtu = usize::from(mtu);
        let mut device = Device {
            net: Net::new(transport).map_err(error)?,
            mtu,
            receiving: [const { None }; QUEUE_SIZE],
            sending: [const { None }; QUEUE_SIZE],
            free: (0..BUFFERS).map(|_| vec![0; mtu + HEADERS]).collect(),
            returned: Vec::with_capacity(BUFFERS),
        };
        for _ in 0..BUFFERS {
            device.lend(vec![0; mtu + HEADERS])?;
        }
        Ok(device)
    }

    fn lend(&mut self, mut buffer: Buffer) -> Result<(), String> {
        // SAFETY: the buffer stays in `receiving`, untouched, until it is complete.
        let token = unsafe { self.net.receive_begin(&mut buffer) };
        let token = token.map_err(|error| failed("virtio net", error))?;
        self.receiving[usize::from(token)] = Some(buffer);
        Ok(())
    }

    /// Takes back the buffers of frames that were sent.
    fn reclaim(&mut self) {
        while let Some(token) = self.net.poll_transmit() {
            let Some((buffer, len)) = self.sending[usize::from(token)].take() else { return };
            // SAFETY: this is what was sent with this token.
            let _ = unsafe { self.net.transmit_complete(token, &buffer[..len]) };
            self.free.push_back(buffer);
        }
    }

    /// The next frame: its buffer, and where in it the frame begins and ends.
    fn next(&mut self) -> Option<(Buffer, usize, usize)> {
        let token = self.net.poll_receive()?;
        let mut buffer = self.receiving[usize::from(token)].take()?;
        // SAFETY: this is the buffer that was lent with this token.
        let (header, len) = unsafe { self.net.receive_complete(token, &mut buffer) }.ok()?;
        Some((buffer, header, header + len))
    }
}

/// A frame that has come.
pub struct Received<'a> {
    returned: &'a mut Vec<Buffer>,
    frame: (Buffer, usize, usize),
}

/// Room for a frame to send.
pub struct Room<'a> {
    net: &'a mut Net,
    sending: &'a mut [Option<(Buffer, usize)>; QUEUE_SIZE],
    free: &'a mut VecDeque<Buffer>,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, look: F) -> R {
        let (mut buffer, start, end) = self.frame;
        let result = look(&mut buffer[start..end]);
        self.returned.push(buffer);
        result
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut buffer = self.free.pop_back().expect("room is given only with a free buffer");
        let header = self.net.fill_buffer_header(&mut buffer).expect("buffers are longer than headers");
        let end = header + len;
        let result = write(&mut buffer[header..end]);
        // SAFETY: the buffer stays in `sending`, untouched, until it is complete.
        let token = unsafe { self.net.transmit_begin(&buffer[..end]) };
        let token = token.expect("there are fewer buffers than places");
        self.sending[usize::from(token)] = Some((buffer, end));
        result
    }
}

impl Driver for Device {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, context: &mut Context<'_>) -> Option<(Received<'_>, Room<'_>)> {
        let frame = loop {
            while let Some(buffer) = self.returned.pop() {
                self.lend(buffer).ok()?;
            }
            self.reclaim();
            if !self.free.is_empty()
                && let Some(frame) = self.next()
            {
                break frame;
            }
            if !event::poll_taken(EVENT, context.waker()) {
                return None;
            }
        };
        let Device { net, sending, free, returned, .. } = self;
        Some((Received { returned, frame }, Room { net, sending, free }))
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Option<Room<'_>> {
        self.reclaim();
        while self.free.is_empty() {
            if !event::poll_taken(EVENT, context.waker()) {
                return None;
            }
            self.reclaim();
        }
        let Device { net, sending, free, .. } = self;
        Some(Room { net, sending, free })
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut checksum = ChecksumCapabilities::default();
        (checksum.ipv4, checksum.tcp, checksum.udp) = (Checksum::None, Checksum::None, Checksum::None);
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities.max_burst_size = Some(BUFFERS);
        capabilities.checksum = checksum;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.net.mac_address())
    }
}

/// Brings the device up, with the address that hv's user-mode network gives.
pub fn up() -> Result<Stack<'static>, String> {
    let resources: &'static mut StackResources<4> = Box::leak(Box::new(StackResources::new()));
    let config = Config::ipv4_static(StaticConfigV4 {
        address: Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 15), 24),
        gateway: Some(Ipv4Address::new(10, 0, 2, 2)),
        dns_servers: Default::default(),
    });
    let (stack, mut runner) =
        hv_guest::embassy_net::new(Device::open()?, config, resources, hv_guest::random::next_u64());
    hv_guest::spawn(async move { runner.run().await });
    Ok(stack)
}
