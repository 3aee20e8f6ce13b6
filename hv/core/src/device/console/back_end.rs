//! The console as a device of any guest.

use super::{Console, ConsoleSource, Pumped};
use crate::device::{
    BackEnd, ConnectError, Connection, DeviceKind, DoorbellHandler, DrivenBy, QuickHandler,
    RINGS_BEFORE_BINDING, RingShape, Served,
};
use crate::reactor::Source;
use hv_abi::device::{CONFIG_SIZE, CONSOLE, Config};
use hv_abi::io::console::ConsoleConfig;
use hv_abi::ring::Violation;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// Every guest has one console, its first device.
pub(crate) static KIND: DeviceKind = DeviceKind {
    number: CONSOLE,
    name: "a console",
    key: "console",
    // Bytes of output, and of input.
    rings: &[RingShape::new::<u8, u8>(16 << 10, 2 << 10)],
    // It gets one when the I/O thread takes it over.
    has_doorbells: false,
};

impl BackEnd for Arc<Console> {
    fn kind(&self) -> &'static DeviceKind {
        &KIND
    }

    fn config(&self) -> [u8; CONFIG_SIZE] {
        ConsoleConfig::default().to_config()
    }

    fn connect(self: Box<Self>, mut connection: Connection<'_>) -> Result<DrivenBy, ConnectError> {
        let [ring] = connection.rings();
        Console::connect(&self, ring)?;
        Ok(DrivenBy::VcpuThread(*self))
    }
}

impl DoorbellHandler for Console {
    fn ring(&self) -> Served {
        let rings = self.rings.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        match Console::ring(self) || rings == RINGS_BEFORE_BINDING {
            true => Served::HandOver,
            false => Served::Running,
        }
    }

    fn reset(&self) -> Result<(), Violation> {
        Console::reset(self)
    }

    fn source(self: Arc<Self>, doorbell: EventFd) -> Option<Box<dyn Source>> {
        Some(Box::new(ConsoleSource::new(self, doorbell)))
    }

    fn quick(self: Arc<Self>) -> Option<Arc<dyn QuickHandler>> {
        Some(self)
    }
}

impl QuickHandler for Console {
    fn try_ring(&self) -> bool {
        let Some(mut state) = self.try_state() else { return false };
        let pumped = self.pump_output(&mut state, Duration::ZERO);
        state.give_input();
        pumped == Pumped::All
    }
}
