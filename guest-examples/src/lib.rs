//! What the larger examples are made of, apart from the machine they run on:
//! plain `no_std` code that a test or bench on the host can call as well.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod compute;
pub mod image;
pub mod kv;
pub mod statistics;
