//! A small HTTP/1.1 server over any asynchronous socket: requests in,
//! responses out, connections kept.
//!
//! This is the part of the guest SDK's server that knows nothing of guests:
//! `hv_guest::http` puts it on the network and on the disk. It runs anywhere
//! else as well, which is how it is tested and what it is measured against.
//!
//! Requests are parsed by `httparse`. The rest is written here rather than
//! taken from a framework for the sake of one thing: all answers to what has
//! arrived, heads and bodies, leave in one write, so that a small request
//! costs one frame each way, and pipelined requests cost less than that.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs, clippy::missing_errors_doc)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod connection;
mod files;
mod memory;
mod request;
mod response;
#[cfg(test)]
mod testing;

pub use connection::{Error, connection};
pub use files::{Entry, File, Files, Root};
pub use memory::{Memory, Share, Unlimited};
pub use request::{Request, decode};
pub use response::{Body, Response, Source, reason};
