//! One TCP connection: a host socket on one side, a smoltcp socket on the other.

use super::stack::Stack;
use super::{LINGER, RECEIVE_BUFFER, SEND_BUFFER};
use crate::device::net::user::link::{Link, LinkDevice};
use crate::device::net::user::wire::Ends;
use smoltcp::iface::{PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// The guest's side of a connection: a socket set of its own, so that a
/// segment costs the same whatever the number of connections.
pub(super) struct Side {
    pub(super) set: SocketSet<'static>,
    handle: SocketHandle,
}

impl Side {
    pub(super) fn new() -> Self {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let receive = SocketBuffer::new(vec![0; RECEIVE_BUFFER]);
        let send = SocketBuffer::new(vec![0; SEND_BUFFER]);
        let mut socket = Socket::new(receive, send);
        // Delayed acknowledgements save nothing: the link has no cost per segment, and both ends are polled
        // in batches anyway.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let handle = set.add(socket);
        Side { set, handle }
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

/// What a connection is about to do.
pub(super) enum Stage {
    /// The host connects on the guest's behalf; the guest's SYN waits here.
    Dialing {
        syn: Box<[u8]>,
        /// Targets that were tried, this one included: name servers are several.
        tried: usize,
    },
    /// The guest refused a published connection; it is offered again at this time.
    Refused { again: Instant },
    /// The two sockets are coupled (the guest's may still be in its handshake).
    Coupled,
}

/// What became of a connection in a round.
pub(super) enum Verdict {
    /// It goes on; the time when it has to be looked at.
    Keep(Option<Instant>),
    /// The queue to the guest is full: go on when there is room.
    Blocked,
    /// It is over. A reset goes to the host's side unless it ended in order.
    Over { orderly: bool },
    /// The host could not connect where the guest wants to.
    NotDialed(io::Error),
    /// The guest refused it.
    TurnedDown,
}

pub(super) struct Conn {
    pub(super) ends: Ends,
    pub(super) side: Side,
    pub(super) host: mio::net::TcpStream,
    pub(super) stage: Stage,
    /// The published port that it came in by.
    pub(super) published: Option<usize>,
    /// When an attempt that leads to nothing is given up.
    pub(super) give_up: Instant,
    /// The host's socket may have something to read.
    pub(super) readable: bool,
    /// The host's socket may take something.
    pub(super) writable: bool,
    /// The host's peer has closed its direction, which a read may still have to find out.
    pub(super) read_closed: bool,
    /// All that the host's peer sent has been read.
    end_read: bool,
    /// All that the guest sent has been written, and the host's socket told so.
    end_written: bool,
    /// The last pause between two offers to a guest that refuses.
    pub(super) pause: Duration,
    /// A packet of the present attempt has left for the guest.
    pub(super) emitted: bool,
    pub(super) established: bool,
    /// Whether it is in the work queue.
    pub(super) queued: bool,
    /// Its entry in the timers.
    pub(super) timer: Option<Instant>,
}

impl Conn {
    pub(super) fn new(
        ends: Ends,
        side: Side,
        host: mio::net::TcpStream,
        stage: Stage,
        published: Option<usize>,
        give_up: Instant,
    ) -> Self {
        Conn {
            ends,
            side,
            host,
            stage,
            published,
            give_up,
            // Unknown; the first attempt tells.
            readable: true,
            writable: true,
            read_closed: false,
            end_read: false,
            end_written: false,
            pause: Duration::ZERO,
            emitted: false,
            established: false,
            queued: false,
            timer: None,
        }
    }

    /// Whether the host's socket is connected, still connecting, or failed.
    pub(super) fn dialed(&self) -> io::Result<bool> {
        if let Some(error) = self.host.take_error()? {
            return Err(error);
        }
        match self.host.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves bytes both ways and lets smoltcp send what is due.
    pub(super) fn advance(&mut self, stack: &mut Stack, link: &mut Link, now: Instant) -> Verdict {
        let state = self.side.socket().state();
        if !self.established {
            match state {
                // The guest reset the handshake.
                State::Closed | State::Listen => return Verdict::TurnedDown,
                State::SynSent | State::SynReceived if now >= self.give_up => self.side.socket().abort(),
                State::SynSent | State::SynReceived => {}
                _ => self.established = true,
            }
        }
        self.guest_to_host();
        self.host_to_guest();
        let blocked = loop {
            if !link.has_room() {
                break true;
            }
            let mut device = LinkDevice { packet: None, link };
            match stack.iface.poll_egress(stack.at(now), &mut device, &mut self.side.set) {
                PollResult::None => break false,
                PollResult::SocketStateChanged => self.emitted = true,
            }
        };
        self.verdict(stack, blocked, now)
    }

    fn verdict(&mut self, stack: &mut Stack, blocked: bool, now: Instant) -> Verdict {
        let socket = self.side.socket();
        match socket.state() {
            State::Closed => {
                // An end that still has the other side's address has a reset to send.
                if blocked && socket.remote_endpoint().is_some() {
                    return Verdict::Blocked;
                }
                // Bytes that came before the end still go out.
                if socket.can_recv() && !self.end_written {
                    return Verdict::Keep(None);
                }
                return Verdict::Over { orderly: self.end_read && self.end_written };
            }
            // The guest has our answer to its FIN (it was just sent): nothing can get lost on
            // this wire, so there is nothing to wait for.
            State::TimeWait if !blocked && self.end_written => return Verdict::Over { orderly: true },
            _ => {}
        }
        if blocked {
            return Verdict::Blocked;
        }
        // The host's side is done: the guest gets limited time to finish as well.
        if self.end_read && self.end_written {
            if now >= self.give_up {
                socket.abort();
                return Verdict::Keep(Some(now));
            }
        } else if self.established {
            self.give_up = now + LINGER;
        }
        let ending = (!self.established || (self.end_read && self.end_written)).then_some(self.give_up);
        let due = stack.due(&self.side.set, now);
        Verdict::Keep(due.into_iter().chain(ending).min())
    }

    /// Writes what the guest sent to the host's socket.
    fn guest_to_host(&mut self) {
        if self.end_written {
            return;
        }
        let host = &mut self.host;
        while self.writable {
            let written = self.side.set.get_mut::<Socket>(self.side.handle).recv(|bytes| {
                if bytes.is_empty() {
                    return (0, Ok(None));
                }
                match host.write(bytes) {
                    Ok(count) => (count, Ok(Some(count < bytes.len()))),
                    Err(error) => (0, Err(error)),
                }
            });
            match written {
                // A short write means that the kernel's buffer is full.
                Ok(Ok(Some(short))) => self.writable = !short,
                Ok(Ok(None)) => break,
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                // The host's peer is gone.
                Ok(Err(_)) => {
                    self.side.socket().abort();
                    self.end_written = true;
                    return;
                }
                Err(RecvError::Finished) => {
                    let _ = self.host.shutdown(std::net::Shutdown::Write);
                    self.end_written = true;
                    return;
                }
                Err(RecvError::InvalidState) => return,
            }
        }
    }

    /// Reads what the host's socket has for the guest.
    fn host_to_guest(&mut self) {
        let host = &mut self.host;
        while self.readable && !self.end_read {
            let socket = self.side.set.get_mut::<Socket>(self.side.handle);
            if !socket.can_send() {
                return;
            }
            let read = socket.send(|bytes| match host.read(bytes) {
                Ok(count) => (count, Ok((count, count < bytes.len()))),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok((0, _))) => {
                    self.end_read = true;
                    self.side.socket().close();
                }
                // A short read means that the kernel's buffer is empty, and
                // that what comes next is an event; unless that event was the end.
                Ok(Ok((_, true))) if !self.read_closed => self.readable = false,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                // The host's peer reset the connection: so does the guest's.
                Ok(Err(_)) => {
                    self.side.socket().abort();
                    self.end_read = true;
                }
                Err(_) => return,
            }
        }
    }
}
