//! Emulated devices as a guest reaches them, for the fuzz targets.

use super::{Emulated, EmulatedError, Hardware, connect};
use crate::event::Hub;
use crate::memory::GuestMemory;
use crate::platform::Access;
use crate::reactor::Source;
use std::sync::Arc;

/// The devices of a guest.
pub struct Machine {
    hardware: Hardware,
    /// What the I/O thread would drive.
    pub sources: Vec<Box<dyn Source>>,
}

impl Machine {
    /// Makes the devices of a guest with this memory.
    pub fn new(
        devices: Vec<Emulated>,
        memory: &Arc<GuestMemory>,
        hub: &Arc<Hub>,
    ) -> Result<Self, EmulatedError> {
        let connected = connect(devices, memory, hub)?;
        Ok(Machine { hardware: connected.hardware, sources: connected.sources })
    }

    /// Makes an access of the guest.
    pub fn access(&mut self, access: &Access) -> Option<u64> {
        self.hardware.access(access)
    }
}
