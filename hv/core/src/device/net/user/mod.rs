//! The user-mode network: a network of the guest's own inside this process.
//!
//! It needs no rights, no device and no other program: what the guest sends is
//! taken apart here, and leaves through ordinary sockets of the host.
//!
//! ```text
//!                    10.0.2.2  gateway: ARP, DHCP, ping; the host's 127.0.0.1 if that is opened
//! guest 10.0.2.15 ── 10.0.2.3  name server: the host's /etc/hosts, then those of its /etc/resolv.conf
//!                    anything  TCP and UDP, by sockets of the host
//! ```
//!
//! Published ports lead from sockets of the host to the guest; connections
//! there come from the gateway as the guest sees them.
//!
//! # Bounds
//!
//! A guest cannot grow the host: per network there are at most 1024 TCP
//! connections with 512 KiB of buffers each, 512 UDP flows, 64 DNS queries, and
//! 64 frames on their way. Everything else waits in the kernel or is dropped.
//! When the guest takes no frames, TCP connections close their windows.
//!
//! # What it does not do
//!
//! IPv6, IP fragments, ICMP beyond echo to its own addresses and "unreachable", and multicast.
//! Destinations in 0.0.0.0/8, 127.0.0.0/8, 240.0.0.0/4 and 10.0.2.0/24 (but for those above) do not exist.
//!
//! # What leads nowhere
//!
//! is said at once: TCP gets a reset, UDP an ICMP message, and so does TCP if more can be said than
//! that nobody listens. This goes for destinations that do not exist, for the gateway while the host's
//! loopback is closed ([`UserConfig::host_loopback`]), and for what connecting on the host ends with.

mod dhcp;
mod dns;
mod link;
mod reach;
mod slab;
mod tcp;
mod udp;
mod wire;

use super::publish::Listener;
use super::{BindError, Network, Publish};
use crate::reactor::Registrar;
use hv_abi::io::net::{NetConfig, NetFeatures};
use link::Link;
use mio::event::Event;
use reach::Reach;
use smoltcp::wire::EthernetAddress;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;
use wire::Inbound;

/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The gateway's address; the host's 127.0.0.1 where [`UserConfig::host_loopback`] says so.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server's address.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Bits of the network's prefix.
pub const PREFIX: u8 = 24;
/// The gateway's hardware address.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

/// MTU unless told otherwise, in bytes. Frames never leave memory, so large ones
/// save work; a frame of it is 32 KiB, eight pages.
pub const DEFAULT_MTU: u16 = 32 * 1024 - 14;
/// The smallest MTU, in bytes: what every IPv4 host has to take.
pub const MIN_MTU: u16 = 576;
/// The largest MTU, in bytes: a frame of it fits 64 KiB.
pub const MAX_MTU: u16 = 65_521;

// Keys of descriptors: the kind, and a number below 2^24.
const TCP_KEY: u32 = 1 << 24;
const UDP_KEY: u32 = 2 << 24;
const DNS_KEY: u32 = 3 << 24;
const LISTENER_KEY: u32 = 4 << 24;
const DATAGRAM_KEY: u32 = 5 << 24;
const NUMBER: u32 = (1 << 24) - 1;

/// What a [`UserNet`] is to be like.
#[derive(Clone, Debug)]
pub struct UserConfig {
    /// The guest's hardware address; a locally administered unicast one.
    pub mac: [u8; 6],
    /// Most bytes of an IP packet; brought into [`MIN_MTU`]`..=`[`MAX_MTU`].
    pub mtu: u16,
    /// Ports of the host that lead to the guest.
    pub publish: Vec<Publish>,
    /// Where DNS queries go, in this order; at most three. `Some` of an empty list: they fail.
    /// `None`: to those of `resolv_conf`, which is followed when it changes.
    pub nameservers: Option<Vec<SocketAddr>>,
    /// The host's list of name servers, `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Names that the host knows without a name server, `/etc/hosts`; read once.
    pub hosts: PathBuf,
    /// Whether the guest reaches services on the host's loopback interface, at [`GATEWAY`]. Services there
    /// mostly trust all local connections; so this is off by default. Addresses of the host's other
    /// interfaces are reached in any case, as by any program of the host.
    pub host_loopback: bool,
}

impl UserConfig {
    /// The default network for a guest with this hardware address: nothing
    /// published, the host's loopback closed, and the name servers of the host.
    pub fn new(mac: [u8; 6]) -> Self {
        UserConfig {
            mac,
            mtu: DEFAULT_MTU,
            publish: Vec::new(),
            nameservers: None,
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            host_loopback: false,
        }
    }
}

/// A user-mode network, see the [module](self).
pub struct UserNet {
    config: NetConfig,
    link: Link,
    tcp: tcp::Tcp,
    udp: udp::Udp,
    dns: dns::Dns,
    published: Vec<Publish>,
    /// The time of the present round; reading the clock per frame is not worth it.
    now: Instant,
}

impl UserNet {
    /// Makes the network, and opens the published ports on the host.
    ///
    /// # Errors
    ///
    /// If a published port cannot be opened: it is in use, or this user may not, or the host has no such address.
    pub fn new(config: UserConfig) -> Result<Self, BindError> {
        let mtu = config.mtu.clamp(MIN_MTU, MAX_MTU);
        let reach = Reach { host_loopback: config.host_loopback };
        let mut tcp = tcp::Tcp::new(mtu, reach);
        let mut udp = udp::Udp::new(reach);
        let mut published = Vec::new();
        for publish in config.publish {
            let (listener, host) = publish.bind()?;
            match listener {
                Listener::Tcp(listener) => tcp.publish(listener, publish.guest_port),
                Listener::Udp(socket) => udp.publish(socket, publish.guest_port),
            }
            published.push(Publish { host, ..publish });
        }
        Ok(UserNet {
            config: NetConfig {
                mac: config.mac,
                mtu,
                features: (NetFeatures::CHECKSUM_FREE | NetFeatures::ADDRESS).bits(),
                address: GUEST.octets(),
                gateway: GATEWAY.octets(),
                dns: DNS.octets(),
                prefix: PREFIX,
                reserved: [0; 3],
            },
            link: Link::new(config.mac, GATEWAY_MAC, mtu),
            tcp,
            udp,
            dns: dns::Dns::new(config.nameservers, &config.resolv_conf, &config.hosts),
            published,
            now: Instant::now(),
        })
    }

    /// The published ports, with the host ports that the kernel chose where 0 was asked for.
    pub fn published(&self) -> &[Publish] {
        &self.published
    }

    fn work(&mut self) {
        self.dns.work(&mut self.link, self.now);
        self.udp.work(&mut self.link, self.now);
        self.tcp.work(&mut self.link, self.now);
    }
}

impl Network for UserNet {
    fn config(&self) -> NetConfig {
        self.config
    }

    fn start(&mut self, io: Registrar) -> io::Result<()> {
        self.dns.start(io.try_clone()?);
        self.udp.start(io.try_clone()?)?;
        self.tcp.start(io)
    }

    fn send(&mut self, frame: &[u8], now: Instant) {
        let link = &mut self.link;
        match wire::parse(frame) {
            None => {}
            Some(Inbound::Tcp(ends, flags, packet)) => {
                if ends.addr == DNS && flags.syn {
                    self.tcp.set_nameservers(self.dns.servers());
                }
                self.tcp.segment(ends, flags, packet, link, now);
            }
            Some(Inbound::Udp(ends, payload)) if (ends.addr, ends.port) == (DNS, 53) => {
                self.dns.query(ends.guest, payload, link, now);
            }
            Some(Inbound::Udp(ends, payload)) => self.udp.send(ends, payload, link, now),
            Some(Inbound::Arp(request)) => wire::answer_arp(link, &request, EthernetAddress(GATEWAY_MAC)),
            Some(Inbound::Dhcp(message)) => dhcp::answer(link, message),
            Some(Inbound::Icmp(to, message)) => wire::answer_ping(link, to, message),
        }
    }

    fn ready(&mut self, key: u32, event: &Event) {
        let number = key & NUMBER;
        match key & !NUMBER {
            TCP_KEY => self.tcp.ready(number, event),
            UDP_KEY => self.udp.ready(number),
            DNS_KEY => self.dns.ready(number),
            LISTENER_KEY => self.tcp.listener_ready(number),
            DATAGRAM_KEY => self.udp.published_ready(number),
            _ => {}
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.now = now;
        self.work();
        // With a full queue nothing can be done before the guest takes a frame.
        if self.link.has_room() && (self.tcp.can_accept() || self.tcp.has_work() || self.udp.has_work()) {
            return Some(now);
        }
        [self.tcp.deadline(), self.udp.deadline(), self.dns.deadline()].into_iter().flatten().min()
    }

    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) {
        loop {
            while let Some(frame) = self.link.front() {
                if !deliver(frame) {
                    return;
                }
                self.link.pop();
            }
            if !self.tcp.has_work() && !self.udp.has_work() {
                return;
            }
            self.work();
            if self.link.front().is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
