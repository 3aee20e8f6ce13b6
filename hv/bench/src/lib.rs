//! `hv bench`: what a paravirtual operation costs on this host, and what it is compared with.
//!
//! ```text
//!  runner ──── rounds of ────► operations of hv itself   floors, ring code, boot
//!    │                         operations of a guest     guest: the list, rigs, results
//!    ▼
//!  result  ──► table, report (HTML), compare, JSON
//!  plan · assemble · noise · timer: what belongs together, what comes out, how quiet it was, what reading clocks takes
//! ```
//!
//! The guest of `hv bench` knows what it can measure: hv asks it for the list.
//! So an operation is one file, there or in [`operations`] (`docs/measuring.md`).
#![deny(unsafe_code)]

extern crate alloc;

mod assemble;
mod backing;
pub mod clones;
pub mod compare;
pub mod density;
pub mod emulated;
mod files;
pub mod floor;
pub mod guest;
pub mod noise;
pub mod operation;
pub mod operations;
pub mod peers;
pub mod plan;
mod program;
pub mod report;
pub mod result;
pub mod runner;
pub mod table;
pub mod timer;
