//! The console on the I/O thread.

use super::{Console, Pumped};
use crate::event::Channel;
use crate::reactor::{Registrar, Source};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

// Keys of the descriptors that the source watches.
const DOORBELL: u32 = 0;
const OUTPUT: u32 = 1;
const INPUT: u32 = 2;

/// How long to look for more after 4 KiB and more: a guest that prints more than the ring holds comes back within some microseconds, and a wake-up of
/// this thread takes ten and more.
const LOOK: Duration = Duration::from_micros(10);

/// When to try again to use a console that the guest's own thread uses.
const IN_USE: Duration = Duration::from_micros(20);

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
        let Some(mut state) = self.console.try_state() else { return Some(now + IN_USE) };
        let pumped = self.console.pump_output(&mut state, LOOK);
        state.give_input();
        // The owner of a guest that has ended waits until everything is written.
        let waiting = state.channel().filter(|_| state.ended && pumped == Pumped::All).cloned();
        drop(state);
        waiting.inspect(Channel::wake);
        (pumped == Pumped::Budget).then_some(now)
    }

    /// What its guest has printed goes out first, as far as its reader takes it at once.
    fn settle(&mut self) -> bool {
        self.console
            .try_state()
            .is_some_and(|mut state| self.console.pump_output(&mut state, Duration::ZERO) != Pumped::Budget)
    }

    fn reset(&mut self) -> bool {
        self.console.reset().is_ok()
    }
}
