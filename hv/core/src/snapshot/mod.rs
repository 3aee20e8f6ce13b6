//! Snapshots: a guest that is paused, to resume from any number of times.
//!
//! In a folder, a snapshot is three files: `state`, which says what the other two have to be, `memory`, and
//! the image. docs/snapshots.md has the format.

mod disks;
#[cfg(feature = "fuzzing")]
pub mod door;
mod header;
mod open;
#[cfg(test)]
mod tests;
mod write;

pub use crate::domain::{Features, Snapshot};
pub use disks::DisksError;
pub use open::OpenError;
pub use write::{WriteError, Written};

/// The files of a snapshot's folder.
const STATE: &str = "state";
const MEMORY: &str = "memory";
const IMAGE: &str = "image";
