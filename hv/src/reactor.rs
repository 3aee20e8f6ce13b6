//! The I/O thread: one readiness loop for the back ends of all guests.
//!
//! A [`Source`] is anything that waits for descriptors or for time: a doorbell
//! with its device, a network. The reactor owns it, calls it from one thread,
//! and never blocks in it.

use mio::event::Event;
use mio::{Interest, Registry, Token};
use std::io;
use std::time::Instant;

/// Something that the reactor drives. No method may block.
pub trait Source: Send {
    /// Registers descriptors. Called once, before everything else.
    fn start(&mut self, io: Registrar) -> io::Result<()>;

    /// A descriptor that was registered with `key` is ready (edge-triggered:
    /// act until `WouldBlock`). It may be a spurious call.
    fn ready(&mut self, key: u32, event: &Event);

    /// Called after every round of `ready` calls to this source and once its
    /// last deadline has passed. Returns when it wants to be called next if
    /// nothing else happens before.
    fn poll(&mut self, now: Instant) -> Option<Instant>;
}

/// Registers the descriptors of one [`Source`]; keys are its own.
#[derive(Debug)]
pub struct Registrar {
    registry: Registry,
    /// Identifies the source; the upper half of its tokens.
    slot: u32,
}

impl Registrar {
    /// A registrar for the source in `slot`.
    pub fn new(registry: &Registry, slot: u32) -> io::Result<Self> {
        Ok(Registrar { registry: registry.try_clone()?, slot })
    }

    /// Another registrar for the same source.
    pub fn try_clone(&self) -> io::Result<Self> {
        Registrar::new(&self.registry, self.slot)
    }

    fn token(&self, key: u32) -> Token {
        Token(((self.slot as usize) << 32) | key as usize)
    }

    /// Starts watching a descriptor.
    pub fn register(
        &self,
        source: &mut (impl mio::event::Source + ?Sized),
        key: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.register(source, self.token(key), interest)
    }

    /// Changes what is watched for.
    pub fn reregister(
        &self,
        source: &mut (impl mio::event::Source + ?Sized),
        key: u32,
        interest: Interest,
    ) -> io::Result<()> {
        self.registry.reregister(source, self.token(key), interest)
    }

    /// Stops watching. Dropping the descriptor does the same.
    pub fn deregister(&self, source: &mut (impl mio::event::Source + ?Sized)) -> io::Result<()> {
        self.registry.deregister(source)
    }
}
