//! The name server: passes queries on to those of the host.

use super::link::Link;
use super::slab::Slab;
use super::wire::{self, Ends};
use super::{DNS, DNS_KEY};
use crate::reactor::Registrar;
use mio::Interest;
use mio::net::UdpSocket;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// Queries under way at a time; further ones are dropped, and asked again by the guest.
pub(super) const MAX_QUERIES: usize = 64;
/// How long one name server has to answer before the next is asked.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Name servers that are asked, in the order of `/etc/resolv.conf` (which has at most 3).
const MAX_SERVERS: usize = 3;
/// Bytes of a DNS header.
const HEADER: usize = 12;
/// Longest query that is passed on.
const MAX_QUERY: usize = 4096;
/// The response code of a server that failed.
const SERVFAIL: u8 = 2;

/// A query that a name server works on.
struct Query {
    guest_port: u16,
    message: Box<[u8]>,
    socket: UdpSocket,
    /// Which server was asked.
    server: usize,
    until: Instant,
}

/// The forwarder.
pub(super) struct Dns {
    servers: Vec<SocketAddr>,
    queries: Slab<Query>,
    ready: Vec<u32>,
    buffer: Box<[u8]>,
    io: Option<Registrar>,
}

/// The name servers of the host.
pub(super) fn host_servers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    parse_servers(&text)
}

fn parse_servers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        // An IPv6 address with a zone needs the interface's number; such
        // servers are rare, and others usually stand beside them.
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    };
    text.lines().filter_map(address).take(MAX_SERVERS).collect()
}

impl Dns {
    pub(super) fn new(mut servers: Vec<SocketAddr>) -> Self {
        servers.truncate(MAX_SERVERS);
        Dns {
            servers,
            queries: Slab::new(MAX_QUERIES),
            ready: Vec::new(),
            buffer: vec![0; 65_535].into(),
            io: None,
        }
    }

    pub(super) fn start(&mut self, io: Registrar) {
        self.io = Some(io);
    }

    /// Takes a query of the guest.
    pub(super) fn query(&mut self, guest_port: u16, message: &[u8], link: &mut Link, now: Instant) {
        // Too short to answer, or an answer itself.
        if message.len() < HEADER || message[2] & 0x80 != 0 || message.len() > MAX_QUERY {
            return;
        }
        if self.queries.is_full() {
            return;
        }
        self.ask(guest_port, message.into(), 0, link, now);
    }

    /// Asks the first server from `first` on that can be reached.
    fn ask(&mut self, guest_port: u16, message: Box<[u8]>, first: usize, link: &mut Link, now: Instant) {
        for server in first..self.servers.len() {
            if let Ok(mut socket) = send(self.servers[server], &message)
                && let Some(id) = self.queries.next_id()
                && self
                    .io
                    .as_ref()
                    .is_none_or(|io| io.register(&mut socket, DNS_KEY | id, Interest::READABLE).is_ok())
            {
                let until = now + ANSWER_TIME;
                self.queries.insert(Query { guest_port, message, socket, server, until });
                return;
            }
        }
        let failure = failure(&message);
        answer(link, guest_port, &failure);
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
                // The socket hears only its server; what is not the answer is noise.
                Ok(len) if len >= HEADER && self.buffer[..2] == query.message[..2] => {
                    answer(link, query.guest_port, &self.buffer[..len]);
                    self.queries.remove(id);
                    return;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody listens there.
                Err(_) => return self.ask_next(id, link, now),
            }
        }
    }

    fn ask_next(&mut self, id: u32, link: &mut Link, now: Instant) {
        if let Some(query) = self.queries.remove(id) {
            self.ask(query.guest_port, query.message, query.server + 1, link, now);
        }
    }
}

/// Sends a query to a server, from a port that nobody can guess.
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

fn answer(link: &mut Link, guest_port: u16, message: &[u8]) {
    wire::emit_datagram(link, Ends { guest: guest_port, addr: DNS, port: 53 }, message);
}

/// The answer to a query that no server answers: the query with other flags.
fn failure(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    // QR set, opcode and RD as asked; RA set, and the response code.
    answer[2] |= 0x80;
    answer[3] = 0x80 | SERVFAIL;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found_in_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch example\nnameserver 127.0.0.53\n\
                    nameserver ::1 # local\n nameserver x\noptions edns0\nnameserver 9.9.9.9\nnameserver 8.8.8.8\n";
        let servers: Vec<String> = parse_servers(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[::1]:53", "9.9.9.9:53"]);
        assert_eq!(host_servers(Path::new("/nonexistent")), []);
    }
}
