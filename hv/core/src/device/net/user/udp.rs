//! UDP: flows of the guest to the outside, and of the outside to published ports.

use super::link::Link;
use super::reach::{self, Reach};
use super::slab::Slab;
use super::wire::{self, Ends};
use super::{DATAGRAM_KEY, GATEWAY, UDP_KEY};
use crate::reactor::Registrar;
use mio::Interest;
use mio::net::UdpSocket;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Flows at a time, both directions together. Past that the one that was idle longest ends.
pub(super) const MAX_FLOWS: usize = 512;
/// How long a flow lives without a datagram.
const IDLE: Duration = Duration::from_secs(60);
/// How often idle flows are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// Datagrams that one round passes on (those too long for the MTU end here, and count).
const BUDGET: usize = 64;
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_535;
/// Ports of the gateway that datagrams to published ports come from.
const FIRST_PORT: u16 = 20_000;

/// The host's side of a flow.
enum HostSide {
    /// A socket of its own, connected to where the guest sends: the kernel drops datagrams from elsewhere.
    Own(UdpSocket),
    /// A peer outside that wrote to a published port.
    Peer { published: usize, peer: SocketAddr },
}

struct Flow {
    ends: Ends,
    host: HostSide,
    used: Instant,
    queued: bool,
}

struct PublishedUdpPort {
    socket: UdpSocket,
    guest_port: u16,
    queued: bool,
}

/// Something that may have datagrams for the guest.
#[derive(Clone, Copy)]
enum DatagramSource {
    Flow(u32),
    Published(usize),
}

/// All UDP of one network, but for DNS and DHCP.
pub(super) struct Udp {
    reach: Reach,
    flows: Slab<Flow>,
    by_ends: HashMap<Ends, u32>,
    by_peer: HashMap<(usize, SocketAddr), u32>,
    published: Vec<PublishedUdpPort>,
    work: VecDeque<DatagramSource>,
    /// When to look for idle flows; `None` without flows.
    sweep: Option<Instant>,
    next_port: u16,
    buffer: Box<[u8]>,
    io: Option<Registrar>,
}

impl Udp {
    pub(super) fn new(reach: Reach) -> Self {
        Udp {
            reach,
            flows: Slab::new(MAX_FLOWS),
            by_ends: HashMap::new(),
            by_peer: HashMap::new(),
            published: Vec::new(),
            work: VecDeque::new(),
            sweep: None,
            next_port: FIRST_PORT,
            buffer: vec![0; MAX_DATAGRAM].into(),
            io: None,
        }
    }

    /// Adds a socket of the host whose datagrams go to a port of the guest.
    pub(super) fn publish(&mut self, socket: UdpSocket, guest_port: u16) {
        self.published.push(PublishedUdpPort { socket, guest_port, queued: false });
    }

    pub(super) fn start(&mut self, io: Registrar) -> io::Result<()> {
        for (index, published) in self.published.iter_mut().enumerate() {
            io.register(&mut published.socket, DATAGRAM_KEY | index as u32, Interest::READABLE)?;
        }
        self.io = Some(io);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// A flow's own socket is readable.
    pub(super) fn ready(&mut self, id: u32) {
        if let Some(flow) = self.flows.get_mut(id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            self.work.push_back(DatagramSource::Flow(id));
        }
    }

    /// A published port's socket is readable.
    pub(super) fn published_ready(&mut self, index: u32) {
        if let Some(published) = self.published.get_mut(index as usize)
            && !std::mem::replace(&mut published.queued, true)
        {
            self.work.push_back(DatagramSource::Published(index as usize));
        }
    }

    /// Sends a datagram of the guest. If it leads nowhere, the guest is told; one that finds the
    /// host's buffers full is lost.
    pub(super) fn send(&mut self, ends: Ends, payload: &[u8], link: &mut Link, now: Instant) {
        let id = match self.by_ends.get(&ends) {
            Some(&id) => id,
            None => {
                let addr = match self.reach.target(ends.addr) {
                    Ok(addr) => addr,
                    Err(reason) => return wire::emit_udp_unreachable(link, ends, payload, reason),
                };
                match self.open(ends, addr, now) {
                    Ok(id) => id,
                    Err(error) => return lost(link, ends, payload, &error),
                }
            }
        };
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.used = now;
        let send = || match &flow.host {
            HostSide::Own(socket) => socket.send(payload),
            HostSide::Peer { published, peer } => self.published[*published].socket.send_to(payload, *peer),
        };
        let sent = match send() {
            // The error of an earlier datagram is returned instead of sending this one.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                lost(link, ends, &[], &error);
                send()
            }
            sent => sent,
        };
        if let Err(error) = sent {
            lost(link, ends, payload, &error);
        }
    }

    /// Makes a flow for a new pair of ends, to this address of the host's side.
    fn open(&mut self, ends: Ends, addr: Ipv4Addr, now: Instant) -> io::Result<u32> {
        let socket = UdpSocket::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
        socket.connect(SocketAddr::new(IpAddr::V4(addr), ends.port))?;
        self.add(Flow { ends, host: HostSide::Own(socket), used: now, queued: false }, now)
    }

    fn add(&mut self, mut flow: Flow, now: Instant) -> io::Result<u32> {
        if self.flows.is_full()
            && let Some((oldest, _)) = self.flows.iter().min_by_key(|(_, flow)| flow.used)
        {
            self.remove(oldest);
        }
        let full = || io::Error::other("too many flows");
        let id = self.flows.next_id().ok_or_else(full)?;
        if let (HostSide::Own(socket), Some(io)) = (&mut flow.host, &self.io) {
            io.register(socket, UDP_KEY | id, Interest::READABLE)?;
        }
        let ends = flow.ends;
        if let HostSide::Peer { published, peer } = flow.host {
            self.by_peer.insert((published, peer), id);
        }
        self.flows.insert(flow).ok_or_else(full)?;
        self.by_ends.insert(ends, id);
        self.sweep.get_or_insert(now + SWEEP);
        Ok(id)
    }

    fn remove(&mut self, id: u32) {
        let Some(flow) = self.flows.remove(id) else { return };
        self.by_ends.remove(&flow.ends);
        if let HostSide::Peer { published, peer } = flow.host {
            self.by_peer.remove(&(published, peer));
        }
    }

    /// Passes datagrams on while `link` has room; the others wait in the kernel.
    pub(super) fn work(&mut self, link: &mut Link, now: Instant) {
        if self.sweep.is_some_and(|at| at <= now) {
            self.end_idle(now);
        }
        let mut budget = BUDGET;
        while link.has_room()
            && budget > 0
            && let Some(origin) = self.work.pop_front()
        {
            budget -= 1;
            let more = match origin {
                DatagramSource::Flow(id) => self.pass_on(id, link, now),
                DatagramSource::Published(index) => self.take_in(index, link, now),
            };
            match (origin, more) {
                // To the end of the queue, so that the sources take turns.
                (origin, true) => self.work.push_back(origin),
                (DatagramSource::Flow(id), false) => {
                    if let Some(flow) = self.flows.get_mut(id) {
                        flow.queued = false;
                    }
                }
                (DatagramSource::Published(index), false) => self.published[index].queued = false,
            }
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// When `work` has something to do, if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.sweep
    }

    /// Passes one datagram on; whether there may be more.
    fn pass_on(&mut self, id: u32, link: &mut Link, now: Instant) -> bool {
        let Some(flow) = self.flows.get_mut(id) else { return false };
        let HostSide::Own(socket) = &flow.host else { return false };
        match socket.recv(&mut self.buffer) {
            Ok(len) => {
                flow.used = now;
                wire::emit_datagram(link, flow.ends, &self.buffer[..len]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            // An ICMP message said so; more may follow.
            Err(error) => {
                let told = reach::reason(&error).is_some();
                lost(link, flow.ends, &[], &error);
                told
            }
        }
    }

    fn take_in(&mut self, index: usize, link: &mut Link, now: Instant) -> bool {
        let published = &self.published[index];
        let guest = published.guest_port;
        let (len, peer) = match published.socket.recv_from(&mut self.buffer) {
            Ok(received) => received,
            Err(error) => {
                return matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionRefused);
            }
        };
        let id = match self.by_peer.get(&(index, peer)) {
            Some(&id) => id,
            None => {
                let ends = Ends { guest, addr: GATEWAY, port: self.free_port(guest) };
                let host = HostSide::Peer { published: index, peer };
                match self.add(Flow { ends, host, used: now, queued: false }, now) {
                    Ok(id) => id,
                    Err(_) => return true,
                }
            }
        };
        if let Some(flow) = self.flows.get_mut(id) {
            flow.used = now;
            wire::emit_datagram(link, flow.ends, &self.buffer[..len]);
        }
        true
    }

    /// A port of the gateway that has no flow with this port of the guest.
    /// There are many more ports than flows.
    fn free_port(&mut self, guest: u16) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port == u16::MAX { FIRST_PORT } else { port + 1 };
            if !self.by_ends.contains_key(&Ends { guest, addr: GATEWAY, port }) {
                return port;
            }
        }
    }

    fn end_idle(&mut self, now: Instant) {
        let idle: Vec<u32> =
            self.flows.iter().filter(|(_, flow)| now >= flow.used + IDLE).map(|(id, _)| id).collect();
        for id in idle {
            self.remove(id);
        }
        self.sweep = (self.flows.len() > 0).then_some(now + SWEEP);
    }
}

/// Tells the guest that the host could not deliver a datagram, as far as its payload is known.
fn lost(link: &mut Link, ends: Ends, payload: &[u8], error: &io::Error) {
    tracing::debug!("UDP datagram to {}:{} lost: {error}", ends.addr, ends.port);
    if let Some(reason) = reach::reason(error) {
        wire::emit_udp_unreachable(link, ends, payload, reason);
    }
}
