//! What the network itself offers: DHCP, ping, DNS.

use super::*;
use smoltcp::socket::{dhcpv4, icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr};
use std::net::UdpSocket;

#[test]
fn dhcp_gives_the_guest_its_address() {
    let mut rig = Rig::new(config());
    rig.iface.update_ip_addrs(|addrs| addrs.clear());
    let handle = rig.sockets.add(dhcpv4::Socket::new());
    let mut given = None;
    rig.until("a lease", |rig| {
        if let Some(dhcpv4::Event::Configured(config)) = rig.get::<dhcpv4::Socket>(handle).poll() {
            given = Some((config.address, config.router, config.dns_servers.to_vec()));
        }
        given.is_some()
    });
    assert_eq!(given.unwrap(), (Ipv4Cidr::new(GUEST, PREFIX), Some(GATEWAY), vec![DNS]));
}

#[test]
fn the_gateway_answers_pings() {
    let mut rig = Rig::new(config());
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let handle = rig.sockets.add(icmp::Socket::new(buffer(), buffer()));
    let socket = rig.get::<icmp::Socket>(handle);
    socket.bind(icmp::Endpoint::Ident(7)).unwrap();
    let request = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data: b"hello" };
    let bytes = socket.send(request.buffer_len(), IpAddress::Ipv4(GATEWAY)).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::ignored());
    rig.until("a reply", |rig| rig.get::<icmp::Socket>(handle).can_recv());
    let (reply, from) = rig.get::<icmp::Socket>(handle).recv().unwrap();
    assert_eq!(from, IpAddress::Ipv4(GATEWAY));
    let packet = Icmpv4Packet::new_checked(reply).unwrap();
    let expected = Icmpv4Repr::EchoReply { ident: 7, seq_no: 1, data: b"hello" };
    assert_eq!(Icmpv4Repr::parse(&packet, &ChecksumCapabilities::ignored()).unwrap(), expected);
}

/// A query with this id; what is asked does not matter to a forwarder.
fn query(id: u8) -> Vec<u8> {
    let mut message = vec![0xab, id, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(b"\x07example\x00\x00\x01\x00\x01");
    message
}

fn ask(rig: &mut Rig, id: u8) -> SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let handle = rig.sockets.add(udp::Socket::new(buffer(), buffer()));
    let socket = rig.get::<udp::Socket>(handle);
    socket.bind(5353).unwrap();
    socket.send_slice(&query(id), (IpAddress::Ipv4(DNS), 53)).unwrap();
    handle
}

fn answer(rig: &mut Rig, handle: SocketHandle) -> Vec<u8> {
    rig.until("an answer", |rig| rig.get::<udp::Socket>(handle).can_recv());
    let (answer, meta) = rig.get::<udp::Socket>(handle).recv().unwrap();
    assert_eq!((meta.endpoint.addr, meta.endpoint.port), (IpAddress::Ipv4(DNS), 53));
    answer.to_vec()
}

#[test]
fn queries_go_to_the_first_name_server_that_works() {
    // Nobody listens at the first one.
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nameservers = vec![dead, server.local_addr().unwrap()];
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let (len, peer) = server.recv_from(&mut buffer).unwrap();
        // Noise first: an answer to something else.
        server.send_to(&query(0), peer).unwrap();
        buffer[2] |= 0x80;
        server.send_to(&buffer[..len], peer).unwrap();
    });
    let mut rig = Rig::new(UserConfig { nameservers: Some(nameservers), ..config() });
    let handle = ask(&mut rig, 1);
    let answer = answer(&mut rig, handle);
    let mut expected = query(1);
    expected[2] |= 0x80;
    assert_eq!(answer, expected);
    thread.join().unwrap();
}

#[test]
fn without_name_servers_queries_fail() {
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for nameservers in [vec![], vec![dead]] {
        let mut rig = Rig::new(UserConfig { nameservers: Some(nameservers), ..config() });
        let handle = ask(&mut rig, 2);
        let answer = answer(&mut rig, handle);
        assert_eq!(answer[..2], query(2)[..2]);
        assert_eq!((answer[2] & 0x80, answer[3] & 0x0f), (0x80, 2), "SERVFAIL");
    }
}

/// A name server that answers queries with what `answer` makes of them.
fn server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static, address: &str) -> SocketAddr {
    let server = UdpSocket::bind((address, 0)).unwrap();
    let at = server.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, peer)) = server.recv_from(&mut buffer) {
            let mut message = answer(&buffer[..len]);
            message[2] |= 0x80;
            let _ = server.send_to(&message, peer);
        }
    });
    at
}

#[test]
fn a_server_that_fails_is_no_reason_to_give_up() {
    let failing = server(
        |query| {
            let mut message = query.to_vec();
            message[3] |= 5;
            message
        },
        "127.0.0.1",
    );
    let working = server(<[u8]>::to_vec, "::1");
    let mut rig = Rig::new(UserConfig { nameservers: Some(vec![failing, working]), ..config() });
    let handle = ask(&mut rig, 3);
    let answer = answer(&mut rig, handle);
    assert_eq!((answer[0], answer[1], answer[2], answer[3]), (0xab, 3, 0x81, 0));
}

#[test]
fn a_long_answer_is_cut_and_says_so() {
    let long = server(|query| [query, &[0; 2000]].concat(), "127.0.0.1");
    let mut rig = Rig::new(UserConfig { nameservers: Some(vec![long]), ..config() });
    let handle = ask(&mut rig, 4);
    let cut = answer(&mut rig, handle);
    assert_eq!((cut.len(), cut[2] & 0x02), (query(4).len(), 0x02), "cut, and said");
    // With EDNS a client says that it takes more.
    let mut asked = query(5);
    asked[11] = 1;
    asked.extend([0, 0, 41, 0x0f, 0xff, 0, 0, 0, 0, 0, 0]);
    rig.get::<udp::Socket>(handle).send_slice(&asked, (IpAddress::Ipv4(DNS), 53)).unwrap();
    let whole = answer(&mut rig, handle);
    assert_eq!((whole.len(), whole[2] & 0x02), (asked.len() + 2000, 0));
}

#[test]
fn over_tcp_the_first_server_that_takes_the_connection_is_asked() {
    use std::io::{Read, Write};
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let nameservers = Some(vec![dead, listener.local_addr().unwrap()]);
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let mut rig = Rig::new(UserConfig { nameservers, host_loopback: false, ..config() });
    let handle = rig.connect(DNS, 53);
    rig.until("a connection", |rig| rig.tcp(handle).may_send());
    rig.tcp(handle).send_slice(b"query").unwrap();
    rig.until("the answer", |rig| rig.tcp(handle).recv_queue() == 5);
    thread.join().unwrap();
}

#[test]
fn names_of_the_hosts_own_list_are_answered_without_a_server() {
    use std::io::Write;
    let mut hosts = tempfile::NamedTempFile::new().unwrap();
    writeln!(hosts, "192.0.2.9 example").unwrap();
    let mut rig = Rig::new(UserConfig { hosts: hosts.path().into(), ..config() });
    let handle = ask(&mut rig, 6);
    let answer = answer(&mut rig, handle);
    assert_eq!((answer[1], answer[7]), (6, 1));
    assert!(answer.ends_with(&[192, 0, 2, 9]));
}
