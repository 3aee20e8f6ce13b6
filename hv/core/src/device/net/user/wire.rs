//! Parses the guest's frames, and builds small ones for it.

use super::link::Link;
use super::reach::is_local;
use super::{DNS, GATEWAY, GUEST};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpPacket, UdpPacket, UdpRepr,
};
use std::net::Ipv4Addr;

/// Hop limit of packets that start here.
const HOP_LIMIT: u8 = 64;
/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;
/// Bytes of a packet's payload that come back in the message that it leads nowhere: such messages have
/// 576 bytes at most (RFC 1812, 4.3.2.3), 56 of them headers.
const QUOTED: usize = 512;
/// Bytes of the headers of a UDP datagram: IPv4 without options, UDP.
const UDP_HEADERS: usize = 20 + UDP_HEADER;

/// The two ends of a TCP connection or UDP flow, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// The guest's port, at [`GUEST`].
    pub(super) guest: u16,
    /// The other end's address.
    pub(super) addr: Ipv4Addr,
    /// The other end's port.
    pub(super) port: u16,
}

/// What a TCP segment is for, from its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) rst: bool,
}

/// A frame of the guest that this network handles.
#[derive(Debug, PartialEq)]
pub(super) enum Inbound<'a> {
    Arp(ArpRepr),
    /// A message to the DHCP server.
    Dhcp(&'a [u8]),
    /// A TCP segment: the whole IP packet.
    Tcp(Ends, Flags, &'a [u8]),
    /// A UDP datagram: its payload.
    Udp(Ends, &'a [u8]),
    /// An ICMP message to an address of this network: where to, and the message.
    Icmp(Ipv4Addr, &'a [u8]),
}

/// Whether a packet is multicast, broadcast or to an invalid address: it is dropped without an answer, as on
/// every network (RFC 1122, 3.2.2).
fn is_unanswered(addr: Ipv4Addr) -> bool {
    let to_all = is_local(addr) && matches!(addr.octets()[3], 0 | 255);
    to_all || addr.is_multicast() || addr.is_broadcast() || addr.is_unspecified() || addr == GUEST
}

/// Validates a frame; `None` if this network does not handle it.
pub(super) fn parse(frame: &[u8]) -> Option<Inbound<'_>> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let packet = ArpPacket::new_checked(frame.payload()).ok()?;
            ArpRepr::parse(&packet).ok().map(Inbound::Arp)
        }
        EthernetProtocol::Ipv4 => parse_ipv4(frame.payload()),
        _ => None,
    }
}

fn parse_ipv4(bytes: &[u8]) -> Option<Inbound<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    // Packets of this network are never longer than its MTU, so there is no reason to send fragments.
    if packet.version() != 4 || packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    // Behind the IP packet there may be padding.
    let bytes = &bytes[..usize::from(packet.total_len())];
    let payload = &bytes[usize::from(packet.header_len())..];
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    if packet.next_header() == IpProtocol::Udp {
        let datagram = UdpPacket::new_checked(payload).ok()?;
        if datagram.dst_port() == 67 && datagram.src_port() == 68 {
            let ours = to == Ipv4Addr::BROADCAST || to == GATEWAY;
            return ours.then(|| Inbound::Dhcp(datagram.payload()));
        }
    }
    if from != GUEST || is_unanswered(to) {
        return None;
    }
    match packet.next_header() {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(payload).ok()?;
            let ends = Ends { guest: segment.src_port(), addr: to, port: segment.dst_port() };
            let flags = Flags { syn: segment.syn(), ack: segment.ack(), rst: segment.rst() };
            (ends.guest != 0 && ends.port != 0).then_some(Inbound::Tcp(ends, flags, bytes))
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(payload).ok()?;
            let ends = Ends { guest: datagram.src_port(), addr: to, port: datagram.dst_port() };
            (ends.guest != 0 && ends.port != 0).then_some(Inbound::Udp(ends, datagram.payload()))
        }
        IpProtocol::Icmp => Some(Inbound::Icmp(to, payload)),
        _ => None,
    }
}

/// Answers an ARP request for an address of this network.
pub(super) fn answer_arp(link: &mut Link, request: &ArpRepr, gateway: EthernetAddress) {
    let &ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = request
    else {
        return;
    };
    // There is no answer for the guest's own address: a guest that probes for it finds it free. All others
    // are answered for, so that packets to unused addresses come here and are refused at once.
    if !is_local(target_protocol_addr) || is_unanswered(target_protocol_addr) {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: gateway,
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    link.emit(EthernetProtocol::Arp, reply.buffer_len(), |bytes| {
        reply.emit(&mut ArpPacket::new_unchecked(bytes));
    });
}

/// Answers an echo request to an address of this network.
pub(super) fn answer_ping(link: &mut Link, to: Ipv4Addr, message: &[u8]) {
    if to != GATEWAY && to != DNS {
        return;
    }
    let Ok(packet) = Icmpv4Packet::new_checked(message) else { return };
    let checksums = ChecksumCapabilities::ignored();
    let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) = Icmpv4Repr::parse(&packet, &checksums) else {
        return;
    };
    let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
    emit_ip(link, to, GUEST, IpProtocol::Icmp, reply.buffer_len(), |bytes| {
        reply.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
    });
}

/// Tells the guest that a packet of its own leads nowhere. `start` is the beginning of that packet's payload.
fn emit_unreachable(
    link: &mut Link,
    (to, protocol): (Ipv4Addr, IpProtocol),
    start: &[u8],
    reason: Icmpv4DstUnreachable,
) {
    let header = Ipv4Repr {
        src_addr: GUEST,
        dst_addr: to,
        next_header: protocol,
        payload_len: start.len(),
        hop_limit: HOP_LIMIT,
    };
    let message = Icmpv4Repr::DstUnreachable { reason, header, data: start };
    // A port is refused by the host that it is on, everything else by the gateway.
    let from = if reason == Icmpv4DstUnreachable::PortUnreachable { to } else { GATEWAY };
    emit_ip(link, from, GUEST, IpProtocol::Icmp, message.buffer_len(), |bytes| {
        // A router that knows the largest packet names it here. It is not known here, and 0 says so (RFC
        // 1191, 4).
        bytes[4..8].fill(0);
        message.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::ignored());
    });
}

/// The same for a datagram of a flow, as far as its payload is known.
pub(super) fn emit_udp_unreachable(
    link: &mut Link,
    ends: Ends,
    payload: &[u8],
    reason: Icmpv4DstUnreachable,
) {
    let mut start = vec![0; UDP_HEADER + payload.len().min(QUOTED)];
    start[UDP_HEADER..].copy_from_slice(&payload[..payload.len().min(QUOTED)]);
    let mut header = UdpPacket::new_unchecked(&mut start[..]);
    header.set_src_port(ends.guest);
    header.set_dst_port(ends.port);
    header.set_len((UDP_HEADER + payload.len()) as u16);
    emit_unreachable(link, (ends.addr, IpProtocol::Udp), &start, reason);
}

/// The same for a segment: a whole IP packet.
pub(super) fn emit_tcp_unreachable(link: &mut Link, packet: &[u8], reason: Icmpv4DstUnreachable) {
    let Ok(packet) = Ipv4Packet::new_checked(packet) else { return };
    let start = packet.payload();
    emit_unreachable(link, (packet.dst_addr(), IpProtocol::Tcp), &start[..start.len().min(QUOTED)], reason);
}

/// Queues an IP packet.
fn emit_ip(
    link: &mut Link,
    from: Ipv4Addr,
    to: Ipv4Addr,
    next_header: IpProtocol,
    payload_len: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let ip = Ipv4Repr { src_addr: from, dst_addr: to, next_header, payload_len, hop_limit: HOP_LIMIT };
    let len = ip.buffer_len() + payload_len;
    if len > link.mtu() {
        return;
    }
    link.emit(EthernetProtocol::Ipv4, len, |bytes| {
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut *bytes), &ChecksumCapabilities::ignored());
        fill(&mut bytes[ip.buffer_len()..]);
    });
}

/// Queues a UDP datagram; drops it if it is longer than the MTU allows.
pub(super) fn emit_udp(
    link: &mut Link,
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) {
    let udp = UdpRepr { src_port: from.1, dst_port: to.1 };
    if len + UDP_HEADERS > link.mtu() {
        return;
    }
    emit_ip(link, from.0, to.0, IpProtocol::Udp, udp.header_len() + len, |bytes| {
        let (src, dst) = (IpAddress::Ipv4(from.0), IpAddress::Ipv4(to.0));
        let mut packet = UdpPacket::new_unchecked(bytes);
        udp.emit(&mut packet, &src, &dst, len, fill, &ChecksumCapabilities::ignored());
    });
}

/// The longest payload of a UDP datagram to the guest.
pub(super) fn max_datagram(link: &Link) -> usize {
    link.mtu() - UDP_HEADERS
}

/// Queues a UDP datagram of a flow for the guest.
pub(super) fn emit_datagram(link: &mut Link, ends: Ends, payload: &[u8]) {
    emit_udp(link, (ends.addr, ends.port), (GUEST, ends.guest), payload.len(), |bytes| {
        bytes.copy_from_slice(payload);
    });
}
