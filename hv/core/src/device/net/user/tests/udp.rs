//! UDP, both directions.

use super::*;
use smoltcp::socket::{icmp, udp};
use smoltcp::wire::{Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr};
use std::net::UdpSocket;

fn socket(rig: &mut Rig, port: u16) -> SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 256 << 10]);
    let handle = rig.sockets.add(udp::Socket::new(buffer(), buffer()));
    rig.get::<udp::Socket>(handle).bind(port).unwrap();
    handle
}

fn host_socket() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[test]
fn the_guest_sends_and_gets_answers() {
    let (host, port) = host_socket();
    let mut rig = Rig::new(config());
    let handle = socket(&mut rig, 5000);
    let data = noise(20_000);
    for len in [0, 1, 1000, 20_000] {
        rig.get::<udp::Socket>(handle).send_slice(&data[..len], (IpAddress::Ipv4(GATEWAY), port)).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut from = None;
        rig.until("the host has it", |_| {
            from = host.recv_from(&mut buffer).ok();
            from.is_some()
        });
        let (got, peer) = from.unwrap();
        assert_eq!(buffer[..got], data[..len]);
        host.send_to(&buffer[..got], peer).unwrap();
        rig.until("the answer is there", |rig| rig.get::<udp::Socket>(handle).can_recv());
        let (answer, meta) = rig.get::<udp::Socket>(handle).recv().unwrap();
        assert_eq!(answer, &data[..len]);
        assert_eq!((meta.endpoint.addr, meta.endpoint.port), (IpAddress::Ipv4(GATEWAY), port));
    }
    assert_eq!(rig.net.udp.len(), 1);
}

#[test]
fn a_published_port_tells_its_peers_apart() {
    let mut rig = Rig::new(UserConfig { publish: vec![publish(53, true)], ..config() });
    let at = rig.net.published()[0].host;
    let handle = socket(&mut rig, 53);
    let (one, two) = (host_socket().0, host_socket().0);
    one.send_to(b"one", at).unwrap();
    two.send_to(b"two", at).unwrap();
    let mut buffer = [0; 64];
    let (mut first, mut second) = (None, None);
    rig.until("both have their answers", |rig| {
        let guest = rig.get::<udp::Socket>(handle);
        while guest.can_recv() {
            let (data, meta) = guest.recv().unwrap();
            let answer = [data, b" back"].concat();
            guest.send_slice(&answer, meta.endpoint).unwrap();
        }
        if let Ok((len, _)) = one.recv_from(&mut buffer) {
            first = Some(buffer[..len].to_vec());
        }
        if let Ok((len, _)) = two.recv_from(&mut buffer) {
            second = Some(buffer[..len].to_vec());
        }
        first.is_some() && second.is_some()
    });
    assert_eq!(first.unwrap(), b"one back");
    assert_eq!(second.unwrap(), b"two back");
}

#[test]
fn flows_are_bounded() {
    let (_host, port) = host_socket();
    let mut rig = Rig::new(config());
    for guest in 0..udp_limit() + 10 {
        let ends = wire::Ends { guest: 1000 + guest as u16, addr: GATEWAY, port };
        rig.net.udp.send(ends, b"x", &mut rig.net.link, Instant::now());
    }
    assert_eq!(rig.net.udp.len(), udp_limit());
}

fn udp_limit() -> usize {
    super::super::udp::MAX_FLOWS
}

/// A socket that hears what becomes of datagrams from a port.
fn errors_of(rig: &mut Rig, port: u16) -> SocketHandle {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let handle = rig.sockets.add(icmp::Socket::new(buffer(), buffer()));
    rig.get::<icmp::Socket>(handle).bind(icmp::Endpoint::Udp(port.into())).unwrap();
    handle
}

/// Who says why a datagram did not arrive, and where it was to go.
fn error(rig: &mut Rig, handle: SocketHandle) -> (IpAddress, Icmpv4DstUnreachable, Ipv4Addr) {
    rig.until("an error", |rig| rig.get::<icmp::Socket>(handle).can_recv());
    let (message, from) = rig.get::<icmp::Socket>(handle).recv().unwrap();
    let packet = Icmpv4Packet::new_checked(message).unwrap();
    match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored()).unwrap() {
        Icmpv4Repr::DstUnreachable { reason, header, .. } => (from, reason, header.dst_addr),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_closed_loopback_is_said_at_once_and_hears_nothing() {
    let (host, port) = host_socket();
    let mut rig = Rig::new(UserConfig { host_loopback: false, ..config() });
    let handle = socket(&mut rig, 5000);
    let errors = errors_of(&mut rig, 5000);
    for (to, said_by, why) in [
        (GATEWAY, GATEWAY, Icmpv4DstUnreachable::PortUnreachable),
        (Ipv4Addr::LOCALHOST, GATEWAY, Icmpv4DstUnreachable::NetUnreachable),
        (Ipv4Addr::new(127, 1, 2, 3), GATEWAY, Icmpv4DstUnreachable::NetUnreachable),
        (Ipv4Addr::new(0, 0, 0, 1), GATEWAY, Icmpv4DstUnreachable::NetUnreachable),
        (Ipv4Addr::new(10, 0, 2, 77), GATEWAY, Icmpv4DstUnreachable::HostUnreachable),
        (DNS, DNS, Icmpv4DstUnreachable::PortUnreachable),
    ] {
        rig.get::<udp::Socket>(handle).send_slice(b"let me in", (IpAddress::Ipv4(to), port)).unwrap();
        assert_eq!(error(&mut rig, errors), (IpAddress::Ipv4(said_by), why, to));
    }
    assert_eq!(rig.net.udp.len(), 0);
    assert!(host.recv_from(&mut [0; 64]).is_err(), "it came through");
}

#[test]
fn a_port_where_nobody_listens_is_said() {
    let (host, port) = host_socket();
    drop(host);
    let mut rig = Rig::new(config());
    let handle = socket(&mut rig, 5000);
    let errors = errors_of(&mut rig, 5000);
    // The second one finds the error of the first in its way, if that was not heard of before.
    for _ in 0..2 {
        rig.get::<udp::Socket>(handle).send_slice(b"anybody?", (IpAddress::Ipv4(GATEWAY), port)).unwrap();
        let expected = (IpAddress::Ipv4(GATEWAY), Icmpv4DstUnreachable::PortUnreachable, GATEWAY);
        assert_eq!(error(&mut rig, errors), expected);
    }
}
