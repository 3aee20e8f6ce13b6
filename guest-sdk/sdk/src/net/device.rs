//! The driver of a net device: embassy-net's trait over two rings.
//!
//! Receive buffers are lent to the host in advance, and are lent again as soon as the stack has processed their frame.
//! The stack writes frames to send into buffers of a pool. Nothing is copied in between.
#![forbid(unsafe_code)]

use super::buffers::Pool;
use crate::ring::RingMemory;
use crate::{doorbell, event};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::task::Context;
use embassy_net_driver::{Capabilities, Checksum, ChecksumCapabilities, Driver, HardwareAddress, LinkState};
use embassy_sync::waitqueue::AtomicWaker;
use hv_abi::device::{DeviceInfo, RingInfo};
use hv_abi::io::net::{ETHERNET_HEADER, NetConfig, NetFeatures, NetRequest, NetResponse};
use hv_abi::ring::{Front, Violation};
use hv_abi::{EventPort, GuestAddr};

/// Receive buffers that are given back before they are published to the host.
const BATCH: usize = 8;
/// Frames that are collected before the host is notified in the middle of a pass.
const RING_AFTER: usize = 16;

struct FrameQueue {
    front: Front<RingMemory, NetRequest, NetResponse>,
    port: EventPort,
    pool: Pool,
    /// The host broke the protocol.
    broken: bool,
}

/// The address of this guest on the network. It changes when the guest is restored or cloned.
pub(super) struct Identity {
    mac: Cell<[u8; 6]>,
    runner: AtomicWaker,
}

impl Identity {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        Identity { mac: Cell::new(mac), runner: AtomicWaker::new() }
    }

    pub(super) fn set(&self, mac: [u8; 6]) {
        self.mac.set(mac);
    }

    /// Makes the stack check it.
    pub(super) fn wake(&self) {
        self.runner.wake();
    }
}

/// A net device of this guest.
pub(super) struct NetDevice {
    config: NetConfig,
    identity: Rc<Identity>,
    transmit: Transmit,
    receive: Receive,
}

struct Transmit {
    queue: FrameQueue,
    /// Free buffers. The most recently used one is on top: it is in the cache.
    free: Vec<u32>,
    /// Frames handed over since the last doorbell.
    unrung: usize,
}

struct Receive {
    queue: FrameQueue,
    /// Buffers that were given back and are not published to the host yet.
    returned: usize,
}

impl FrameQueue {
    fn new(info: &RingInfo, buffers: usize, size: usize) -> Option<FrameQueue> {
        let (memory, layout) = RingMemory::new::<NetRequest, NetResponse>(info)?;
        let buffers = buffers.min(info.requests as usize).min(info.responses as usize);
        let pool = Pool::new(buffers, size)?;
        Some(FrameQueue { front: Front::new(memory, &layout), port: info.event, pool, broken: false })
    }

    /// Lends a buffer, with this many bytes, to the host. The host sees it at the next `publish`.
    fn push(&mut self, index: u32, len: usize) {
        let address = GuestAddr(self.pool.lend(index as usize));
        let request = NetRequest { address, len: len as u32, id: index };
        // There are no more buffers than entries.
        self.broken |= !matches!(self.front.requests.push(&[request]), Ok(1));
    }

    fn publish(&mut self) {
        if self.front.requests.publish() {
            doorbell::ring_soon(self.port);
        }
    }

    /// The next valid response.
    fn pop(&mut self) -> Option<NetResponse> {
        while !self.broken {
            match self.front.responses.pop_one() {
                Ok(Some(response)) if self.pool.take_back(response.id as usize) => {
                    self.release();
                    return Some(response);
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(Violation { .. }) => self.broken = true,
            }
        }
        None
    }

    fn release(&mut self) {
        if self.front.responses.release() {
            doorbell::ring_soon(self.port);
        }
    }

    /// Requests the event of the next response. False if there is a response already.
    fn wait(&mut self, context: &Context<'_>) -> bool {
        event::register(self.port, context.waker());
        match self.front.responses.wait_for_entries() {
            Ok(there) => !there,
            Err(Violation { .. }) => {
                self.broken = true;
                true
            }
        }
    }
}

impl Transmit {
    /// Whether there is a buffer to send from. If not, the task is woken when there is one.
    fn ready(&mut self, context: &Context<'_>) -> bool {
        while self.free.is_empty() {
            while let Some(response) = self.queue.pop() {
                self.free.push(response.id);
            }
            if self.free.is_empty() {
                doorbell::ring();
                if self.queue.wait(context) {
                    return false;
                }
            }
        }
        true
    }
}

impl Receive {
    fn give_back(&mut self, index: u32) {
        self.queue.push(index, self.queue.pool.size());
        self.returned += 1;
        if self.returned >= BATCH {
            self.show();
        }
    }

    fn show(&mut self) {
        self.queue.publish();
        self.returned = 0;
    }

    /// The next frame: its buffer and its length. If there is none, the task is woken when there is one.
    fn next(&mut self, context: &Context<'_>) -> Option<(u32, usize)> {
        loop {
            while let Some(NetResponse { id, status }) = self.queue.pop() {
                match usize::try_from(status) {
                    Ok(len) if len <= self.queue.pool.size() => return Some((id, len)),
                    _ => self.give_back(id),
                }
            }
            self.show();
            if self.queue.wait(context) {
                return None;
            }
        }
    }
}

impl NetDevice {
    /// Opens a device, with at most `memory` bytes of buffers.
    pub(super) fn new(
        info: &DeviceInfo,
        config: NetConfig,
        identity: Rc<Identity>,
        memory: usize,
    ) -> Option<NetDevice> {
        let size = usize::from(config.mtu) + ETHERNET_HEADER as usize;
        // Two of three buffers receive: frames to send are taken within a round, received frames wait until the guest runs.
        let buffers = (memory / size).clamp(6, 192);
        let transmit = FrameQueue::new(&info.rings[0], buffers / 3, size)?;
        let free = (0..transmit.pool.count() as u32).rev().collect();
        let receive = FrameQueue::new(&info.rings[1], buffers * 2 / 3, size)?;
        let mut receive = Receive { queue: receive, returned: 0 };
        for index in 0..receive.queue.pool.count() {
            receive.queue.push(index as u32, receive.queue.pool.size());
        }
        receive.show();
        Some(NetDevice { config, identity, transmit: Transmit { queue: transmit, free, unrung: 0 }, receive })
    }

    fn has(&self, feature: NetFeatures) -> bool {
        NetFeatures::from_bits_truncate(self.config.features).contains(feature)
    }
}

/// A frame that has arrived.
pub(super) struct Received<'a> {
    receive: &'a mut Receive,
    index: u32,
    len: usize,
}

/// A frame that will be written and sent.
pub(super) struct Sending<'a>(&'a mut Transmit);

impl embassy_net_driver::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        read(self.receive.queue.pool.bytes(self.index as usize, self.len))
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        self.receive.give_back(self.index);
    }
}

impl embassy_net_driver::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Transmit { queue, free, unrung } = self.0;
        let index = free.pop().expect("a token is made only while a buffer is free");
        let result = write(queue.pool.bytes(index as usize, len));
        queue.push(index, len);
        queue.publish();
        *unrung += 1;
        if *unrung >= RING_AFTER {
            *unrung = 0;
            doorbell::ring();
        }
        result
    }
}

impl Driver for NetDevice {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, context: &mut Context<'_>) -> Option<(Received<'_>, Sending<'_>)> {
        // The stack may answer a frame immediately, so it gets none while it cannot send.
        if !self.transmit.ready(context) {
            return None;
        }
        let (index, len) = self.receive.next(context)?;
        Some((Received { receive: &mut self.receive, index, len }, Sending(&mut self.transmit)))
    }

    fn transmit(&mut self, context: &mut Context<'_>) -> Option<Sending<'_>> {
        self.transmit.ready(context).then_some(Sending(&mut self.transmit))
    }

    fn link_state(&mut self, context: &mut Context<'_>) -> LinkState {
        self.identity.runner.register(context.waker());
        if self.receive.queue.broken || self.transmit.queue.broken { LinkState::Down } else { LinkState::Up }
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = usize::from(self.config.mtu) + ETHERNET_HEADER as usize;
        if self.has(NetFeatures::CHECKSUM_FREE) {
            let mut checksum = ChecksumCapabilities::default();
            checksum.ipv4 = Checksum::None;
            checksum.tcp = Checksum::None;
            checksum.udp = Checksum::None;
            checksum.icmpv4 = Checksum::None;
            capabilities.checksum = checksum;
        }
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.identity.mac.get())
    }
}
