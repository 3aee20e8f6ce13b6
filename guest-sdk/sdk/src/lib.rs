//! The guest SDK of hv: Rust unikernels that boot straight into long mode.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! use hv_guest::prelude::*;
//!
//! #[hv_guest::entry]
//! fn main() {
//!     println!("hello, {}", env::args().nth(1).unwrap_or("world"));
//! }
//! ```
//!
//! A guest is a program of its own in a virtual machine of its own: there is
//! no kernel below it. It has one address space, one stack, a heap, and the
//! devices that the command line gave it. `docs/guests.md` starts from an
//! empty folder.
//!
//! # Features
//!
//! - `net`: TCP, UDP, DNS and DHCP, in the module `net`;
//! - `function`: requests answered without a network, in the module `function`;
//! - `http`: an HTTP/1.1 server, in the module `http`;
//! - `fs`: files on FAT and ext4, in the module `fs`, and served by `http` if that is on as well.
//!
//! # Unsafe code
//!
//! Modules marked ⚠ at their top hold all of it, each use with the reason why
//! it is sound: start, hypercalls, shared pages, rings, the heap, the executor
//! and the network's buffers.
#![deny(unsafe_code)]
#![no_std]

extern crate alloc;

pub mod block;
pub mod budget;
pub mod console;
pub mod env;
pub mod event;
pub mod executor;
#[cfg(feature = "fs")]
pub mod fs;
#[cfg(feature = "function")]
pub mod function;
mod generation;
#[cfg(feature = "http")]
pub mod http;
pub mod hypercall;
mod libc;
mod logger;
mod memory;
#[cfg(feature = "net")]
pub mod net;
mod panic;
pub mod random;
mod ring;
#[doc(hidden)]
pub mod rt;
pub mod time;
mod timer;

pub use embassy_futures;
#[cfg(feature = "net")]
pub use embassy_net;
pub use embassy_sync;
pub use embassy_time;
pub use embedded_io;
pub use embedded_io_async;
pub use event::shutdown;
pub use executor::{Spawner, block_on, spawn};
pub use generation::{generation, restored};
pub use hv_abi as abi;
pub use hv_guest_macros::entry;
pub use log;

/// What most guests want in scope.
pub mod prelude {
    pub use crate::{env, eprint, eprintln, print, println};
    pub use alloc::borrow::ToOwned;
    pub use alloc::boxed::Box;
    pub use alloc::format;
    pub use alloc::string::{String, ToString};
    pub use alloc::vec;
    pub use alloc::vec::Vec;
}

/// Bytes of memory that are the guest's to allocate, all told.
pub fn heap_size() -> usize {
    rt::start_info().heap_size as usize
}

/// Tells the host that the guest has finished starting and does its work
/// from now on: `hv run --stats` then says how long that took, and a snapshot
/// that waits for this is taken here. Clones of it return from this call.
pub fn ready() {
    hypercall::ready();
}

/// Ends the guest with this exit code. The host still writes what was printed.
pub fn exit(code: u8) -> ! {
    hypercall::exit(code)
}
