//! Figures, on demand: `cargo test --release -p hv --lib throughput -- --ignored --nocapture`.
//!
//! The guest's stack runs in the same thread as the network, so what is
//! printed is what both together cost, and a lower bound for the network.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const BULK: usize = 512 << 20;

fn drain(mut stream: TcpStream) -> usize {
    let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return total,
            count => total += count,
        }
    }
}

fn fill(mut stream: TcpStream) {
    let buffer = vec![1; 256 << 10];
    for _ in 0..BULK / buffer.len() {
        stream.write_all(&buffer).unwrap();
    }
}

fn report(what: &str, bytes: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {:.0} MB/s", bytes as f64 / seconds / 1e6);
}

#[test]
#[ignore = "a measurement that asserts no time: run with --release -- --ignored --nocapture"]
fn bulk_throughput() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let start = Instant::now();
    let sender = std::thread::spawn(move || fill(TcpStream::connect(at).unwrap()));
    let total = drain(listener.accept().unwrap().0);
    sender.join().unwrap();
    report("native loopback", total, start);

    for mtu in [1500, 9000, DEFAULT_MTU, MAX_MTU] {
        let publish = vec![publish(80, false)];
        let mut rig = Rig::new(UserConfig { publish, mtu, ..config() });
        let host = rig.net.published()[0].host;
        let handle = rig.tcp_socket();
        rig.tcp(handle).listen(80).unwrap();
        let start = Instant::now();
        let sender = std::thread::spawn(move || fill(TcpStream::connect(host).unwrap()));
        let mut total = 0;
        rig.until("the guest has everything", |rig| {
            let socket = rig.tcp(handle);
            while socket.can_recv() {
                total += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
            }
            total == BULK
        });
        report(&format!("host to guest, MTU {mtu}"), total, start);
        sender.join().unwrap();

        let mut rig = Rig::new(UserConfig { mtu, ..config() });
        let at = listener.local_addr().unwrap();
        let handle = rig.connect(GATEWAY, at.port());
        let start = Instant::now();
        let accepting = listener.try_clone().unwrap();
        let receiver = std::thread::spawn(move || drain(accepting.accept().unwrap().0));
        let mut total = 0;
        rig.until("the host has everything", |rig| {
            let socket = rig.tcp(handle);
            while total < BULK && socket.can_send() {
                total += socket.send(|bytes| (bytes.len(), bytes.len())).unwrap();
            }
            if total >= BULK {
                socket.close();
            }
            receiver.is_finished()
        });
        report(&format!("guest to host, MTU {mtu}"), receiver.join().unwrap(), start);
    }
}

#[test]
#[ignore = "a measurement that asserts no time: run with --release -- --ignored --nocapture"]
fn small_requests() {
    const CLIENTS: usize = 64;
    const ROUNDS: usize = 2000;
    let mut rig = Rig::new(UserConfig { publish: vec![publish(80, false)], ..config() });
    let host = rig.net.published()[0].host;
    let handles: Vec<_> = (0..CLIENTS).map(|_| rig.tcp_socket()).collect();
    for &handle in &handles {
        rig.tcp(handle).listen(80).unwrap();
    }
    let start = Instant::now();
    // One thread asks all of them in turn: the load generator must not be what is measured.
    let clients = std::thread::spawn(move || {
        let mut streams: Vec<_> = (0..CLIENTS).map(|_| TcpStream::connect(host).unwrap()).collect();
        let mut answer = [0; 256];
        for _ in 0..ROUNDS {
            for stream in &mut streams {
                stream.write_all(&[1; 100]).unwrap();
            }
            for stream in &mut streams {
                stream.read_exact(&mut answer).unwrap();
            }
        }
    });
    rig.until("all requests are answered", |rig| {
        for &handle in &handles {
            let socket = rig.tcp(handle);
            if socket.recv_queue() >= 100 {
                socket.recv(|bytes| (bytes.len(), ())).unwrap();
                socket.send_slice(&[2; 256]).unwrap();
            }
        }
        clients.is_finished()
    });
    clients.join().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("requests over {CLIENTS} connections: {:.0}/s", (CLIENTS * ROUNDS) as f64 / seconds);
}
