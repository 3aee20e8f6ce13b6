//! The wire to the guest: a bounded queue of Ethernet frames, and smoltcp's view of it.

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};
use std::collections::VecDeque;

/// Bytes of an Ethernet header.
pub(super) const HEADER: usize = 14;
/// Frames that wait for the guest before TCP and UDP hold back. Few, so that
/// they stay in the cache between being made and being copied to the guest.
const DATA_FRAMES: usize = 16;
/// Frames that wait for the guest before answers (ARP, DHCP, DNS, RST …) are dropped.
const MAX_FRAMES: usize = 64;

/// Frames on their way to the guest.
///
/// Bounds: at most 64 buffers of `mtu + 14` bytes each exist, used again and again.
pub(super) struct Link {
    guest: EthernetAddress,
    gateway: EthernetAddress,
    mtu: usize,
    waiting: VecDeque<QueuedFrame>,
    spare: Vec<Box<[u8]>>,
}

struct QueuedFrame {
    buffer: Box<[u8]>,
    len: usize,
}

impl Link {
    pub(super) fn new(guest: [u8; 6], gateway: [u8; 6], mtu: u16) -> Self {
        Link {
            guest: EthernetAddress(guest),
            gateway: EthernetAddress(gateway),
            mtu: usize::from(mtu),
            waiting: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Most bytes of an IP packet.
    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether what can wait elsewhere may be queued here.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < DATA_FRAMES
    }

    /// The frame that is next for the guest.
    pub(super) fn front(&self) -> Option<&[u8]> {
        self.waiting.front().map(|frame| &frame.buffer[..frame.len])
    }

    /// Takes the first frame off the queue: the guest has it.
    pub(super) fn pop(&mut self) {
        if let Some(frame) = self.waiting.pop_front() {
            self.spare.push(frame.buffer);
        }
    }

    /// Queues a frame whose payload of `len` bytes `fill` writes. The payload
    /// is dropped when it is too long or too many frames wait.
    pub(super) fn emit<R>(
        &mut self,
        protocol: EthernetProtocol,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let size = HEADER + self.mtu;
        let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; size].into());
        if len > self.mtu {
            self.spare.push(buffer);
            return fill(&mut vec![0; len]);
        }
        let mut frame = EthernetFrame::new_unchecked(&mut buffer[..HEADER + len]);
        frame.set_dst_addr(self.guest);
        frame.set_src_addr(self.gateway);
        frame.set_ethertype(protocol);
        let result = fill(frame.payload_mut());
        if self.waiting.len() < MAX_FRAMES {
            self.waiting.push_back(QueuedFrame { buffer, len: HEADER + len });
        } else {
            self.spare.push(buffer);
        }
        result
    }
}

/// What smoltcp sees: at most one packet from the guest, and the way to it.
pub(super) struct LinkDevice<'a> {
    pub(super) packet: Option<&'a [u8]>,
    pub(super) link: &'a mut Link,
}

/// The capabilities of every [`LinkDevice`] of a link.
pub(super) fn capabilities(mtu: usize) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = mtu;
    // Frames never leave memory.
    capabilities.checksum = ChecksumCapabilities::ignored();
    capabilities
}

impl Device for LinkDevice<'_> {
    type RxToken<'a>
        = RxPacket<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxSlot<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxPacket<'_>, TxSlot<'_>)> {
        Some((RxPacket(self.packet.take()?), TxSlot(self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxSlot<'_>> {
        self.link.has_room().then_some(TxSlot(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.link.mtu)
    }
}

pub(super) struct RxPacket<'a>(&'a [u8]);

impl RxToken for RxPacket<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct TxSlot<'a>(&'a mut Link);

impl TxToken for TxSlot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.emit(EthernetProtocol::Ipv4, len, f)
    }
}
