//! TCP: connections of the guest to the outside, and of the outside to published ports.
//!
//! ```text
//! guest's SYN ──► Dialing ── host connected ──► Coupled ──► over
//!                    └────── refused ──► RST to the guest
//! accepted    ──► Coupled (SYN to the guest) ── RST ──► Refused ── pause ──► Coupled
//! ```
//!
//! Each connection has a smoltcp socket set of its own; segments find theirs by
//! a hash of the two ends. So nothing here ever walks over all connections.
//!
//! # Hostile guests
//!
//! smoltcp asserts, in release builds too, some things about its window that a
//! peer can make false. Two rules keep guests away from there: the receive
//! buffer is one byte less than a power of two ([`RECEIVE_BUFFER`]), and a socket
//! that connects is shown nothing but answers to the SYN that it has sent, so
//! that there are no simultaneous opens ([`Tcp::segment`]).

mod conn;
mod published;
mod stack;

use super::link::{Link, LinkDevice};
use super::reach::Reach;
use super::slab::Slab;
use super::wire::{Ends, Flags};
use super::{DNS, GATEWAY, GUEST, TCP_KEY};
use crate::reactor::Registrar;
use conn::{Conn, Side, Stage, Verdict};
use mio::Interest;
use mio::event::Event;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};
use stack::Stack;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Connections at a time, both directions together. Further ones of the guest
/// are refused; further ones to published ports wait in the kernel.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Bytes from the guest that one connection holds. One less than a power of
/// two: then the largest window that a 16-bit field can express in this
/// scaling, which smoltcp assumes it announced in its SYN|ACK, still fits.
const RECEIVE_BUFFER: usize = (256 << 10) - 1;
/// Bytes for the guest that one connection holds.
const SEND_BUFFER: usize = 256 << 10;
/// Sockets that are kept for the next connections.
const SPARE_SIDES: usize = 128;
/// How long the host has to connect where the guest wants to.
const DIAL_TIME: Duration = Duration::from_secs(60);
/// The same for a name server, as the C library has it.
const NAME_SERVER_TIME: Duration = Duration::from_secs(5);
/// How long a guest that does not answer is asked to take a published connection.
const OFFER_TIME: Duration = Duration::from_secs(30);
/// How long a published connection is offered again to a guest that refuses
/// it: before its first connection on that port it may still be starting.
const STARTING_TIME: Duration = Duration::from_secs(10);
/// The same once it has served that port: it may be between two listens.
const RELISTEN_TIME: Duration = Duration::from_secs(3);
/// First and longest pause between two such offers.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// How long a guest may take to end a connection whose host side has ended.
const LINGER: Duration = Duration::from_secs(60);
/// Ports of the gateway that published connections come from.
const FIRST_PORT: u16 = 20_000;

/// Sets the option that makes closing a socket reset its connection.
fn reset_on_close(host: &mio::net::TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(host, Some(Duration::ZERO));
}

/// A listener of the host, for a published port.
struct PublishedTcpPort {
    listener: mio::net::TcpListener,
    guest_port: u16,
    /// Connections may wait in the kernel.
    ready: bool,
    /// The guest has taken a connection.
    served: bool,
}

/// All TCP of one network.
pub(super) struct Tcp {
    stack: Stack,
    conns: Slab<Conn>,
    by_ends: HashMap<Ends, u32>,
    /// Connections with something to do, each once.
    work: VecDeque<u32>,
    /// When to look at connections; at most one time each, [`Conn::timer`].
    timers: BTreeSet<(Instant, u32)>,
    spare: Vec<Side>,
    published: Vec<PublishedTcpPort>,
    reach: Reach,
    /// Where connections to the name server lead, the first that answers.
    nameservers: Vec<SocketAddr>,
    next_port: u16,
    io: Option<Registrar>,
}

impl Tcp {
    pub(super) fn new(mtu: u16, reach: Reach) -> Self {
        Tcp {
            stack: Stack::new(mtu),
            conns: Slab::new(MAX_CONNECTIONS),
            by_ends: HashMap::new(),
            work: VecDeque::new(),
            timers: BTreeSet::new(),
            spare: Vec::new(),
            published: Vec::new(),
            reach,
            nameservers: Vec::new(),
            next_port: FIRST_PORT,
            io: None,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether the guest has refused a connection that it will be offered again.
    #[cfg(test)]
    pub(super) fn is_refused(&self) -> bool {
        self.conns.iter().any(|(_, conn)| matches!(conn.stage, Stage::Refused { .. }))
    }

    /// Sets where connections to the name server lead.
    pub(super) fn set_nameservers(&mut self, servers: &[SocketAddr]) {
        self.nameservers.clear();
        self.nameservers.extend_from_slice(servers);
    }

    /// Takes a segment of the guest: a whole IP packet, whose ends and flags are these.
    pub(super) fn segment(&mut self, ends: Ends, flags: Flags, packet: &[u8], link: &mut Link, now: Instant) {
        let Some(&id) = self.by_ends.get(&ends) else {
            if flags.syn && !flags.ack && !flags.rst {
                self.dial(ends, packet, link, now);
            } else {
                self.stack.refuse(packet, link, now);
            }
            return;
        };
        let Some(conn) = self.conns.get_mut(id) else { return };
        match conn.stage {
            Stage::Dialing { .. } if flags.rst => {
                reset_on_close(&conn.host);
                self.remove(id);
                return;
            }
            // A repeated SYN: the host is still connecting.
            Stage::Dialing { .. } | Stage::Refused { .. } => return,
            Stage::Coupled => {}
        }
        // Answers to a SYN, and only to one that was sent; see the module's docs.
        if conn.side.socket().state() == State::SynSent
            && !(conn.emitted && (flags.rst || (flags.syn && flags.ack)))
        {
            return;
        }
        let mut device = LinkDevice { packet: Some(packet), link };
        self.stack.iface.poll_ingress_single(self.stack.at(now), &mut device, &mut conn.side.set);
        let state = conn.side.socket().state();
        conn.established |=
            !matches!(state, State::Closed | State::Listen | State::SynSent | State::SynReceived);
        if conn.established
            && let Some(published) = conn.published.and_then(|index| self.published.get_mut(index))
        {
            published.served = true;
        }
        self.queue(id);
    }

    /// Connects to where the guest wants to.
    fn dial(&mut self, ends: Ends, packet: &[u8], link: &mut Link, now: Instant) {
        if self.conns.is_full() {
            return self.stack.refuse(packet, link, now);
        }
        let (host, tried) = match self.connect(ends, 0) {
            Ok(host) => host,
            Err(error) => return self.stack.refuse_for(&error, packet, link, now),
        };
        let stage = Stage::Dialing { syn: packet.into(), tried };
        let conn = Conn::new(ends, self.side(), host, stage, None, now + dial_time(ends));
        if self.add(conn).is_err() {
            self.stack.refuse(packet, link, now);
        }
    }

    /// Begins to connect on the host's side, to the first target from `first` on that allows it; and how many are done with.
    fn connect(&self, ends: Ends, first: usize) -> io::Result<(mio::net::TcpStream, usize)> {
        let reached;
        let targets = if is_name_server(ends) {
            &self.nameservers[..]
        } else {
            // To the guest, nothing listens there.
            let addr = self.reach.target(ends.addr).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            reached = [SocketAddr::new(IpAddr::V4(addr), ends.port)];
            &reached
        };
        let mut result = Err(io::ErrorKind::ConnectionRefused.into());
        for (n, target) in targets.iter().enumerate().skip(first) {
            result = mio::net::TcpStream::connect(*target).map(|host| (host, n + 1));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The host could not connect: there may be another target, or else the guest is told.
    fn not_dialed(&mut self, id: u32, error: &io::Error, link: &mut Link, now: Instant) {
        let Some(Conn { ends, stage: Stage::Dialing { tried, .. }, .. }) = self.conns.get(id) else { return };
        let (ends, tried) = (*ends, *tried);
        let mut next = self.connect(ends, tried).ok();
        if let (Some((host, _)), Some(io)) = (&mut next, &self.io)
            && io.register(host, TCP_KEY | id, Interest::READABLE | Interest::WRITABLE).is_err()
        {
            next = None;
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        match (next, &mut conn.stage) {
            (Some((host, done)), Stage::Dialing { tried, .. }) => {
                *tried = done;
                conn.host = host;
                conn.give_up = now + dial_time(ends);
                self.set_timer(id, now + dial_time(ends));
            }
            (_, Stage::Dialing { syn, .. }) => {
                self.stack.refuse_for(error, syn, link, now);
                self.remove(id);
            }
            _ => {}
        }
    }

    fn side(&mut self) -> Side {
        self.spare.pop().unwrap_or_else(Side::new)
    }

    /// Enters a connection, and watches its host socket.
    fn add(&mut self, mut conn: Conn) -> io::Result<()> {
        let _ = conn.host.set_nodelay(true);
        let ends = conn.ends;
        let full = || io::Error::other("too many connections");
        let id = self.conns.next_id().ok_or_else(full)?;
        if let Some(io) = &self.io {
            io.register(&mut conn.host, TCP_KEY | id, Interest::READABLE | Interest::WRITABLE)?;
        }
        self.conns.insert(conn).ok_or_else(full)?;
        self.by_ends.insert(ends, id);
        self.queue(id);
        Ok(())
    }

    fn remove(&mut self, id: u32) {
        let Some(conn) = self.conns.remove(id) else { return };
        if let Some(at) = conn.timer {
            self.timers.remove(&(at, id));
        }
        if let Entry::Occupied(entry) = self.by_ends.entry(conn.ends)
            && *entry.get() == id
        {
            entry.remove();
        }
        if self.spare.len() < SPARE_SIDES {
            let mut side = conn.side;
            side.socket().abort();
            self.spare.push(side);
        }
    }

    fn queue(&mut self, id: u32) {
        if let Some(conn) = self.conns.get_mut(id)
            && !std::mem::replace(&mut conn.queued, true)
        {
            self.work.push_back(id);
        }
    }

    /// The host socket of a connection is ready.
    pub(super) fn ready(&mut self, id: u32, event: &Event) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        // An error is for the next read or write to find.
        conn.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        conn.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
        conn.read_closed |= event.is_read_closed() || event.is_error();
        self.queue(id);
    }

    /// Does what is due and can be done while `link` has room.
    pub(super) fn work(&mut self, link: &mut Link, now: Instant) {
        self.accept(now);
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            if let Some(conn) = self.conns.get_mut(id) {
                conn.timer = None;
            }
            self.queue(id);
        }
        while link.has_room()
            && let Some(id) = self.work.pop_front()
        {
            self.look_at(id, link, now);
        }
    }

    /// Whether connections wait for room in the queue to the guest.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// When `work` has something to do, if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Has a connection looked at no later than at a time.
    fn set_timer(&mut self, id: u32, at: Instant) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.timer.is_none_or(|timer| at < timer)
        {
            if let Some(old) = conn.timer.replace(at) {
                self.timers.remove(&(old, id));
            }
            self.timers.insert((at, id));
        }
    }

    fn look_at(&mut self, id: u32, link: &mut Link, now: Instant) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.queued = false;
        let verdict = match &conn.stage {
            Stage::Dialing { syn, .. } => match conn.dialed() {
                Ok(false) if now < conn.give_up => Verdict::Keep(Some(conn.give_up)),
                Ok(false) => Verdict::NotDialed(io::ErrorKind::TimedOut.into()),
                Err(error) => Verdict::NotDialed(error),
                Ok(true) if listen(&mut conn.side, conn.ends).is_ok() => {
                    let mut device = LinkDevice { packet: Some(syn), link };
                    let at = self.stack.at(now);
                    self.stack.iface.poll_ingress_single(at, &mut device, &mut conn.side.set);
                    conn.stage = Stage::Coupled;
                    conn.advance(&mut self.stack, link, now)
                }
                Ok(true) => {
                    self.stack.refuse(syn, link, now);
                    Verdict::Over { orderly: false }
                }
            },
            Stage::Refused { again } if *again > now => Verdict::Keep(Some(*again)),
            Stage::Refused { .. } => match self.stack.connect(&mut conn.side, conn.ends) {
                Ok(()) => {
                    conn.stage = Stage::Coupled;
                    conn.advance(&mut self.stack, link, now)
                }
                Err(_) => Verdict::Over { orderly: false },
            },
            Stage::Coupled => conn.advance(&mut self.stack, link, now),
        };
        match verdict {
            Verdict::Keep(None) => {}
            Verdict::Keep(Some(at)) => self.set_timer(id, at),
            Verdict::Blocked => {
                conn.queued = true;
                self.work.push_front(id);
            }
            Verdict::NotDialed(error) => self.not_dialed(id, &error, link, now),
            Verdict::TurnedDown => self.turned_down(id, now),
            Verdict::Over { orderly } => {
                if !orderly {
                    reset_on_close(&conn.host);
                }
                self.remove(id);
            }
        }
    }
}

/// Whether a connection is one to the name server.
fn is_name_server(ends: Ends) -> bool {
    (ends.addr, ends.port) == (DNS, 53)
}

/// How long the host has to connect: one name server is not waited for while there are others.
fn dial_time(ends: Ends) -> Duration {
    if is_name_server(ends) { NAME_SERVER_TIME } else { DIAL_TIME }
}

/// Makes a socket accept the connection with these ends.
fn listen(side: &mut Side, ends: Ends) -> Result<(), smoltcp::socket::tcp::ListenError> {
    let at = IpListenEndpoint { addr: Some(IpAddress::Ipv4(ends.addr)), port: ends.port };
    side.socket().listen(at)
}
