//! What a guest without a network reaches through its host, over the ring of a services device: stores, blobs, secrets and
//! connections.
//!
//! This is the part of the guest SDK's services that knows nothing of guests: `hv_guest::services` puts it on the device. It runs
//! over any [`Link`], which is how it is tested.
//!
//! All of it goes through one [`Channel`]. Each operation is a call of its own, so any number of tasks may have some under way.
//! A future that is dropped closes its call.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::missing_errors_doc)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod blob;
mod call;
mod channel;
mod error;
mod list;
mod secret;
mod socket;
mod store;
#[cfg(test)]
mod tests;

pub use blob::{Blobs, Reader, Writer};
pub use channel::Channel;
pub use error::Error;
pub use list::Entry;
pub use secret::{Secret, secret};
pub use socket::{Reach, TcpStream, UdpSocket};
pub use store::{Condition, Store, Value, Version};

use core::task::Waker;
use hv_abi::ring::SharedMemory;

/// What the services need of their surroundings: their ring, a lock, and how to wait.
pub trait Link {
    /// The ring's memory.
    type Memory: SharedMemory + Clone;

    /// A lock for what several virtual CPUs use.
    type Lock: lock_api::RawMutex + Send + Sync + 'static;

    /// Rings the doorbell once the tasks that can run have run.
    fn ring_soon(&self);

    /// Has this waker woken when the device raises its event next.
    fn register(&self, waker: &Waker);
}
