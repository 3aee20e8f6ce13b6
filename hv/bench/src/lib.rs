//! `hv bench`: what a paravirtual operation costs on this host, and what it is compared with.
//!
//! ```text
//!  runner ──── rounds of ────► operations of hv itself   floors, ring code, boot
//!    │                         operations of a guest     guest: the list, rigs, results
//!    ▼
//!  result  ──► table, report (HTML), compare, JSON
//!  stats · machine · noise: what results are made of
//! ```
//!
//! The guest of `hv bench` knows what it can measure: hv asks it for the list.
//! So an operation is one file, there or in [`operations`] (`docs/measuring.md`).
#![deny(unsafe_code)]

mod backing;
pub mod clones;
pub mod compare;
pub mod density;
pub mod emulated;
pub mod floor;
pub mod guest;
pub mod noise;
pub mod operation;
pub mod operations;
pub mod report;
pub mod result;
pub mod runner;
pub mod stats;
pub mod table;
