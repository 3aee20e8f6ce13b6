//! UDP, both directions.

use super::*;
use smoltcp::socket::udp;
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
        rig.net.udp.send(ends, b"x", Instant::now());
    }
    assert_eq!(rig.net.udp.len(), udp_limit());
}

fn udp_limit() -> usize {
    super::super::udp::MAX_FLOWS
}
