//! Net devices: the back end of the rings, and the networks behind it.
//!
//! [`NetDevice`] moves frames between a guest's rings and a [`Network`]:
//! [`UserNet`](user::UserNet), a network in this process that needs no rights,
//! or [`Tap`], a device of the host.

mod back_end;
mod device;
mod pcap;
mod publish;
mod tap;
pub mod user;

pub(crate) use back_end::{KIND, NetBackEnd};
pub use device::{FIRST_DEVICE_KEY, NetDevice, RingAndDoorbell};
pub use pcap::{Capture, PacketCaptureError};
pub use publish::{BindError, Publish, PublishError};
pub use tap::{Tap, TapError};

use hv_abi::io::net::NetConfig;
use std::io;
use std::time::Instant;

/// What a net device is connected to: frames in, frames out.
///
/// It runs on the reactor's thread and never blocks.
pub trait Network: Send {
    /// What the guest is told about this network.
    fn config(&self) -> NetConfig;

    /// Registers descriptors, with keys below [`FIRST_DEVICE_KEY`]; the device
    /// passes their events on to `ready`.
    ///
    /// # Errors
    ///
    /// When the host refuses to watch a descriptor: the device has no network then.
    fn start(&mut self, io: crate::reactor::Registrar) -> io::Result<()>;

    /// Takes a frame that the guest sent. It may be anything, of any length from
    /// 14 bytes to `mtu + 14`; a network under pressure drops it.
    fn send(&mut self, frame: &[u8], now: Instant);

    /// A descriptor registered with `key` is ready (edge-triggered).
    fn ready(&mut self, key: u32, event: &mio::event::Event);

    /// Does what is due, and returns when to be called next if nothing else
    /// happens. Called before and after `receive`; with nothing to do it is cheap.
    fn poll(&mut self, now: Instant) -> Option<Instant>;

    /// Passes frames for the guest to `deliver` until there is none, or until
    /// `deliver` returns false: then the guest has no buffer, and the frame
    /// offered must be offered again at the next call.
    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool);
}
