//! The back end of a net device: two rings of the guest on one side, a network on the other.

use super::{Capture, Network};
use crate::device::{DeviceCounters, Ring};
use crate::event::Channel;
use crate::memory::{Access, GuestMemory, RingMemory};
use crate::reactor::{Registrar, Source};
use hv_abi::Errno;
use hv_abi::io::net::{ETHERNET_HEADER, NetConfig, NetFeatures, NetRequest, NetResponse};
use hv_abi::ring::{Back, Violation};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Key of the transmit ring's doorbell; networks use keys below [`FIRST_DEVICE_KEY`].
const TRANSMIT_KEY: u32 = u32::MAX;
/// Key of the receive ring's doorbell.
const RECEIVE_KEY: u32 = u32::MAX - 1;
/// Networks register their descriptors with keys below this one.
pub const FIRST_DEVICE_KEY: u32 = u32::MAX - 15;

/// Most frames that one round takes from the guest, and most buffers that it fills: then other guests'
/// devices are served.
const BUDGET: usize = 256;
/// A round ends after this long, too.
const ROUND_TIME: Duration = Duration::from_micros(100);
/// Requests that are taken from the transmit ring, or buffers that are filled, before the guest is told.
const BATCH: usize = 32;

/// A ring of the device, of [`NetRequest`]s and [`NetResponse`]s, and its doorbell, which is non-blocking: the guest
/// rings it after it has published requests, if it was asked to.
pub type RingAndDoorbell = (Ring, EventFd);

/// One of the two rings, connected.
struct Queue {
    ring: Back<RingMemory, NetRequest, NetResponse>,
    doorbell: EventFd,
    channel: Channel,
    counters: Arc<DeviceCounters>,
    name: String,
}

/// Why work on a ring ended in a round.
enum RoundEnd {
    /// Nothing more to take, or no room to answer.
    Idle,
    /// The round's budget is used up.
    Budget,
}

/// A net device of a guest.
///
/// # Trust
///
/// Requests are copied out of the ring once and validated: a frame or buffer
/// outside the guest's memory is answered with [`Errno::Fault`], a length that
/// no frame can have with [`Errno::Invalid`]. Ring indices that make no sense
/// end the guest; from then on the device touches neither ring nor network.
pub struct NetDevice {
    memory: Arc<GuestMemory>,
    transmit: Queue,
    receive: Queue,
    /// `None` once the guest has broken the protocol.
    network: Option<Box<dyn Network>>,
    io: Option<Registrar>,
    capture: Option<Capture>,
    config: NetConfig,
    /// Holds a frame of the guest while the network looks at it.
    frame: Box<[u8]>,
}

impl NetDevice {
    /// The device number `index` of its guest, connected to `network`; its
    /// frames are written to `capture` as well.
    ///
    /// # Errors
    ///
    /// A ring was left in a state that makes no sense.
    pub fn new(
        index: u32,
        transmit: RingAndDoorbell,
        receive: RingAndDoorbell,
        network: Box<dyn Network>,
        capture: Option<Capture>,
    ) -> Result<Self, Violation> {
        let config = network.config();
        let mut capture = capture;
        if let Some(capture) = &mut capture {
            let features = NetFeatures::from_bits_truncate(config.features);
            capture.fill_checksums(features.contains(NetFeatures::CHECKSUM_FREE));
        }
        Ok(NetDevice {
            memory: transmit.0.memory.memory().clone(),
            transmit: Queue::new(transmit, format!("net{index} transmit ring"))?,
            receive: Queue::new(receive, format!("net{index} receive ring"))?,
            network: Some(network),
            io: None,
            capture,
            config,
            frame: vec![0; (u32::from(config.mtu) + ETHERNET_HEADER) as usize].into(),
        })
    }

    /// What the guest is told about the device, for its start-info.
    pub fn config(&self) -> NetConfig {
        self.config
    }

    /// Whether the guest broke the protocol, and the device has stopped.
    pub fn is_dead(&self) -> bool {
        self.network.is_none()
    }

    /// One round: frames out, due work, frames in. Returns when to come again.
    fn round(
        &mut self,
        network: &mut dyn Network,
        now: Instant,
    ) -> Result<Option<Instant>, ProtocolViolation> {
        let sent = self.transmit_round(network, now).map_err(ProtocolViolation::transmit)?;
        network.poll(now);
        let received = self.receive_round(network).map_err(ProtocolViolation::receive)?;
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
        let deadline = network.poll(now);
        Ok(if matches!(sent, RoundEnd::Budget) || matches!(received, RoundEnd::Budget) {
            Some(now)
        } else {
            deadline
        })
    }

    /// Takes frames from the guest, at most [`BUDGET`].
    fn transmit_round(&mut self, network: &mut dyn Network, now: Instant) -> Result<RoundEnd, Violation> {
        let Queue { ring, channel, counters, .. } = &mut self.transmit;
        ring.requests.suppress_events();
        let mut budget = BUDGET;
        let stop = loop {
            if budget == 0 {
                break RoundEnd::Budget;
            }
            let mut requests = [NetRequest::default(); BATCH];
            // A request is taken only when its response has room.
            let room = ring.responses.room()? as usize;
            if room == 0 {
                if ring.responses.wait_for_room(1)? {
                    continue;
                }
                break RoundEnd::Idle;
            }
            let count = ring.requests.pop(&mut requests[..room.min(BATCH).min(budget)])?;
            if count == 0 {
                if ring.requests.wait_for_entries()? {
                    ring.requests.suppress_events();
                    continue;
                }
                break RoundEnd::Idle;
            }
            budget -= count;
            let mut responses = [NetResponse::default(); BATCH];
            let (mut frames, mut bytes) = (0, 0);
            for (request, response) in requests[..count].iter().zip(&mut responses) {
                let status = match take(&self.memory, request, &mut self.frame) {
                    Ok(frame) => {
                        if let Some(capture) = &mut self.capture {
                            capture.frame(frame);
                        }
                        (frames, bytes) = (frames + 1, bytes + frame.len() as u64);
                        network.send(frame, now);
                        0
                    }
                    Err(errno) => errno.to_status(),
                };
                *response = NetResponse { id: request.id, status };
            }
            counters.went_out(frames, bytes);
            ring.responses.push(&responses[..count])?;
            if ring.requests.release() | ring.responses.publish() {
                channel.notify();
            }
            if now.elapsed() >= ROUND_TIME {
                break RoundEnd::Budget;
            }
        };
        Ok(stop)
    }

    /// Gives frames to the guest while it has buffers, at most [`BUDGET`].
    fn receive_round(&mut self, network: &mut dyn Network) -> Result<RoundEnd, Violation> {
        let mut filling = Filling {
            ring: &mut self.receive.ring,
            channel: &self.receive.channel,
            counters: &self.receive.counters,
            memory: &self.memory,
            capture: self.capture.as_mut(),
            budget: BUDGET,
            stopped: None,
        };
        network.receive(&mut |frame| filling.deliver(frame));
        filling.publish();
        filling.stopped.unwrap_or(Ok(RoundEnd::Idle))
    }

    fn terminate(&mut self, terminated: &ProtocolViolation) {
        let queue = if terminated.transmit { &self.transmit } else { &self.receive };
        queue.channel.violation(&queue.name, terminated.violation);
        // The doorbells of a guest that ends must not cost anything any more.
        if let Some(io) = self.io.take() {
            for queue in [&self.transmit, &self.receive] {
                let _ = io.deregister(&mut SourceFd(&queue.doorbell.as_raw_fd()));
            }
        }
    }
}

/// A violation, and whose ring it was.
struct ProtocolViolation {
    transmit: bool,
    violation: Violation,
}

impl ProtocolViolation {
    fn transmit(violation: Violation) -> Self {
        ProtocolViolation { transmit: true, violation }
    }
    fn receive(violation: Violation) -> Self {
        ProtocolViolation { transmit: false, violation }
    }
}

/// Copies the frame of a request out of guest memory.
fn take<'a>(memory: &GuestMemory, request: &NetRequest, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let frame = buffer.get_mut(..request.len as usize).ok_or(Errno::Invalid)?;
    if frame.len() < ETHERNET_HEADER as usize {
        return Err(Errno::Invalid);
    }
    memory.read(request.address, frame)?;
    Ok(frame)
}

/// The receive ring during a round.
struct Filling<'a> {
    ring: &'a mut Back<RingMemory, NetRequest, NetResponse>,
    channel: &'a Channel,
    counters: &'a DeviceCounters,
    memory: &'a GuestMemory,
    capture: Option<&'a mut Capture>,
    budget: usize,
    /// Why no further frame is taken.
    stopped: Option<Result<RoundEnd, Violation>>,
}

impl Filling<'_> {
    /// Puts a frame into the guest's next buffer; false if it has none.
    fn deliver(&mut self, frame: &[u8]) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        match self.fill(frame) {
            Ok(None) => true,
            Ok(Some(stop)) => {
                self.stopped = Some(Ok(stop));
                false
            }
            Err(violation) => {
                self.stopped = Some(Err(violation));
                false
            }
        }
    }

    fn fill(&mut self, frame: &[u8]) -> Result<Option<RoundEnd>, Violation> {
        // Each pass takes a buffer, usable or not, and counts.
        while self.budget > 0 {
            if self.ring.responses.room()? == 0 {
                if self.ring.responses.wait_for_room(1)? {
                    continue;
                }
                return Ok(Some(RoundEnd::Idle));
            }
            let Some(request) = self.ring.requests.pop_one()? else {
                if self.ring.requests.wait_for_entries()? {
                    self.ring.requests.suppress_events();
                    continue;
                }
                return Ok(Some(RoundEnd::Idle));
            };
            self.budget -= 1;
            let filled = self.put(&request, frame);
            let status = match filled {
                Ok(()) => {
                    self.counters.went_in(1, frame.len() as u64);
                    frame.len() as i32
                }
                Err(errno) => errno.to_status(),
            };
            self.ring.responses.push(&[NetResponse { id: request.id, status }])?;
            if self.budget.is_multiple_of(BATCH) {
                // The guest can start on these while the rest comes.
                self.publish();
            }
            if filled.is_ok() {
                return Ok(None);
            }
        }
        Ok(Some(RoundEnd::Budget))
    }

    fn publish(&mut self) {
        if self.ring.requests.release() | self.ring.responses.publish() {
            self.channel.notify();
        }
    }

    fn put(&mut self, request: &NetRequest, frame: &[u8]) -> Result<(), Errno> {
        if (request.len as usize) < frame.len() {
            return Err(Errno::Invalid);
        }
        self.memory.check(request.address, u64::from(request.len), Access::WRITE)?;
        self.memory.write(request.address, frame)?;
        if let Some(capture) = &mut self.capture {
            capture.frame(frame);
        }
        Ok(())
    }
}

impl Queue {
    fn new((ring, doorbell): RingAndDoorbell, name: String) -> Result<Self, Violation> {
        let back = ring.back()?;
        let Ring { channel, counters, .. } = ring;
        let mut queue = Queue { ring: back, doorbell, channel, counters, name };
        // From the first request on the guest rings. That something is there
        // already cannot be, and would be a violation that the first round finds.
        let _ = queue.ring.requests.wait_for_entries();
        Ok(queue)
    }
}

impl Source for NetDevice {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        for (queue, key) in [(&self.transmit, TRANSMIT_KEY), (&self.receive, RECEIVE_KEY)] {
            io.register(&mut SourceFd(&queue.doorbell.as_raw_fd()), key, Interest::READABLE)?;
        }
        if let Some(network) = &mut self.network {
            network.start(io.try_clone()?)?;
        }
        self.io = Some(io);
        Ok(())
    }

    fn ready(&mut self, key: u32, event: &Event) {
        // The counters of the doorbells are left alone: each ring of one is an
        // edge, whatever its count, and every round looks at both rings anyway.
        if key < FIRST_DEVICE_KEY
            && let Some(network) = &mut self.network
        {
            network.ready(key, event);
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let mut network = self.network.take()?;
        match self.round(&mut *network, now) {
            Ok(deadline) => {
                self.network = Some(network);
                deadline
            }
            Err(terminated) => {
                self.terminate(&terminated);
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
