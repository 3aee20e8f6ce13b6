//! Block devices: disks of the host as rings of requests.
//!
//! ```text
//! command line ─ spec ─▶ disk (or folder ─▶ disk)
//! ring ─ device ─ request: validated once ─▶ plan ─▶ engine ─ io_uring | threads ─▶ disk
//! ```
//!
//! A disk can have an [`overlay`]: a guest's own writes, which the disk does not see.
//!
//! A request passes the modules in this order: [`device`] copies it out of the ring, [`request`] turns the
//! copy into a [`Plan`] or refuses it, and an [`engine`] gets plans only. ⚠ `unsafe` is found in [`buffers`]
//! (moving validated ranges between threads), in the two engines and in the reads that need none (passing them to the
//! kernel), nowhere else.
mod back_end;
pub mod buffers;
pub mod device;
pub mod disk;
pub mod engine;
pub mod folder;
pub mod overlay;
pub mod record;
pub mod request;
pub mod spec;

#[cfg(test)]
mod tests;

pub(crate) use back_end::{DiskBackEnd, KIND};
pub use device::{BlockDevice, BlockError, Parts};
pub use disk::{Disk, DiskError};
pub use engine::{EngineError, EngineKind};
pub use hv_disk::{Format, ImageError};
pub use record::{DiskRecord, RecordError};
pub use request::{Plan, validate};
pub use spec::{DiskSpec, SpecError};
