//! The device table of start-info.

use crate::{EventPort, GuestAddr, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A ring of a device, see [`crate::ring`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingInfo {
    /// Where the ring lies; aligned to 64 bytes.
    pub address: GuestAddr,
    /// Entries (bytes, for a console) of its request queue; a power of two.
    pub requests: u32,
    /// Entries (bytes, for a console) of its response queue; a power of two.
    pub responses: u32,
    /// Event channel of the ring, both ways.
    pub event: EventPort,
    /// Zero.
    pub reserved: u32,
}

layout!(RingInfo: 24 { address @ 0, requests @ 8, responses @ 12, event @ 16, reserved @ 20 });

/// Bytes of [`DeviceInfo::config`].
pub const CONFIG_SIZE: usize = 72;

/// An entry of the device table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeviceInfo {
    /// [`CONSOLE`], [`BLOCK`], [`NET`], [`FUNCTION`], [`SERVICES`] or [`SHARE`]; a guest skips kinds that it does not know.
    pub kind: u32,
    /// Counts the devices of this kind from 0, in the order of the command line.
    pub index: u32,
    /// The rings: a net device has two (transmit, receive), the other kinds have one.
    pub rings: [RingInfo; 2],
    /// Depends on the kind, see [`crate::io`].
    pub config: [u8; CONFIG_SIZE],
}

layout!(DeviceInfo: 128 { kind @ 0, index @ 4, rings @ 8, config @ 56 });

/// Kind of a console, see [`crate::io::console`].
pub const CONSOLE: u32 = 1;
/// Kind of a block device, see [`crate::io::block`].
pub const BLOCK: u32 = 2;
/// Kind of a net device, see [`crate::io::net`].
pub const NET: u32 = 3;
/// Kind of a function device, see [`crate::io::function`] (ABI 1.1).
pub const FUNCTION: u32 = 4;
/// Kind of a services device, see [`crate::io::services`] (ABI 1.6).
pub const SERVICES: u32 = 5;
/// Kind of a share, see [`crate::io::share`] (ABI 1.8).
pub const SHARE: u32 = 6;

/// A device's configuration: plain bytes at the start of [`DeviceInfo::config`].
pub trait Config: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// The kind of device that it configures.
    const KIND: u32;

    /// The configuration in a table entry of this kind.
    fn of(info: &DeviceInfo) -> Option<Self> {
        if info.kind != Self::KIND {
            return None;
        }
        Self::read_from_prefix(&info.config).ok().map(|(c, _)| c)
    }

    /// The bytes to put into a table entry.
    fn to_config(&self) -> [u8; CONFIG_SIZE] {
        let mut bytes = [0; CONFIG_SIZE];
        for (to, from) in bytes.iter_mut().zip(self.as_bytes()) {
            *to = *from;
        }
        bytes
    }
}
