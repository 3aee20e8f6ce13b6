//! Answers clients of the control socket, on the I/O thread.
//!
//! A client has one request at a time: the next is read when the answer to the last one has been taken. So what a client costs is bounded,
//! whatever it sends and however slowly it reads. Of the clients that are connected when there are too many, the one that has
//! said nothing for longest makes room.

use super::protocol::{Changes, MAX_LINE, Memory, Reply, Request, Status, Vcpus, line, parse};
use super::socket::ControlSocket;
use hv_core::domain::{Controller, Facts, ResidentCount};
use hv_core::reactor::{Registrar, Source};
use hv_core::sched::Share;
use mio::Interest;
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Uid, geteuid};
use signal_hook::consts::SIGTERM;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, PipeWriter, Read, Write};
use std::time::{Duration, Instant};

/// Most clients at a time.
const MAX_CLIENTS: usize = 16;

/// After the host has refused to accept a client, for example for want of descriptors, until it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The key of the listener; those of clients are above it.
const LISTENER: u32 = 0;

/// The control socket of a guest.
pub(super) struct Server {
    listener: UnixListener,
    io: Option<Registrar>,
    /// There may be clients to accept.
    accepts: bool,
    clients: BTreeMap<u32, Client>,
    /// The key of the next client.
    next: u32,
    /// Counts requests, to know which client was last heard of when.
    clock: u64,
    guest: ControlledGuest,
    /// The socket is removed when this is closed.
    _end: PipeWriter,
}

/// The guest, as requests see it.
struct ControlledGuest {
    controller: Controller,
    share: Share,
    /// Who may control it, besides root.
    user: Uid,
}

struct Client {
    stream: UnixStream,
    /// What it has sent and is not answered, at most [`MAX_LINE`].
    input: Vec<u8>,
    /// What it has not taken of an answer.
    output: Vec<u8>,
    /// It may have sent more.
    readable: bool,
    /// It sends no more.
    at_end: bool,
    /// It is closed when it has taken the answer.
    closing: bool,
    /// It waits for this count.
    count: Option<ResidentCount>,
    /// It has asked for the guest's end, which comes when it has taken the answer: hv may end soon after.
    stops: bool,
    /// When it was last heard of.
    heard: u64,
}

/// What a client needs next.
enum Needs {
    /// To be called again.
    Call,
    /// To send something, or to take its answer.
    Itself,
    /// To be closed.
    Closing,
}

impl Server {
    pub(super) fn new(socket: ControlSocket, controller: Controller, share: Share) -> Self {
        Server {
            listener: UnixListener::from_std(socket.listener),
            io: None,
            accepts: true,
            clients: BTreeMap::new(),
            next: LISTENER,
            clock: 0,
            guest: ControlledGuest { controller, share, user: geteuid() },
            _end: socket.end,
        }
    }

    /// Accepts clients. Returns when to try again, if the host refuses.
    fn accept(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..MAX_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => self.add(stream),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accepts = false;
                    return None;
                }
                Err(error) => {
                    tracing::debug!("--control: a client is not accepted: {error}");
                    return now.checked_add(ACCEPT_AGAIN);
                }
            }
        }
        Some(now)
    }

    fn add(&mut self, mut stream: UnixStream) {
        let (Some(io), Ok(peer)) = (&self.io, socket_peercred(&stream)) else { return };
        self.next = self.next.wrapping_add(1).max(LISTENER + 1);
        if let Err(error) = io.register(&mut stream, self.next, Interest::READABLE | Interest::WRITABLE) {
            tracing::debug!("--control: a client is not watched: {error}");
            return;
        }
        let mut client = Client {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            readable: true,
            at_end: false,
            closing: false,
            count: None,
            stops: false,
            heard: self.clock,
        };
        if peer.uid != self.guest.user && peer.uid != Uid::ROOT {
            client.refuse("this guest is another user's".into());
        }
        if self.clients.len() >= MAX_CLIENTS
            && let Some(silent) =
                self.clients.iter().min_by_key(|(_, client)| client.heard).map(|(key, _)| *key)
        {
            self.clients.remove(&silent);
        }
        self.clients.insert(self.next, client);
    }
}

impl Source for Server {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut self.listener, LISTENER, Interest::READABLE)?;
        self.io = Some(io);
        Ok(())
    }

    fn ready(&mut self, key: u32, event: &Event) {
        match self.clients.get_mut(&key) {
            Some(client) => client.readable |= event.is_readable(),
            None => self.accepts |= key == LISTENER,
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let mut again = if self.accepts { self.accept(now) } else { None };
        let (guest, clock) = (&mut self.guest, &mut self.clock);
        self.clients.retain(|_, client| {
            let needs = client.advance(guest, clock);
            if matches!(needs, Needs::Call) {
                again = Some(now);
            }
            !matches!(needs, Needs::Closing)
        });
        again
    }
}

impl Client {
    /// Does the next bounded piece of work.
    fn advance(&mut self, guest: &mut ControlledGuest, clock: &mut u64) -> Needs {
        if !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if is_for_now(&error) => return waits(&error),
                // It does not read the answer. What it has asked for is done all the same.
                Err(_) => (self.output, self.closing) = (Vec::new(), true),
            }
            return Needs::Call;
        }
        if std::mem::take(&mut self.stops) {
            guest.stop();
        }
        if self.closing {
            return Needs::Closing;
        }
        if let Some(count) = &mut self.count {
            if let Some(resident) = count.step() {
                self.count = None;
                self.answer(guest.status(Some(resident)));
            }
            return Needs::Call;
        }
        let end = self.input.iter().position(|byte| *byte == b'\n');
        // The last line need not have an end.
        if let Some(end) = end.or(self.input.len().checked_sub(1).filter(|_| self.at_end)) {
            let said: Vec<u8> = self.input.drain(..=end).collect();
            *clock += 1;
            self.heard = *clock;
            self.obey(guest, said.trim_ascii());
            return Needs::Call;
        }
        if self.at_end {
            return Needs::Closing;
        }
        if self.input.len() >= MAX_LINE {
            self.refuse(format!("a request has at most {MAX_LINE} bytes"));
            return Needs::Call;
        }
        if !self.readable {
            return Needs::Itself;
        }
        let mut bytes = [0; MAX_LINE];
        match self.stream.read(&mut bytes[self.input.len()..]) {
            Ok(0) => self.at_end = true,
            Ok(count) => {
                let from = self.input.len();
                self.input.extend_from_slice(&bytes[from..from + count]);
            }
            Err(error) => {
                self.readable = error.kind() != ErrorKind::WouldBlock;
                return waits(&error);
            }
        }
        Needs::Call
    }

    fn obey(&mut self, guest: &mut ControlledGuest, said: &[u8]) {
        let reply = match parse(said) {
            Ok(Request::Get {}) => {
                self.count = guest.controller.count_resident();
                if self.count.is_some() {
                    return;
                }
                Err(ENDED.into())
            }
            Ok(request) => {
                self.stops = matches!(request, Request::Stop {});
                guest.carry_out(request).and_then(|()| guest.status(None))
            }
            Err(error) => Err(error),
        };
        self.answer(reply);
    }

    fn answer(&mut self, reply: Result<Status, String>) {
        self.output = line(&reply.map_or_else(Reply::Error, Reply::Ok));
    }

    /// Answers with an error, and reads no more.
    fn refuse(&mut self, error: String) {
        self.input.clear();
        self.answer(Err(error));
        self.closing = true;
    }
}

/// Whether a client is there all the same.
fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn waits(error: &io::Error) -> Needs {
    match error.kind() {
        ErrorKind::WouldBlock => Needs::Itself,
        ErrorKind::Interrupted => Needs::Call,
        _ => Needs::Closing,
    }
}

/// The error of a request that comes too late.
const ENDED: &str = "the guest has ended";

impl ControlledGuest {
    fn carry_out(&mut self, request: Request) -> Result<(), String> {
        match request {
            Request::Set(changes) => self.change(&changes)?,
            Request::Pause {} => self.controller.pause(),
            Request::Resume {} => self.controller.resume(),
            // The client does these.
            Request::Get {} | Request::Stop {} => {}
        }
        Ok(())
    }

    /// Has the guest end as by SIGTERM: there is one way to end a guest, with one exit code of hv. The handler only writes to a pipe.
    fn stop(&self) {
        // A paused guest would not see that it is asked.
        self.controller.resume();
        if let Err(error) = signal_hook::low_level::raise(SIGTERM) {
            tracing::warn!("--control: the guest cannot be stopped: {error}");
        }
    }

    /// Everything, or nothing.
    fn change(&mut self, changes: &Changes) -> Result<(), String> {
        let weight = changes.weight.unwrap_or(self.share.weight());
        let cap = changes.cap.or(self.share.cap()).unwrap_or(0);
        let share = Share::new(weight, cap).map_err(|error| error.to_string())?;
        let change = self.controller.change_targets(|targets| {
            targets.vcpus = changes.vcpus.unwrap_or(targets.vcpus);
            if let Some(memory) = changes.memory {
                targets.memory = Some(memory).filter(|bytes| *bytes != 0);
            }
        });
        change.map_err(|error| error.to_string())?;
        if std::mem::replace(&mut self.share, share) != share {
            self.controller.set_share(share);
        }
        Ok(())
    }

    fn status(&self, resident: Option<u64>) -> Result<Status, String> {
        let facts = self.controller.facts().ok_or(ENDED)?;
        let Facts { name, state, vcpus, vcpus_running, memory, targets, cpu_time, .. } = facts;
        Ok(Status {
            name,
            state: state.to_string(),
            vcpus: Vcpus { running: vcpus_running, target: targets.vcpus, most: vcpus },
            memory: Memory { size: memory, target: targets.memory.unwrap_or(0), resident },
            cpu_time_ns: cpu_time.as_nanos() as u64,
            weight: self.share.weight(),
            cap: self.share.cap().unwrap_or(0),
        })
    }
}
