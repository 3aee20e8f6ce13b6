//! hv: a paravirtual hypervisor for Rust unikernels.
#![warn(missing_docs)]

pub mod device;
pub mod event;
pub mod loader;
pub mod memory;
pub mod reactor;
