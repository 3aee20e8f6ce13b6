//! TCP, both directions.

use super::*;
use guest_tcp::State;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

const SIZE: usize = 6 << 20;

/// Moves what the guest's socket received back out, and closes when all is done.
fn echo(rig: &mut Rig, handle: SocketHandle) {
    let socket = rig.tcp(handle);
    while socket.can_recv() && socket.can_send() {
        let data = socket.recv(|bytes| (0, bytes.to_vec())).unwrap();
        let sent = socket.send_slice(&data).unwrap();
        socket.recv(|_| (sent, ())).unwrap();
    }
    if socket.state() == State::CloseWait && !socket.can_recv() {
        socket.close();
    }
}

/// A host thread that sends noise, closes its direction, and checks that it comes back.
fn echo_client(host: SocketAddr, size: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let stream = TcpStream::connect(host).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sent = noise(size);
        let expected = sent.clone();
        let sender = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        (&stream).read_to_end(&mut back).unwrap();
        sender.join().unwrap();
        assert!(back == expected, "{} bytes came back of {}", back.len(), expected.len());
    })
}

fn published_echo(mut rig: Rig, size: usize) {
    let host = rig.net.published()[0].host;
    let handle = rig.tcp_socket();
    rig.tcp(handle).listen(80).unwrap();
    let client = echo_client(host, size);
    rig.until("the client is done", |rig| {
        echo(rig, handle);
        client.is_finished()
    });
    client.join().unwrap();
    rig.until("the connection is forgotten", |rig| rig.net.tcp.len() == 0);
}

#[test]
fn a_published_port_carries_megabytes_both_ways_and_half_closes() {
    published_echo(Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() }), SIZE);
}

#[test]
fn a_published_port_works_with_the_mtu_of_a_wire() {
    let config = UserConfig { publish: vec![publish(80, false)], mtu: 1500, ..config() };
    published_echo(Rig::new(config), SIZE / 4);
}

#[test]
fn a_guest_with_one_buffer_at_a_time_gets_everything() {
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    rig.buffers = 1;
    published_echo(rig, SIZE / 4);
}

#[test]
fn many_connections_at_once_are_kept_apart() {
    const COUNT: usize = 48;
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    let host = rig.net.published()[0].host;
    let handles: Vec<_> = (0..COUNT).map(|_| rig.tcp_socket()).collect();
    for &handle in &handles {
        rig.tcp(handle).listen(80).unwrap();
    }
    let clients: Vec<_> = (0..COUNT).map(|n| echo_client(host, 1000 + 7000 * n)).collect();
    rig.until("all clients are done", |rig| {
        for &handle in &handles {
            echo(rig, handle);
        }
        clients.iter().all(JoinHandle::is_finished)
    });
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_connection_that_comes_before_the_guest_is_taken_once_it_listens() {
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    let host = rig.net.published()[0].host;
    rig.booted = false;
    let client = echo_client(host, 1000);
    rig.until("the connection is accepted", |rig| rig.net.tcp.len() == 1);
    // Now the guest has a network, but nobody listens: it refuses for a while.
    rig.booted = true;
    let mut refusals = 0;
    rig.until("the guest refused a few times", |rig| {
        refusals += usize::from(rig.net.tcp.is_refused());
        refusals >= 3
    });
    let handle = rig.tcp_socket();
    rig.tcp(handle).listen(80).unwrap();
    rig.until("the client is done", |rig| {
        echo(rig, handle);
        client.is_finished()
    });
    client.join().unwrap();
}

#[test]
fn the_guest_reaches_the_hosts_loopback_through_the_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        // The guest has closed its direction, this one still works.
        stream.write_all(&got).unwrap();
    });
    let mut rig = Rig::new(config());
    let handle = rig.connect(GATEWAY, port);
    let (sent, mut done) = (noise(SIZE), 0);
    rig.until("everything is sent", |rig| {
        let socket = rig.tcp(handle);
        if socket.can_send() {
            done += socket.send_slice(&sent[done..]).unwrap();
        }
        done == sent.len()
    });
    rig.tcp(handle).close();
    let mut back = Vec::new();
    rig.until("everything is back", |rig| {
        let socket = rig.tcp(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), back.extend_from_slice(bytes))).unwrap();
        }
        !socket.may_recv()
    });
    assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
    server.join().unwrap();
    rig.until("the connection is forgotten", |rig| rig.net.tcp.len() == 0);
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut rig = Rig::new(config());
    let handle = rig.connect(GATEWAY, unused);
    rig.until("the guest's socket is closed", |rig| rig.tcp(handle).state() == State::Closed);
    assert_eq!(rig.net.tcp.len(), 0);
}

#[test]
fn addresses_that_do_not_exist_are_not_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new(config());
    // The host's loopback is the gateway, and nothing else.
    for addr in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 2, 99), DNS] {
        rig.connect(addr, port);
    }
    for _ in 0..20 {
        rig.step();
    }
    assert_eq!(rig.net.tcp.len(), 0);
}

#[test]
fn a_reset_by_the_host_reaches_the_guest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new(config());
    let handle = rig.connect(GATEWAY, port);
    rig.until("the guest is connected", |rig| rig.tcp(handle).may_send());
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    rig.until("the guest's socket is closed", |rig| rig.tcp(handle).state() == State::Closed);
    rig.until("the connection is forgotten", |rig| rig.net.tcp.len() == 0);
}

#[test]
fn a_reset_by_the_guest_reaches_the_host() {
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    let host = rig.net.published()[0].host;
    let handle = rig.tcp_socket();
    rig.tcp(handle).listen(80).unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    rig.until("the guest is connected", |rig| rig.tcp(handle).may_send());
    rig.tcp(handle).abort();
    rig.until("the connection is forgotten", |rig| rig.net.tcp.len() == 0);
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn nothing_is_due_when_nothing_happens() {
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    let host = rig.net.published()[0].host;
    let handle = rig.tcp_socket();
    rig.tcp(handle).listen(80).unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(b"hello").unwrap();
    rig.until("the guest has it", |rig| rig.tcp(handle).recv_queue() == 5);
    rig.until("it is quiet", |rig| !rig.step());
    // A timer of the handshake may be left over; it fires once.
    let now = Instant::now();
    let due = rig.net.poll(now);
    assert!(due.is_none_or(|at| at > now + Duration::from_millis(100)), "an idle connection spins");
}

#[test]
fn what_leads_nowhere_is_reset_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut rig = Rig::new(UserConfig { host_loopback: false, ..config() });
    for to in [GATEWAY, Ipv4Addr::LOCALHOST, Ipv4Addr::new(0, 0, 0, 1), Ipv4Addr::new(10, 0, 2, 77), DNS] {
        let handle = rig.connect(to, port);
        rig.until("a reset", |rig| rig.tcp(handle).state() == State::Closed);
    }
    assert_eq!(rig.net.tcp.len(), 0);
    assert!(listener.accept().is_err(), "it came through");
}
