//! The smoltcp interface that all connections share.

use super::GATEWAY;
use super::conn::Side;
use super::{GUEST, IpAddress, IpEndpoint, IpListenEndpoint};
use crate::device::net::user::link::{Link, LinkDevice, capabilities};
use crate::device::net::user::reach;
use crate::device::net::user::wire::{self, Ends};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities};
use smoltcp::socket::tcp::ConnectError;
use smoltcp::wire::{HardwareAddress, Icmpv4DstUnreachable, IpCidr};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

/// A socket that claims to be due now, but was just served, is looked at again
/// after this time: a safety net against spinning.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) struct Stack {
    pub(super) iface: Interface,
    /// A set without sockets: what goes there is refused.
    no_sockets: SocketSet<'static>,
    /// smoltcp's time 0.
    epoch: Instant,
}

/// Has the capabilities of the link for the interface, and no packets.
struct NullDevice(u16);

impl Device for NullDevice {
    type RxToken<'a> = <LinkDevice<'a> as Device>::RxToken<'a>;
    type TxToken<'a> = <LinkDevice<'a> as Device>::TxToken<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        None
    }
    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Self::TxToken<'_>> {
        None
    }
    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(usize::from(self.0))
    }
}

impl Stack {
    pub(super) fn new(mtu: u16) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        // For initial sequence numbers. The keys of the hasher are random.
        config.random_seed = RandomState::new().hash_one(0);
        let mut iface = Interface::new(config, &mut NullDevice(mtu), smoltcp::time::Instant::ZERO);
        // This end of the wire is every address but the guest's.
        iface.set_any_ip(true);
        iface.update_ip_addrs(|addrs| {
            let _ = addrs.push(IpCidr::new(IpAddress::Ipv4(GATEWAY), super::super::PREFIX));
        });
        Stack { iface, no_sockets: SocketSet::new(Vec::new()), epoch: Instant::now() }
    }

    /// A time as smoltcp counts it.
    pub(super) fn at(&self, now: Instant) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(now.saturating_duration_since(self.epoch).as_micros() as i64)
    }

    /// When the sockets of a set have something to do.
    pub(super) fn due(&mut self, set: &SocketSet<'_>, now: Instant) -> Option<Instant> {
        let at = self.iface.poll_at(self.at(now), set)?;
        let at = self.epoch + Duration::from_micros(at.total_micros().max(0) as u64);
        Some(at.max(now + SHORTEST))
    }

    /// Answers a segment with a reset.
    pub(super) fn refuse(&mut self, packet: &[u8], link: &mut Link, now: Instant) {
        let mut device = LinkDevice { packet: Some(packet), link };
        self.iface.poll_ingress_single(self.at(now), &mut device, &mut self.no_sockets);
    }

    /// Refuses a connection for what connecting on the host ended with. A reset means that the port is
    /// closed. Another reason is sent first, as an ICMP message.
    pub(super) fn refuse_for(&mut self, error: &io::Error, packet: &[u8], link: &mut Link, now: Instant) {
        match reach::reason(error) {
            Some(Icmpv4DstUnreachable::PortUnreachable) | None => {}
            Some(reason) => wire::emit_tcp_unreachable(link, packet, reason),
        }
        self.refuse(packet, link, now);
    }

    /// Makes a socket connect to the guest.
    pub(super) fn connect(&mut self, side: &mut Side, ends: Ends) -> Result<(), ConnectError> {
        let guest = IpEndpoint { addr: IpAddress::Ipv4(GUEST), port: ends.guest };
        let local = IpListenEndpoint { addr: Some(IpAddress::Ipv4(ends.addr)), port: ends.port };
        side.socket().connect(self.iface.context(), guest, local)
    }
}
