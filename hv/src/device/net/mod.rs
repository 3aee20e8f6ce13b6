//! Net devices: the back end of the rings, and the networks behind it.

use hv_abi::io::net::NetConfig;
use std::io;
use std::time::Instant;

/// What a net device is connected to: frames in, frames out.
///
/// It runs on the reactor's thread and never blocks.
pub trait Network: Send {
    /// What the guest is told about this network.
    fn config(&self) -> NetConfig;

    /// Registers descriptors; the device passes their events on to `ready`.
    fn start(&mut self, io: crate::reactor::Registrar) -> io::Result<()>;

    /// Takes a frame that the guest sent. It may be anything, of any length up
    /// to `mtu + 14`; a network under pressure drops it.
    fn send(&mut self, frame: &[u8]);

    /// A descriptor registered with `key` is ready.
    fn ready(&mut self, key: u32, event: &mio::event::Event);

    /// Does what is due, and returns when to be called next if nothing else happens.
    fn poll(&mut self, now: Instant) -> Option<Instant>;

    /// Hands frames for the guest to `deliver` until there is none, or until
    /// `deliver` returns false: then the guest has no buffer, and the frame
    /// offered must be offered again at the next call.
    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool);
}
