//! Hardware that a guest may have besides rings: registers at ports and addresses. Each access costs an exit.
//!
//! hv has no such hardware itself. `hv bench` provides some, to compare rings with.

use crate::event::Hub;
use crate::memory::GuestMemory;
use crate::platform::{BusAccess, Opening};
use crate::reactor::Source;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Emulated hardware of one guest. Its ports and pages are open to that guest only: for all others the processor denies
/// access (I/O bitmap, page tables). It is not part of snapshots.
pub trait Bus: Send {
    /// The ports and pages that the guest may reach.
    fn opening(&self) -> Opening;

    /// Connects the hardware to the guest's memory and events. Called once, before the guest runs.
    ///
    /// # Errors
    ///
    /// If the hardware cannot be made. The guest is not started then.
    fn connect(&mut self, memory: &Arc<GuestMemory>, hub: &Arc<Hub>) -> Result<Wiring, BusError>;

    /// Carries out an access of the guest, on the thread that runs it: one of several if it is by a string instruction. Returns the value of a read, `None` for a write.
    fn access(&mut self, access: &BusAccess) -> Option<u64>;
}

/// What hardware has besides its registers.
#[derive(Default)]
pub struct Wiring {
    /// What the I/O thread drives for it.
    pub sources: Vec<Box<dyn Source>>,
    /// Guest-physical addresses within the [opening](Bus::opening). A 4-byte write to one signals a descriptor and is not an access.
    pub bells: Vec<(u64, EventFd)>,
}

/// Why emulated hardware could not be made: the hardware's own message.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BusError(#[from] pub Box<dyn std::error::Error + Send + Sync>);
