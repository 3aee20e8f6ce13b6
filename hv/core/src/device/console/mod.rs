//! The console: what the guest prints goes to an [`Output`], what it reads comes from an [`Input`].
//!
//! Neither side is ever buffered beyond one ring and one chunk: a guest that
//! floods finds its ring full and waits until the reader has read.

mod back_end;
mod source;

pub(crate) use back_end::KIND;
pub use source::ConsoleSource;

use super::Ring;
use crate::event::Channel;
use crate::memory::RingMemory;
use hv_abi::io::console::INPUT_CLOSED;
use hv_abi::ring::{Back, CLOSED_OFFSET, SharedMemory, Violation};
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// Where a guest's output goes.
pub trait Output: Send {
    /// Takes some of the bytes, or returns [`ErrorKind::WouldBlock`] rather than wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] if nothing can be taken without waiting. Any other error but [`ErrorKind::Interrupted`] is the end of the output.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// A descriptor that becomes writable after `WouldBlock`, if it is one that can tell.
    fn descriptor(&self) -> Option<RawFd>;
}

impl Output for Box<dyn Output> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (**self).write(bytes)
    }

    fn descriptor(&self) -> Option<RawFd> {
        (**self).descriptor()
    }
}

/// Where a guest's input comes from.
pub trait Input: Send {
    /// Gives some bytes (0 at the end), or returns [`ErrorKind::WouldBlock`] rather than wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] if nothing is there yet. Any other error but [`ErrorKind::Interrupted`] is the end of the input.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// A descriptor that becomes readable after `WouldBlock`, if it is one that can tell.
    fn descriptor(&self) -> Option<RawFd>;
}

/// Chunks that one call moves: then the reactor calls other sources.
const CHUNKS_PER_PUMP: usize = 32;

/// Bytes that are moved at once. A pipe that is writable takes this many
/// without waiting (PIPE_BUF).
const CHUNK: usize = 4096;

/// What is called with the reason when an output takes no more.
pub type OnClosed = Box<dyn Fn(&io::Error) + Send + Sync>;

/// The back end of one guest's console.
///
/// The guest's own thread drives it at first: a guest that prints a line and ends needs no other.
pub struct Console {
    state: Mutex<ConsoleState>,
    on_closed: OnceLock<OnClosed>,
    /// Doorbells that came while the guest's own thread drove it.
    rings: AtomicU32,
}

struct ConsoleState {
    /// `None`: it is not connected yet.
    end: Option<ConsoleRing>,
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

/// The host's end of the console's ring.
struct ConsoleRing {
    back: Back<RingMemory, u8, u8>,
    ring: Ring,
}

/// The result of a pump.
#[derive(PartialEq, Eq)]
enum Pumped {
    /// Everything that was published is written.
    All,
    /// The output would block.
    Waiting,
    /// The budget is used up; there is more.
    Budget,
}

impl Console {
    /// A console that is not connected to a guest yet.
    pub fn new(output: Box<dyn Output>, input: Option<Box<dyn Input>>) -> Arc<Self> {
        let (chunk, written) = (Vec::new(), 0);
        let state = ConsoleState { end: None, output, input, chunk, written, dead: false, ended: false };
        Arc::new(Console { state: Mutex::new(state), on_closed: OnceLock::new(), rings: AtomicU32::new(0) })
    }

    /// Sets the callback for when the output's reader has gone away, or it can take no more: once, and before
    /// the guest runs.
    pub fn set_on_closed(&self, on_closed: OnClosed) {
        let _ = self.on_closed.set(on_closed);
    }

    /// Connects the console to a guest's ring.
    ///
    /// # Errors
    ///
    /// The ring was left in a state that makes no sense.
    pub fn connect(&self, ring: Ring) -> Result<(), Violation> {
        let mut back = ring.back()?;
        if ring.fresh {
            // Arms the doorbell; there is nothing yet. That of a ring that was saved was armed then. (If it
            // was not, the guest has changed it, and loses its output.)
            let _ = back.requests.wait_for_entries();
        }
        let state = &mut *self.state();
        ring.memory.store(CLOSED_OFFSET, if state.input.is_none() { INPUT_CLOSED } else { 0 });
        state.end = Some(ConsoleRing { back, ring });
        Ok(())
    }

    /// Takes the console back to where its ring's memory is, after that was reset.
    ///
    /// # Errors
    ///
    /// The ring there makes no sense.
    pub fn reset(&self) -> Result<(), Violation> {
        let state = &mut *self.state();
        if let Some(end) = &mut state.end {
            end.ring.fresh = false;
            end.back = end.ring.back()?;
        }
        (state.written, state.dead, state.ended) = (0, false, false);
        state.chunk.clear();
        self.rings.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, ConsoleState> {
        self.state.lock().expect("no panic while held")
    }

    /// The state, unless another thread uses it.
    fn try_state(&self) -> Option<MutexGuard<'_, ConsoleState>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("no panic while held"),
        }
    }

    /// Moves what can be moved without waiting.
    fn pump(&self) -> Pumped {
        self.pump_output(&mut self.state(), Duration::ZERO)
    }

    /// [`pump`](Self::pump) with a state at hand. After much output it looks for more of it for so long.
    fn pump_output(&self, state: &mut ConsoleState, look: Duration) -> Pumped {
        if state.dead {
            return Pumped::All;
        }
        match state.pump_output(look) {
            Ok(pumped) => pumped,
            Err(PumpError::Ring(violation)) => {
                state.broken(violation);
                Pumped::All
            }
            Err(PumpError::Output(error)) => {
                tracing::debug!("console output: {error}");
                state.dead = true;
                if let Some(on_closed) = self.on_closed.get() {
                    on_closed(&error);
                }
                Pumped::All
            }
        }
    }

    /// Does what a ring of the doorbell asks for. Returns true when that needs
    /// a [`ConsoleSource`] from now on: the output would block or is not done,
    /// or the guest wants input.
    pub fn ring(&self) -> bool {
        self.pump() != Pumped::All || self.state().channel().is_some_and(Channel::is_unmasked)
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
    /// as long as `go_on` says so. For when the guest is paused.
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

impl ConsoleState {
    /// Gives the guest what has been read for it, if it listens.
    fn give_input(&mut self) {
        if self.dead || !self.channel().is_some_and(Channel::is_unmasked) {
            return;
        }
        if let Err(violation) = self.pump_input() {
            self.broken(violation);
        }
    }

    fn channel(&self) -> Option<&Channel> {
        self.end.as_ref().map(|end| &end.ring.channel)
    }

    /// The guest broke the protocol of the ring.
    fn broken(&mut self, violation: Violation) {
        self.dead = true;
        if let Some(channel) = self.channel() {
            channel.violation("console", violation);
        }
    }

    fn pump_output(&mut self, look: Duration) -> Result<Pumped, PumpError> {
        let Some(ConsoleRing { back, ring }) = &mut self.end else { return Ok(Pumped::All) };
        let mut moved = 0;
        for _ in 0..CHUNKS_PER_PUMP {
            while self.written < self.chunk.len() {
                match self.output.write(&self.chunk[self.written..]) {
                    Ok(count) => {
                        self.written += count;
                        ring.counters.went_out(1, count as u64);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pumped::Waiting),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(PumpError::Output(error)),
                }
            }
            // Room is given once the reader has the bytes: a guest that waits for an empty ring knows that they are there.
            if back.requests.release() {
                ring.channel.notify();
            }
            self.written = 0;
            self.chunk.resize(CHUNK, 0);
            let count = back.requests.pop(&mut self.chunk)?;
            self.chunk.truncate(count);
            moved += count;
            let more = count > 0 || moved >= CHUNK && await_more(back, look)?;
            if !more && !back.requests.wait_for_entries()? {
                return Ok(Pumped::All);
            }
        }
        Ok(Pumped::Budget)
    }

    fn pump_input(&mut self) -> Result<(), Violation> {
        let Some(ConsoleRing { back, ring }) = &mut self.end else { return Ok(()) };
        let mut bytes = [0; 512];
        while let Some(input) = &mut self.input {
            let room = (back.responses.room()? as usize).min(bytes.len());
            if room == 0 {
                // The guest rings when it has read everything.
                if !back.responses.wait_for_room(1)? {
                    return Ok(());
                }
                continue;
            }
            match input.read(&mut bytes[..room]) {
                Ok(0) => {
                    ring.memory.store(CLOSED_OFFSET, INPUT_CLOSED);
                    self.input = None;
                    ring.channel.notify();
                }
                Ok(count) => {
                    back.responses.push(&bytes[..count])?;
                    ring.counters.went_in(1, count as u64);
                    if back.responses.publish() {
                        ring.channel.notify();
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    tracing::debug!("console input: {error}");
                    ring.memory.store(CLOSED_OFFSET, INPUT_CLOSED);
                    self.input = None;
                    ring.channel.notify();
                }
            }
        }
        Ok(())
    }
}

/// Looks for so long whether the guest prints more. Returns whether it has.
fn await_more(back: &mut Back<RingMemory, u8, u8>, look: Duration) -> Result<bool, Violation> {
    let begin = Instant::now();
    while begin.elapsed() < look {
        if back.requests.available()? > 0 {
            return Ok(true);
        }
        std::hint::spin_loop();
    }
    Ok(false)
}

/// Waits until a descriptor can take bytes, or for `at_most`.
fn wait_writable(descriptor: Option<RawFd>, at_most: Duration) {
    match descriptor {
        Some(fd) => {
            let _ = crate::device::stdio::poll(fd, libc::POLLOUT, at_most);
        }
        // The jail of a worker does not allow the system call for sleeping.
        None => std::thread::park_timeout(at_most.min(Duration::from_millis(1))),
    }
}
