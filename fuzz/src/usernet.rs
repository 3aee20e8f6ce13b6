//! The user-mode network: frames of a guest, and hosts that answer, end and say nothing.
//!
//! It runs in a network namespace of its own, where nothing but the loopback is: sockets that frames
//! ask for are real, and lead nowhere else.

use crate::{Input, Seed, cell};
use hv::device::net::user::{self, GATEWAY, GUEST, UserConfig, UserNet};
use hv::device::net::{Network, Publish};
use hv::reactor::Registrar;
use mio::{Events, Poll};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Frames that a guest takes in a row.
const TAKEN: usize = 100;

/// The hosts of the namespace: on one port of its loopback they listen, and send datagrams back.
struct World {
    listener: TcpListener,
    datagrams: UdpSocket,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    fn new() -> World {
        cell::enter().expect("a network namespace of its own, which takes root or `unshare --map-root-user`");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).expect("it is free here");
        let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, PORT)).expect("it is free here");
        listener.set_nonblocking(true).expect("a socket");
        datagrams.set_nonblocking(true).expect("a socket");
        World { listener, datagrams }
    }

    /// Unread data is dropped, so that each input begins with the same state.
    fn clear(&self) {
        while let Ok((peer, _)) = self.listener.accept() {
            reset(&peer);
        }
        while self.datagrams.recv_from(&mut [0; 1]).is_ok() {}
    }
}

/// Addresses with a listener.
const PORT: u16 = 9000;
/// A published port of the guest.
const SERVED: u16 = 80;

/// One end of a connection, as the guest keeps count.
#[derive(Clone, Copy, Default)]
struct Count {
    /// The guest's next sequence number.
    seq: u32,
    /// What it acknowledges: what came last, and its length.
    ack: u32,
}

struct Rig<'a> {
    net: UserNet,
    poll: Poll,
    events: Events,
    world: &'a World,
    peers: Vec<TcpStream>,
    now: Instant,
    /// By the low bits of the guest's port.
    counts: [Count; 4],
}

/// Whether this process may make the namespace.
pub fn can_run() -> bool {
    std::thread::spawn(|| cell::enter().is_ok()).join().unwrap_or(false)
}

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let world = WORLD.take().unwrap_or_else(World::new);
    drive(&world, bytes);
    WORLD.set(Some(world));
}

fn drive(world: &World, bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flags = input.byte();
    let publish = |udp| Publish { host: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), guest_port: SERVED, udp };
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let mut net = UserNet::new(UserConfig {
        mac: MAC,
        mtu: if flags & 1 == 0 { 1500 } else { user::DEFAULT_MTU },
        publish: if flags & 2 == 0 { Vec::new() } else { vec![publish(false), publish(true)] },
        nameservers: Some(if flags & 4 == 0 { Vec::new() } else { vec![nowhere] }),
        host_loopback: flags & 8 == 0,
        hosts: Default::default(),
        ..UserConfig::new(MAC)
    })
    .expect("a network");
    let poll = Poll::new().expect("a poll");
    net.start(Registrar::new(poll.registry(), 0).expect("a registrar")).expect("it starts");
    let now = Instant::now();
    let events = Events::with_capacity(64);
    let mut rig = Rig { net, poll, events, world, peers: Vec::new(), now, counts: Default::default() };
    while input.more() {
        match input.byte() % 8 {
            0 => rig.send(input.bytes()),
            1 | 2 => rig.segment(&mut input),
            3 => {
                let (from, to, place) = (input.half(), input.half(), input.byte());
                let payload = input.bytes();
                rig.send(&ipv4(17, destination(place), &udp(from, to, payload)));
            }
            4 => {
                rig.now += Duration::from_millis(u64::from(input.half()));
                rig.round(TAKEN);
            }
            5 => rig.round(input.byte().into()),
            6 => rig.host(&mut input),
            _ => rig.round(TAKEN),
        }
    }
    rig.round(TAKEN);
    rig.peers.iter().for_each(reset);
    world.clear();
}

/// Its end leaves nothing in the kernel.
fn reset(peer: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(peer, Some(Duration::ZERO));
}

/// Where the guest sends to.
fn destination(place: u8) -> Ipv4Addr {
    match place % 8 {
        0..4 => GATEWAY,
        4 => user::DNS,
        5 => Ipv4Addr::BROADCAST,
        6 => Ipv4Addr::new(192, 0, 2, place),
        _ => Ipv4Addr::new(10, 0, 2, place),
    }
}

impl Rig<'_> {
    fn send(&mut self, frame: &[u8]) {
        // As the device does: nothing shorter than a header, nothing longer than the MTU.
        let limit = usize::from(Network::config(&self.net).mtu) + 14;
        if frame.len() >= 14 {
            self.net.send(&frame[..frame.len().min(limit)], self.now);
        }
    }

    /// Everybody's turn; the guest takes this many frames.
    fn round(&mut self, mut room: usize) {
        self.poll.poll(&mut self.events, Some(Duration::ZERO)).expect("it can be polled");
        for event in &self.events {
            self.net.ready(event.token().0 as u32, event);
        }
        self.net.poll(self.now);
        let (counts, mtu) = (&mut self.counts, usize::from(Network::config(&self.net).mtu));
        self.net.receive(&mut |frame| {
            assert!((14..=mtu + 14).contains(&frame.len()), "{}", frame.len());
            assert_eq!(frame[..6], MAC);
            if room == 0 {
                return false;
            }
            room -= 1;
            note(counts, frame);
            true
        });
        self.net.poll(self.now);
    }

    /// A TCP segment whose numbers are those of its connection, or near them.
    fn segment(&mut self, input: &mut Input<'_>) {
        let (shape, flags) = (input.byte(), input.byte() & 0x3f);
        let place = input.byte();
        let index = usize::from(shape & 3);
        let (from, to) = match shape >> 2 & 3 {
            0 | 1 => (1000 + index as u16, PORT),
            2 => (SERVED, 20_000 + index as u16),
            _ => (1000 + index as u16, input.half()),
        };
        let count = &mut self.counts[index];
        let near = |number: u32, input: &mut Input<'_>| match input.byte() {
            0..192 => number,
            192..224 => number.wrapping_add(u32::from(input.byte())).wrapping_sub(128),
            _ => input.word(),
        };
        let (seq, ack) = (near(count.seq, input), near(count.ack, input));
        let window = if shape & 16 == 0 { 65_535 } else { input.half() };
        let options = if shape & 32 == 0 { &[][..] } else { input.bytes() };
        let options = &options[..options.len().min(40) & !3];
        let payload = vec![b'x'; if shape & 64 == 0 { 0 } else { usize::from(input.half() % 1460) }];
        let mut tcp = Vec::with_capacity(20 + options.len() + payload.len());
        tcp.extend(from.to_be_bytes());
        tcp.extend(to.to_be_bytes());
        tcp.extend(seq.to_be_bytes());
        tcp.extend(ack.to_be_bytes());
        tcp.extend([((20 + options.len()) / 4 * 16) as u8, flags]);
        tcp.extend(window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(&payload);
        // SYN and FIN take a number, too.
        count.seq =
            seq.wrapping_add(payload.len() as u32 + u32::from(flags & 2 != 0) + u32::from(flags & 1 != 0));
        self.send(&ipv4(6, destination(place % 7), &tcp));
    }

    /// Something happens outside.
    fn host(&mut self, input: &mut Input<'_>) {
        let (what, which) = (input.byte() % 7, input.byte());
        let peer = usize::from(which).checked_rem(self.peers.len());
        match (what, peer) {
            (0, _) => {
                if let Ok((peer, _)) = self.world.listener.accept() {
                    self.adopt(peer);
                }
            }
            (1, _) => {
                let Some(place) = self.net.published().first().map(|publish| publish.host) else { return };
                if let Ok(peer) = TcpStream::connect(place) {
                    self.adopt(peer);
                }
            }
            (2, _) => {
                let Some(place) = self.net.published().last().map(|publish| publish.host) else { return };
                let _ = self.world.datagrams.send_to(input.bytes(), place);
            }
            (3, _) => {
                let mut bytes = [0; 2048];
                if let Ok((count, from)) = self.world.datagrams.recv_from(&mut bytes) {
                    let _ = self.world.datagrams.send_to(&bytes[..count], from);
                }
            }
            (4, Some(peer)) => drop(self.peers[peer].write(&vec![b'y'; usize::from(input.half())])),
            (5, Some(peer)) => {
                let mut bytes = [0; 4096];
                while let Ok(1..) = self.peers[peer].read(&mut bytes) {}
            }
            (6, Some(peer)) => {
                let peer = self.peers.swap_remove(peer);
                if which & 1 == 0 {
                    reset(&peer);
                }
            }
            _ => {}
        }
    }

    fn adopt(&mut self, peer: TcpStream) {
        peer.set_nonblocking(true).expect("a socket");
        if self.peers.len() < 16 {
            self.peers.push(peer);
        }
    }
}

/// Keeps count of what came by TCP.
fn note(counts: &mut [Count; 4], frame: &[u8]) {
    let (Some(&[0x08, 0x00]), Some(6)) = (frame.get(12..14).and_then(|t| t.first_chunk()), frame.get(23))
    else {
        return;
    };
    let Some(tcp) = frame.get(34..54) else { return };
    let (from, to) = (u16::from_be_bytes([tcp[0], tcp[1]]), u16::from_be_bytes([tcp[2], tcp[3]]));
    let count = &mut counts[usize::from(if to == SERVED { from - 20_000 } else { to - 1000 }) & 3];
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let len = frame.len() - 34 - usize::from(tcp[12] >> 4) * 4;
    count.ack = seq.wrapping_add(len as u32 + u32::from(tcp[13] & 2 != 0) + u32::from(tcp[13] & 1 != 0));
}

fn ethernet(protocol: u16, payload: &[u8]) -> Vec<u8> {
    [&user::GATEWAY_MAC[..], &MAC, &protocol.to_be_bytes(), payload].concat()
}

/// A frame of the guest with an IPv4 packet.
fn ipv4(protocol: u8, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(GUEST.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let words = [from, to, (8 + payload.len()) as u16, 0].map(u16::to_be_bytes);
    [words.as_flattened(), payload].concat()
}

/// Frames that a guest sends: ARP, ping, DHCP, DNS, UDP and TCP.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend(MAC);
    arp.extend(GUEST.octets());
    arp.extend([0; 6]);
    arp.extend(GATEWAY.octets());
    let ping = [8, 0, 0, 0, 0, 1, 0, 1, b'p', b'i', b'n', b'g'];
    let mut discover = vec![1, 1, 6, 0, 1, 2, 3, 4];
    discover.resize(28, 0);
    discover.extend(MAC);
    discover.resize(236, 0);
    // The magic number; a discovery, what is asked for, the end.
    discover.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 3, 1, 3, 6, 255]);
    let mut request = discover.clone();
    request[242] = 3;
    request.truncate(request.len() - 1);
    request.extend([50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 255]);
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    let mut syn = vec![0x03, 0xe8, 0x23, 0x28, 0, 0, 3, 0xe8, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0];
    syn.extend([2, 4, 5, 0xb4]);
    vec![
        ethernet(0x0806, &arp),
        ipv4(1, GATEWAY, &ping),
        ipv4(17, Ipv4Addr::BROADCAST, &udp(68, 67, &discover)),
        ipv4(17, GATEWAY, &udp(68, 67, &request)),
        ipv4(17, user::DNS, &udp(5353, 53, query)),
        ipv4(17, GATEWAY, &udp(1000, PORT, b"datagram")),
        ipv4(6, GATEWAY, &syn),
    ]
}

/// Each of these frames; connections out and in, with bytes both ways, to their ends.
pub fn seeds() -> Vec<Vec<u8>> {
    let start = || Seed::default().byte(7);
    let mut seeds: Vec<_> = frames()
        .iter()
        .map(|frame| start().byte(0).bytes(frame).byte(7).byte(6).byte(3).byte(0).byte(7).done())
        .collect();
    // Connection 0 to the host: shape, flags, place, then both numbers as they are counted.
    let segment =
        |seed: Seed, shape: u8, flags: u8| seed.byte(1).byte(shape).byte(flags).byte(0).byte(0).byte(0);
    let host = |seed: Seed, what: u8| seed.byte(6).byte(what).byte(0);
    let mss = [2, 4, 5, 0xb4, 3, 3, 7, 1];
    let out = segment(start(), 32, 2).bytes(&mss).byte(7);
    let out = host(out, 0).byte(7);
    let out = segment(out, 0, 0x10);
    let out = segment(out, 64, 0x18).half(900).byte(7);
    let out = host(host(out, 5), 4).half(5000).byte(7);
    let out = segment(out, 0, 0x10).byte(7);
    seeds.push(
        segment(out.clone(), 0, 0x11).byte(7).byte(6).byte(6).byte(1).byte(7).byte(4).half(60_000).done(),
    );
    seeds.push(segment(host(out.clone(), 6).byte(7), 0, 4).byte(7).done());
    seeds.push(
        host(segment(out, 16, 0x10).half(0).byte(7), 4)
            .half(60_000)
            .byte(7)
            .byte(4)
            .half(3000)
            .byte(7)
            .done(),
    );
    let served = host(start(), 1).byte(7);
    let served = segment(served, 8, 0x12).byte(7);
    let served = segment(served, 8 | 64, 0x18).half(1200).byte(7);
    let served = host(host(served, 4).half(3000).byte(7), 5);
    seeds.push(segment(served.clone(), 8, 0x11).byte(7).done());
    seeds.push(segment(host(start(), 1).byte(7), 8, 0x14).byte(4).half(500).byte(4).half(500).done());
    seeds.push(
        start()
            .byte(6)
            .byte(2)
            .byte(0)
            .bytes(b"in")
            .byte(7)
            .byte(3)
            .half(80)
            .half(20_000)
            .byte(0)
            .bytes(b"back")
            .byte(7)
            .done(),
    );
    seeds
}
