//! The name server: answers from the host's `/etc/hosts`, and passes all other queries on to the host's name servers.
//!
//! The time limits are those of the C library: each server has 5 seconds, then the next is asked, and all of
//! them twice, unless `/etc/resolv.conf` says otherwise. Each query goes out from a port of its own, with a
//! number of its own, and only the server that was asked can answer it.
//!
//! An answer that is too long for the guest is cut and says so (TC). The guest asks again over TCP then, which is
//! a connection to the name server itself ([`tcp`](super::tcp)).

mod host;
mod message;

use super::link::Link;
use super::slab::Slab;
use super::wire::{self, Ends};
use super::{DNS, DNS_KEY};
use crate::reactor::Registrar;
use host::{Hosts, ResolvConf, Servers};
use message::HEADER;
use mio::Interest;
use mio::net::UdpSocket;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

/// Queries under way at a time; further ones are dropped, and asked again by the guest.
pub(super) const MAX_QUERIES: usize = 64;
/// Longest query that is passed on.
const MAX_QUERY: usize = 4096;

/// A query that a name server works on.
struct Query {
    guest_port: u16,
    /// As the guest asked it.
    asked: Box<[u8]>,
    /// The number that it goes out with.
    id: [u8; 2],
    socket: UdpSocket,
    /// How many servers were asked before this one.
    attempt: usize,
    until: Instant,
}

/// The forwarder.
pub(super) struct Dns {
    servers: Servers,
    conf: Option<ResolvConf>,
    hosts: Hosts,
    queries: Slab<Query>,
    ready: Vec<u32>,
    buffer: Box<[u8]>,
    /// The generator of query numbers, which cannot be guessed.
    numbers: (RandomState, u64),
    io: Option<Registrar>,
}

impl Dns {
    /// With these servers, or those of `resolv_conf`.
    pub(super) fn new(servers: Option<Vec<SocketAddr>>, resolv_conf: &Path, hosts: &Path) -> Self {
        let (conf, servers) = match servers {
            Some(servers) => (None, Servers::new(servers)),
            None => ResolvConf::open(resolv_conf),
        };
        Dns {
            servers,
            conf,
            hosts: Hosts::read(hosts),
            queries: Slab::new(MAX_QUERIES),
            ready: Vec::new(),
            buffer: vec![0; 65_535].into(),
            numbers: (RandomState::new(), 0),
            io: None,
        }
    }

    pub(super) fn start(&mut self, io: Registrar) {
        self.io = Some(io);
    }

    /// The servers to ask now.
    pub(super) fn servers(&mut self) -> &[SocketAddr] {
        if let Some(servers) = self.conf.as_mut().and_then(ResolvConf::changed) {
            tracing::debug!("name servers: {:?}", servers.list);
            self.servers = servers;
        }
        &self.servers.list
    }

    /// Takes a query of the guest.
    pub(super) fn query(&mut self, guest_port: u16, asked: &[u8], link: &mut Link, now: Instant) {
        // Too short to answer, or an answer itself.
        if asked.len() < HEADER || asked[2] & 0x80 != 0 || asked.len() > MAX_QUERY {
            return;
        }
        if let Some(question) = message::question(asked)
            && question.wants_addresses()
            && let Some(addresses) = self.hosts.get(&question.name)
        {
            return answer(link, guest_port, asked, &message::addresses(asked, &question, addresses));
        }
        // A repeated query is dropped: this forwarder repeats queries by itself.
        let is_same = |query: &Query| query.guest_port == guest_port && *query.asked == *asked;
        if self.queries.is_full() || self.queries.iter().any(|(_, query)| is_same(query)) {
            return;
        }
        self.servers();
        self.ask(guest_port, asked.into(), 0, link, now);
    }

    /// Asks the first server from attempt `first` on that can be reached.
    fn ask(&mut self, guest_port: u16, asked: Box<[u8]>, first: usize, link: &mut Link, now: Instant) {
        let count = self.servers.list.len();
        for attempt in first..count * self.servers.attempts {
            let id = self.number();
            let mut message = asked.clone();
            message[..2].copy_from_slice(&id);
            if let Ok(mut socket) = send(self.servers.list[attempt % count], &message)
                && let Some(key) = self.queries.next_id()
                && self
                    .io
                    .as_ref()
                    .is_none_or(|io| io.register(&mut socket, DNS_KEY | key, Interest::READABLE).is_ok())
            {
                let until = now + self.servers.timeout;
                self.queries.insert(Query { guest_port, asked, id, socket, attempt, until });
                return;
            }
        }
        let failure = message::failure(&asked);
        answer(link, guest_port, &asked, &failure);
    }

    fn number(&mut self) -> [u8; 2] {
        self.numbers.1 += 1;
        (self.numbers.0.hash_one(self.numbers.1) as u16).to_ne_bytes()
    }

    /// A query's socket is readable.
    pub(super) fn ready(&mut self, id: u32) {
        if self.queries.get(id).is_some() && !self.ready.contains(&id) {
            self.ready.push(id);
        }
    }

    pub(super) fn work(&mut self, link: &mut Link, now: Instant) {
        for id in std::mem::take(&mut self.ready) {
            self.receive(id, link, now);
        }
        if self.deadline().is_some_and(|at| at <= now) {
            let late: Vec<u32> =
                self.queries.iter().filter(|(_, query)| query.until <= now).map(|(id, _)| id).collect();
            for id in late {
                self.ask_next(id, link, now);
            }
        }
    }

    /// When `work` has something to do, if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queries.iter().map(|(_, query)| query.until).min()
    }

    fn receive(&mut self, id: u32, link: &mut Link, now: Instant) {
        loop {
            let Some(query) = self.queries.get(id) else { return };
            match query.socket.recv(&mut self.buffer) {
                // The socket receives from its server only; a datagram that is no answer is ignored.
                Ok(len) => {
                    let message = &mut self.buffer[..len];
                    if len < HEADER || message[..2] != query.id {
                        continue;
                    }
                    message[..2].copy_from_slice(&query.asked[..2]);
                    if !message::answers(message, &query.asked) {
                        continue;
                    }
                    if message::is_failure(message) {
                        return self.ask_next(id, link, now);
                    }
                    answer(link, query.guest_port, &query.asked, message);
                    self.queries.remove(id);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The server refuses: nothing listens there.
                Err(_) => return self.ask_next(id, link, now),
            }
        }
    }

    fn ask_next(&mut self, id: u32, link: &mut Link, now: Instant) {
        if let Some(query) = self.queries.remove(id) {
            self.ask(query.guest_port, query.asked, query.attempt + 1, link, now);
        }
    }
}

/// Sends a query to a server, from a port that cannot be guessed.
fn send(server: SocketAddr, message: &[u8]) -> io::Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    socket.send(message)?;
    Ok(socket)
}

/// Answers a query; what the guest cannot take whole is cut, and says so.
fn answer(link: &mut Link, guest_port: u16, asked: &[u8], message: &[u8]) {
    let ends = Ends { guest: guest_port, addr: DNS, port: 53 };
    if message.len() > message::udp_size(asked).min(wire::max_datagram(link)) {
        wire::emit_datagram(link, ends, &message::truncated(message));
    } else {
        wire::emit_datagram(link, ends, message);
    }
}
