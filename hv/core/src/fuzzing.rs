//! Doors for the fuzz targets in `fuzz/` to what is private elsewhere. They add nothing of their
//! own, and are there with the feature `fuzzing` only.

pub use crate::device::function::door as function;
pub use crate::device::services::door as services;
pub use crate::device::share::door as share;
pub use crate::platform::process::door as zygote;
pub use crate::snapshot::door as snapshot;

use crate::hypercall::{Action, dispatch};
use crate::memory::GuestMemory;
use hv_abi::GuestAddr;

/// What a hypercall came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Called {
    /// It returned this.
    Returned(i64),
    /// The guest ends with this in its crash report.
    Panicked(String),
    /// This goes to its error output.
    ErrorOutput(Vec<u8>),
    /// The guest is taken here when events come.
    Upcall(GuestAddr),
    /// The guest's run loop has something to do.
    Other,
}

/// Carries out a hypercall of a guest with this memory.
pub fn hypercall(memory: &GuestMemory, number: u32, arguments: [u64; 3]) -> Called {
    match dispatch(memory, number, arguments) {
        Action::Return(value) => Called::Returned(value),
        Action::Panic(message) => Called::Panicked(message),
        Action::ErrorOutput(text) => Called::ErrorOutput(text),
        Action::SetUpcall(Some(handler)) => Called::Upcall(handler),
        _ => Called::Other,
    }
}
