//! Shares: folders of the host as rings of requests. What a request comes to is in the crate `hv-share`.
//!
//! ```text
//! ring ─ device (I/O thread) ─ request: copied and validated once ─▶ Job ─▶ workers (threads of the share) ─▶ hv_share::Share
//! ```
//!
//! Only what needs no wait is done on the I/O thread, or on the guest's own: a file system that does not answer keeps the threads of this share waiting,
//! and nobody else.

mod back_end;
mod device;
mod job;
mod request;
mod waiting;
mod workers;

pub(crate) use back_end::{KIND, ShareBackEnd};
pub use hv_share::{Folder, FolderError, ShareSpec, SpecError, Tag};

#[cfg(feature = "fuzzing")]
pub mod door;
