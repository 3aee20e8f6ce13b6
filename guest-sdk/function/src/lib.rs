//! Functions: requests in, answers out, over the ring of a function device.
//!
//! This is the part of the guest SDK's functions that knows nothing of guests:
//! `hv_guest::function` puts it on the device. It runs against any [`Link`],
//! which is how it is tested.
//!
//! # What a short request costs
//!
//! A function is mostly run in a fresh clone of a snapshot, where the first
//! write to each page is dear, and more expensive than some hundred instructions. So an answer is written
//! straight into the ring, piece by piece, and shown to the host once, with one
//! doorbell; nothing is buffered, formatted or allocated on the way that the
//! handler did not ask for, and header fields are looked up in the head itself
//! instead of in a table.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::missing_errors_doc)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod error;
mod head;
mod input;
mod output;
mod request;
mod response;
mod serve;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod websocket;

pub use error::{Error, ServeError};
pub use request::{Body, Request, Stream, Writer};
pub use response::{Content, IntoResponse, Response};
pub use serve::serve;
pub use websocket::{CloseCode, Message, WebSocket};

use core::task::Waker;
use hv_abi::ring::SharedMemory;

/// What a function needs of its surroundings: its ring, and how to wait for it.
pub trait Link {
    /// The ring's memory.
    type Memory: SharedMemory + Clone;

    /// Whether the host takes fields behind the body of an answer.
    fn has_trailers(&self) -> bool;

    /// Rings the doorbell of the device.
    fn ring(&self);

    /// Rings the doorbell once the tasks that can run have run.
    fn ring_soon(&self);

    /// Rings the doorbell when nothing is left to do but to wait: the same call can do both.
    fn ring_last(&self) {
        self.ring();
    }

    /// Rings now what was to ring soon.
    fn flush(&self);

    /// Has this waker woken when the device raises its event next.
    fn register(&self, waker: &Waker);

    /// Called once, before the first request is looked for: everything is in place.
    fn ready(&self);

    /// Ends when the function is to end. Dropped and made again while it waits.
    fn shutdown(&self) -> impl Future<Output = ()>;
}
