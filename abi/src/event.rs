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

/// The port of virtual CPU 0's own event. The others have those behind it, up to the one before [`GENERATION`]: see
/// [`EventPort::of_vcpu`] (ABI 1.4).
pub const FIRST_VCPU: EventPort = EventPort(PORTS - 1 - crate::vcpu::MAX);

/// Raised by the host when it has changed what the guest should use:
/// [`SharedInfo::vcpus_target`](crate::shared_info::SharedInfo::vcpus_target) or
/// [`SharedInfo::memory_target`](crate::shared_info::SharedInfo::memory_target) (ABI 1.5).
pub const TARGETS: EventPort = EventPort(FIRST_VCPU.0 - 1);

/// The first port that start-info gives to devices. Their ports end before [`TARGETS`].
pub const FIRST_DEVICE: EventPort = EventPort(2);

impl EventPort {
    /// The port of a virtual CPU's own event, which the guest itself raises: the [`EventSend`](crate::Hypercall::EventSend) of any virtual CPU to
    /// this port makes the event pending, and wakes who has it unmasked. `None` for a number that is no virtual CPU's.
    pub const fn of_vcpu(number: u32) -> Option<EventPort> {
        if number < crate::vcpu::MAX { Some(EventPort(FIRST_VCPU.0 + number)) } else { None }
    }

    /// Whether the guest raises this event itself: see [`of_vcpu`](Self::of_vcpu).
    pub const fn is_of_vcpu(self) -> bool {
        self.0 >= FIRST_VCPU.0 && self.0 < FIRST_VCPU.0 + crate::vcpu::MAX
    }

    /// Word and bit of this port in the pending and mask bitmaps, or `None`
    /// for a number that is no port.
    pub const fn position(self) -> Option<(usize, u64)> {
        if self.0 >= PORTS {
            return None;
        }
        Some(((self.0 / 64) as usize, 1 << (self.0 % 64)))
    }
}
