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
//! A guest is a program in a virtual machine of its own, without a kernel. It has one address space, one stack for each
//! virtual CPU, a heap, and the devices from the command line. `docs/guests.md` starts from an empty folder.
//!
//! # Features
//!
//! - `net`: TCP, UDP, DNS and DHCP, in the module `net`;
//! - `function`: requests answered without a network, in the module `function`; what they reach, in `services`;
//! - `http`: an HTTP/1.1 server, in the module `http`;
//! - `fs`: files on FAT, ext4, in shares and in memory, in the module `fs`, and served by `http` if that is on as well.
//!
//! # Unsafe code
//!
//! Only the modules marked ⚠ in their first line contain unsafe code, each use with the reason why it is sound: start,
//! hypercalls, shared pages, rings, the heap, the executor and the network's buffers.
#![deny(unsafe_code)]
#![deny(missing_docs, clippy::missing_errors_doc)]
#![no_std]

extern crate alloc;

pub mod block;
pub mod budget;
mod clock;
pub mod console;
pub mod cpu;
mod cpu_set;
mod devices;
mod doorbell;
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
pub mod memory;
#[cfg(feature = "net")]
pub mod net;
mod panic;
#[doc(hidden)]
pub mod per_cpu;
pub mod random;
mod requests;
mod ring;
#[doc(hidden)]
pub mod rt;
#[cfg(feature = "function")]
pub mod services;
pub mod share;
mod shared_info;
mod start_info;
pub mod sync;
mod targets;
mod tasks;
mod termination;
pub mod time;
mod timer;

pub use devices::devices;
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
pub use hypercall::{exit, ready};
pub use log;
pub use start_info::{heap_size, start_info};
pub use termination::Termination;

/// What most guests import.
pub mod prelude {
    pub use crate::{env, eprint, eprintln, print, println};
    pub use alloc::borrow::ToOwned;
    pub use alloc::boxed::Box;
    pub use alloc::format;
    pub use alloc::string::{String, ToString};
    pub use alloc::vec;
    pub use alloc::vec::Vec;
}
