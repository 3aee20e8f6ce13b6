//! What a guest may have beside rings: registers at ports and addresses, which cost an exit for each access.
//!
//! hv has no such hardware of its own. `hv bench` brings some, to compare rings with.

use crate::event::Hub;
use crate::memory::GuestMemory;
use crate::platform::{BusAccess, Opening};
use crate::reactor::Source;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Emulated hardware of one guest. Its ports and pages are opened to that guest, and closed to every other one by the processor
/// (I/O bitmap, page tables). It is not part of snapshots.
pub trait Bus: Send {
    /// The ports and pages that the guest may reach.
    fn opening(&self) -> Opening;

    /// Connects the hardware to the guest's memory and events: once, before the guest runs.
    ///
    /// # Errors
    ///
    /// Whatever keeps the hardware from being made: the guest is not started.
    fn connect(&mut self, memory: &Arc<GuestMemory>, hub: &Arc<Hub>) -> Result<Wiring, BusError>;

    /// Makes an access of the guest, on the thread that runs it. Returns what a read gets; `None` after a write.
    fn access(&mut self, access: &BusAccess) -> Option<u64>;
}

/// What hardware has beside its registers.
#[derive(Default)]
pub struct Wiring {
    /// What the I/O thread drives for it.
    pub sources: Vec<Box<dyn Source>>,
    /// Guest-physical addresses within the [opening](Bus::opening) whose 4-byte writes signal a descriptor instead of being an access.
    pub bells: Vec<(u64, EventFd)>,
}

/// Why emulated hardware could not be made, in its own words.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BusError(#[from] pub Box<dyn std::error::Error + Send + Sync>);
