//! Disk images: what a file holds as the disk of a guest.
//!
//! ```text
//! path, format ─ chain: files opened, locked ─▶ Image ─ find ─▶ a run of bytes in one of its files: the caller moves them
//!                                                    └─ read, write, zero, flush: whatever else it takes
//! ```
//!
//! An [`Image`] tells from memory where the bytes of a run are ([`find`](Image::find)), so that a caller with io_uring moves
//! them to and from guests itself; everything else blocks. What comes from files is checked before it is used: a file may come from
//! anybody. Formats are pure logic apart from their files: headers (`qcow2/header`), entries, tables in memory.
#![deny(unsafe_code)]

mod chain;
pub mod copy;
mod error;
mod file;
mod format;
mod image;
mod lock;
pub mod qcow2;
mod raw;

pub use chain::{Chain, OpenOptions, lock_patiently, open, open_backing, open_path};
pub use error::ImageError;
pub use file::ImageFile;
pub use format::{Format, HEAD, TAIL, Undecided, UnknownFormat, container, decide};
pub use image::{Access, Guard, Image, Run};
pub use lock::{LockError, LockMode, lock, unlock};
pub use raw::RawImage;
