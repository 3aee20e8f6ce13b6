//! Event channels: one bit each way, per port.
//!
//! To the guest, an event is a bit in [`SharedInfo::pending`]; the host sets it
//! (and wakes a guest that blocks), the guest clears it *before* it looks at
//! what the event is about, so that nothing is missed. To the host, an event is
//! the [`EventSend`] call, the doorbell.
//!
//! [`SharedInfo::pending`]: crate::shared_info::SharedInfo::pending
//! [`EventSend`]: crate::Hypercall::EventSend

use crate::EventPort;

/// Number of event channels of a guest: ports are `0..PORTS`.
pub const PORTS: u32 = 1024;

/// Never bound, so that a forgotten port does nothing.
pub const NONE: EventPort = EventPort(0);

/// Raised by the host when the guest is asked to shut down (Ctrl-C, SIGTERM).
/// A guest that unmasks it promises to exit by itself soon; the host ends
/// one that leaves it masked at once.
pub const POWER: EventPort = EventPort(1);

/// Raised by the host when the guest runs on as a restored or cloned one: see
/// [`SharedInfo::generation`](crate::shared_info::SharedInfo::generation) (ABI 1.1).
pub const GENERATION: EventPort = EventPort(PORTS - 1);

/// The first port that start-info gives to devices.
pub const FIRST_DEVICE: EventPort = EventPort(2);

impl EventPort {
    /// Word and bit of this port in the pending and mask bitmaps, or `None`
    /// for a number that is no port.
    pub const fn position(self) -> Option<(usize, u64)> {
        if self.0 >= PORTS {
            return None;
        }
        Some(((self.0 / 64) as usize, 1 << (self.0 % 64)))
    }
}
