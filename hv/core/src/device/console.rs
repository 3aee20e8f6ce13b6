//! The console: what the guest prints goes to an [`Output`], what it reads comes from an [`Input`].
//!
//! Neither side is ever buffered beyond one ring and one chunk: a guest that
//! floods finds its ring full and waits until the reader has read.

use crate::event::Channel;
use crate::memory::RingMemory;
use crate::reactor::{Registrar, Source};
use hv_abi::io::console::INPUT_CLOSED;
use hv_abi::ring::{Back, CLOSED_OFFSET, Layout, SharedMemory, Violation};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Where a guest's output goes.
pub trait Output: Send {
    /// Takes some of the bytes, or returns [`ErrorKind::WouldBlock`] rather than wait.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// A descriptor that becomes writable after `WouldBlock`, if it is one that can tell.
    fn descriptor(&self) -> Option<RawFd>;
}

/// Where a guest's input comes from.
pub trait Input: Send {
    /// Gives some bytes (0 at the end), or returns [`ErrorKind::WouldBlock`] rather than wait.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// A descriptor that becomes readable after `WouldBlock`, if it is one that can tell.
    fn descriptor(&self) -> Option<RawFd>;
}

/// Chunks that one call moves: then other sources of the reactor have their turn.
const CHUNKS_PER_PUMP: usize = 32;

/// Bytes that are moved at once. A pipe that is writable takes this many
/// without waiting (PIPE_BUF).
const CHUNK: usize = 4096;

/// What is called with the reason when an output takes no more.
pub type OnClosed = Box<dyn Fn(&io::Error) + Send + Sync>;

/// The back end of one guest's console.
pub struct Console {
    state: Mutex<State>,
    channel: Channel,
    on_closed: OnClosed,
}

/// The host's end of a console ring.
pub struct ConsoleRing {
    back: Back<RingMemory, u8, u8>,
    memory: RingMemory,
    layout: Layout,
}

impl ConsoleRing {
    /// The ring of a guest that has not run yet: all zero.
    pub fn fresh(memory: RingMemory, layout: &Layout) -> Self {
        let mut back = Back::new(memory.clone(), layout);
        // Arms the doorbell; there is nothing yet.
        let _ = back.requests.wait_for_entries();
        ConsoleRing { back, memory, layout: *layout }
    }

    /// The ring of a guest that was saved; its doorbell was armed then. (If it was not, its guest
    /// has meddled with it, and loses its output.)
    pub fn resume(memory: RingMemory, layout: &Layout) -> Result<Self, Violation> {
        Ok(ConsoleRing { back: Back::resume(memory.clone(), layout)?, memory, layout: *layout })
    }
}

struct State {
    ring: ConsoleRing,
    output: Box<dyn Output>,
    input: Option<Box<dyn Input>>,
    /// Taken from the ring, not yet written: at most [`CHUNK`] bytes.
    chunk: Vec<u8>,
    written: usize,
    /// The ring or the output is of no further use.
    dead: bool,
    /// The guest has ended, and its owner waits for the rest to be written.
    ended: bool,
}

/// How far a pump got.
#[derive(PartialEq, Eq)]
enum Pumped {
    /// Everything that was published is written.
    All,
    /// The output would block.
    Waiting,
    /// There is more, but others are to have their turn.
    Budget,
}

impl Console {
    /// A console on a ring, whose saved state is taken up unless it is `fresh`. `on_closed` is
    /// called when the output's reader has gone away, or it can take no more.
    pub fn new(
        ring: ConsoleRing,
        channel: Channel,
        output: Box<dyn Output>,
        input: Option<Box<dyn Input>>,
        on_closed: OnClosed,
    ) -> Arc<Self> {
        ring.memory.store(CLOSED_OFFSET, if input.is_none() { INPUT_CLOSED } else { 0 });
        let state = State { ring, output, input, chunk: Vec::new(), written: 0, dead: false, ended: false };
        Arc::new(Console { state: Mutex::new(state), channel, on_closed })
    }

    /// Takes the console back to where its ring's memory is, after that was reset.
    pub fn renew(&self) -> Result<(), Violation> {
        let state = &mut *self.state();
        state.ring = ConsoleRing::resume(state.ring.memory.clone(), &state.ring.layout)?;
        (state.written, state.dead, state.ended) = (0, false, false);
        state.chunk.clear();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    /// Moves what can be moved without waiting.
    fn pump(&self) -> Pumped {
        let state = &mut *self.state();
        if state.dead {
            return Pumped::All;
        }
        match state.pump_output(&self.channel) {
            Ok(pumped) => pumped,
            Err(PumpError::Ring(violation)) => {
                state.dead = true;
                self.channel.violation("console", violation);
                Pumped::All
            }
            Err(PumpError::Output(error)) => {
                tracing::debug!("console output: {error}");
                state.dead = true;
                (self.on_closed)(&error);
                Pumped::All
            }
        }
    }

    /// Does what a ring of the doorbell asks for. Returns true when that needs
    /// a [`ConsoleSource`] from now on: the output would block or is not done,
    /// or the guest wants input.
    pub fn ring(&self) -> bool {
        self.pump() != Pumped::All || self.channel.is_unmasked()
    }

    fn pump_input(&self) {
        let state = &mut *self.state();
        if state.dead || !self.channel.is_unmasked() {
            return;
        }
        if let Err(violation) = state.pump_input(&self.channel) {
            state.dead = true;
            self.channel.violation("console", violation);
        }
    }

    /// Writes what the guest has published and its reader takes now, for when the guest has ended. Returns true once
    /// all is written. Until then a [`ConsoleSource`] goes on, and wakes the guest's owner when it has written the rest.
    pub fn drain(&self) -> bool {
        self.state().ended = true;
        loop {
            match self.pump() {
                Pumped::All => return true,
                Pumped::Waiting => return false,
                // No more than the ring holds.
                Pumped::Budget => {}
            }
        }
    }

    /// Whether its output has a descriptor that tells when it takes more.
    pub fn tells(&self) -> bool {
        self.state().output.descriptor().is_some()
    }

    /// Writes everything that the guest has published, waiting for the reader
    /// as long as `go_on` says so. For when the guest stands still.
    pub fn finish(&self, go_on: &mut dyn FnMut() -> bool) {
        loop {
            match self.pump() {
                Pumped::All => return,
                _ if !go_on() => return,
                Pumped::Budget => {}
                Pumped::Waiting => {
                    let descriptor = self.state().output.descriptor();
                    wait_writable(descriptor, Duration::from_millis(100));
                }
            }
        }
    }
}

enum PumpError {
    Ring(Violation),
    Output(io::Error),
}

impl From<Violation> for PumpError {
    fn from(violation: Violation) -> Self {
        PumpError::Ring(violation)
    }
}

impl State {
    fn pump_output(&mut self, channel: &Channel) -> Result<Pumped, PumpError> {
        for _ in 0..CHUNKS_PER_PUMP {
            while self.written < self.chunk.len() {
                match self.output.write(&self.chunk[self.written..]) {
                    Ok(count) => self.written += count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pumped::Waiting),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(PumpError::Output(error)),
                }
            }
            self.written = 0;
            self.chunk.resize(CHUNK, 0);
            let count = self.ring.back.requests.pop(&mut self.chunk)?;
            self.chunk.truncate(count);
            if self.ring.back.requests.release() {
                channel.notify();
            }
            if count == 0 && !self.ring.back.requests.wait_for_entries()? {
                return Ok(Pumped::All);
            }
        }
        Ok(Pumped::Budget)
    }

    fn pump_input(&mut self, channel: &Channel) -> Result<(), Violation> {
        let mut bytes = [0; 512];
        while let Some(input) = &mut self.input {
            let room = (self.ring.back.responses.room()? as usize).min(bytes.len());
            if room == 0 {
                // The guest rings when it has read everything.
                if !self.ring.back.responses.wait_for_room(1)? {
                    return Ok(());
                }
                continue;
            }
            match input.read(&mut bytes[..room]) {
                Ok(0) => {
                    self.ring.memory.store(CLOSED_OFFSET, INPUT_CLOSED);
                    self.input = None;
                    channel.notify();
                }
                Ok(count) => {
                    self.ring.back.responses.push(&bytes[..count])?;
                    if self.ring.back.responses.publish() {
                        channel.notify();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    tracing::debug!("console input: {error}");
                    self.ring.memory.store(CLOSED_OFFSET, INPUT_CLOSED);
                    self.input = None;
                    channel.notify();
                }
            }
        }
        Ok(())
    }
}

/// Waits until a descriptor can take bytes, or for `at_most`.
fn wait_writable(descriptor: Option<RawFd>, at_most: Duration) {
    match descriptor {
        Some(fd) => {
            let _ = crate::device::stdio::poll(fd, libc::POLLOUT, at_most);
        }
        // Sleeping is a system call that a worker in its jail does not have.
        None => std::thread::park_timeout(at_most.min(Duration::from_millis(1))),
    }
}

// Keys of the descriptors that the source watches.
const DOORBELL: u32 = 0;
const OUTPUT: u32 = 1;
const INPUT: u32 = 2;

/// Drives a [`Console`] from its doorbell and its descriptors.
pub struct ConsoleSource {
    console: Arc<Console>,
    doorbell: EventFd,
}

impl ConsoleSource {
    /// The source of a console whose guest rings this (non-blocking) doorbell.
    pub fn new(console: Arc<Console>, doorbell: EventFd) -> Self {
        ConsoleSource { console, doorbell }
    }
}

impl Source for ConsoleSource {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.doorbell.as_raw_fd()), DOORBELL, Interest::READABLE)?;
        let state = self.console.state();
        // A regular file cannot be watched (EPERM), and never makes one wait.
        if let Some(fd) = state.output.descriptor() {
            let _ = io.register(&mut SourceFd(&fd), OUTPUT, Interest::WRITABLE);
        }
        if let Some(fd) = state.input.as_ref().and_then(|input| input.descriptor()) {
            let _ = io.register(&mut SourceFd(&fd), INPUT, Interest::READABLE);
        }
        Ok(())
    }

    fn ready(&mut self, key: u32, _: &Event) {
        if key == DOORBELL {
            let _ = self.doorbell.read();
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let pumped = self.console.pump();
        if pumped == Pumped::All && self.console.state().ended {
            self.console.channel.wake();
        }
        self.console.pump_input();
        (pumped == Pumped::Budget).then_some(now)
    }

    fn renew(&mut self) -> bool {
        self.console.renew().is_ok()
    }
}
