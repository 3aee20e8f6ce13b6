//! What runs inside the guests of `hv bench`: operations, and how they are timed.
//!
//! The guest knows what it can measure. Without arguments but `list` it prints
//! its [operations](operation::Operation); hv reads the list, gives each the
//! devices that it asks for, and starts a guest for each round of each. How to
//! add an operation: `docs/measuring.md`.
#![deny(unsafe_code)]
#![no_std]

extern crate alloc;

pub mod discovery;
pub mod hardware;
pub mod histogram;
pub mod meter;
pub mod operation;
pub mod operations;
pub mod walk;
