//! The user-mode network against a guest that is a smoltcp interface, and real sockets of this host.

mod hostile;
mod services;
mod tcp;
mod throughput;
mod udp;

use super::*;
use mio::{Events, Poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{AnySocket, tcp as guest_tcp};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Cidr};
use std::collections::VecDeque;
use std::time::Duration;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x15];
/// Far beyond what anything here takes; only a hang reaches it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The wire as the guest sees it.
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
    mtu: usize,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        Some((Incoming(self.to_guest.pop_front()?), Outgoing(&mut self.from_guest)))
    }
    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        (self.from_guest.len() < 64).then_some(Outgoing(&mut self.from_guest))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

/// A network with its guest.
struct Rig {
    net: UserNet,
    poll: Poll,
    events: Events,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    epoch: Instant,
    /// Frames that the guest has buffers for in one step.
    buffers: usize,
    /// Whether the guest runs at all.
    booted: bool,
}

fn config() -> UserConfig {
    UserConfig { nameservers: Some(Vec::new()), host_loopback: true, ..UserConfig::new(MAC) }
}

impl Rig {
    fn new(config: UserConfig) -> Rig {
        let mut net = UserNet::new(config).unwrap();
        let poll = Poll::new().unwrap();
        net.start(Registrar::new(poll.registry(), 0).unwrap()).unwrap();
        let mut wire = Wire {
            to_guest: VecDeque::new(),
            from_guest: VecDeque::new(),
            mtu: usize::from(Network::config(&net).mtu),
        };
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        let mut iface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        iface.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::Ipv4(Ipv4Cidr::new(GUEST, PREFIX))).unwrap();
        });
        iface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Rig {
            net,
            poll,
            events: Events::with_capacity(64),
            wire,
            iface,
            sockets: SocketSet::new(Vec::new()),
            epoch: Instant::now(),
            buffers: usize::MAX,
            booted: true,
        }
    }

    /// Sends a frame as if it were the guest's.
    fn inject(&mut self, frame: &[u8]) {
        self.net.send(frame, Instant::now());
    }

    /// One round of everybody. Returns whether any frame moved.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        let guest_now = smoltcp::time::Instant::from_micros((now - self.epoch).as_micros() as i64);
        if self.booted {
            self.iface.poll(guest_now, &mut self.wire, &mut self.sockets);
        }
        let mut moved = false;
        for frame in self.wire.from_guest.drain(..) {
            self.net.send(&frame, now);
            moved = true;
        }
        self.net.poll(now);
        let mut room = if self.booted { self.buffers } else { 0 };
        self.net.receive(&mut |frame| {
            if room == 0 {
                return false;
            }
            room -= 1;
            moved = true;
            self.wire.to_guest.push_back(frame.to_vec());
            true
        });
        self.net.poll(now);
        moved
    }

    /// Runs everybody until `done` says so.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Rig) -> bool) {
        let start = Instant::now();
        loop {
            let moved = self.step();
            if done(self) {
                return;
            }
            assert!(start.elapsed() < TIMEOUT, "never happened: {what}");
            let pause = if moved { Duration::ZERO } else { Duration::from_millis(1) };
            self.poll.poll(&mut self.events, Some(pause)).unwrap();
            for event in &self.events {
                self.net.ready(event.token().0 as u32, event);
            }
        }
    }

    /// A TCP socket of the guest.
    fn tcp_socket(&mut self) -> SocketHandle {
        let buffer = || guest_tcp::SocketBuffer::new(vec![0; 128 << 10]);
        self.sockets.add(guest_tcp::Socket::new(buffer(), buffer()))
    }

    /// A TCP socket of the guest that connects to the outside.
    fn connect(&mut self, addr: Ipv4Addr, port: u16) -> SocketHandle {
        let handle = self.tcp_socket();
        let local = 40_000 + self.sockets.iter().count() as u16;
        let socket = self.sockets.get_mut::<guest_tcp::Socket>(handle);
        socket.connect(self.iface.context(), (IpAddress::Ipv4(addr), port), local).unwrap();
        handle
    }

    fn get<T: AnySocket<'static>>(&mut self, handle: SocketHandle) -> &mut T {
        self.sockets.get_mut(handle)
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut guest_tcp::Socket<'static> {
        self.get(handle)
    }
}

/// Bytes that are not the same anywhere.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn publish(guest_port: u16, udp: bool) -> Publish {
    Publish { host: "127.0.0.1:0".parse().unwrap(), guest_port, udp }
}
