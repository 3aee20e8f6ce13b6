//! Connections from the outside to published ports.

use super::*;

/// Connections that one round accepts.
const ACCEPTS: usize = 64;

/// A published port's listener gets this key of the network's.
const fn key(index: usize) -> u32 {
    crate::device::net::user::LISTENER_KEY | index as u32
}

impl Tcp {
    /// Adds a listener of the host whose connections go to a port of the guest.
    pub(in super::super) fn publish(&mut self, listener: mio::net::TcpListener, guest_port: u16) {
        self.published.push(PublishedTcpPort { listener, guest_port, ready: true, served: false });
    }

    /// Registers the listeners, and from now on every connection.
    pub(in super::super) fn start(&mut self, io: Registrar) -> io::Result<()> {
        for (index, published) in self.published.iter_mut().enumerate() {
            io.register(&mut published.listener, key(index), Interest::READABLE)?;
        }
        self.io = Some(io);
        Ok(())
    }

    /// The listener of a published port is ready.
    pub(in super::super) fn listener_ready(&mut self, index: u32) {
        if let Some(published) = self.published.get_mut(index as usize) {
            published.ready = true;
        }
    }

    /// Accepts what waits, as far as there is room for it.
    pub(super) fn accept(&mut self, now: Instant) {
        for index in 0..self.published.len() {
            let mut accepted = 0;
            while self.published[index].ready && !self.conns.is_full() && accepted < ACCEPTS {
                match self.published[index].listener.accept() {
                    Ok((host, _)) => {
                        accepted += 1;
                        self.offer(host, index, now);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // No connection waits; or too many descriptors are open: then it waits in the kernel
                    // until the next one comes.
                    Err(error) => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            tracing::debug!("accepting a published connection: {error}");
                        }
                        self.published[index].ready = false;
                    }
                }
            }
        }
    }

    /// Whether connections that could be accepted wait.
    pub(in super::super) fn can_accept(&self) -> bool {
        !self.conns.is_full() && self.published.iter().any(|published| published.ready)
    }

    /// Connects an accepted connection to the guest.
    fn offer(&mut self, host: mio::net::TcpStream, index: usize, now: Instant) {
        let guest = self.published[index].guest_port;
        let ends = Ends { guest, addr: GATEWAY, port: self.free_port(guest) };
        let mut side = self.side();
        let connected = self.stack.connect(&mut side, ends);
        let conn = Conn::new(ends, side, host, Stage::Coupled, Some(index), now + OFFER_TIME);
        if connected.is_err() || self.add(conn).is_err() {
            tracing::debug!("a published connection to port {guest} could not be set up");
        }
    }

    /// A port of the gateway that has no connection to this port of the guest.
    /// There are many more ports than connections.
    fn free_port(&mut self, guest: u16) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = if port == u16::MAX { FIRST_PORT } else { port + 1 };
            if !self.by_ends.contains_key(&Ends { guest, addr: GATEWAY, port }) {
                return port;
            }
        }
    }

    /// The guest reset a handshake: offers a published connection again, for a time.
    pub(super) fn turned_down(&mut self, id: u32, now: Instant) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let published = conn.published.and_then(|index| self.published.get(index));
        let Some(published) = published else {
            reset_on_close(&conn.host);
            self.remove(id);
            return;
        };
        let retry_time = if published.served { RELISTEN_TIME } else { STARTING_TIME };
        // `give_up` is OFFER_TIME after the connection came.
        if now + OFFER_TIME >= conn.give_up + retry_time {
            reset_on_close(&conn.host);
            self.remove(id);
            return;
        }
        conn.pause = (conn.pause * 2).clamp(PAUSES.0, PAUSES.1);
        conn.emitted = false;
        let again = now + conn.pause;
        conn.stage = Stage::Refused { again };
        self.set_timer(id, again);
    }
}
