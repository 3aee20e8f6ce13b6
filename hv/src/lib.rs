//! hv: a paravirtual hypervisor for Rust unikernels.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod background;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod cpu_clock;
pub mod crash;
pub mod device;
pub mod doctor;
pub mod domain;
#[doc(hidden)]
pub mod emulated;
pub mod engine;
pub mod escape;
pub mod event;
pub mod function;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod hypercall;
pub mod jail;
pub mod limits;
pub mod loader;
pub mod memory;
pub mod platform;
mod prompt;
mod rate_limit;
pub mod reactor;
pub mod sched;
pub mod serve;
pub mod snapshot;
pub mod units;

pub use domain::{Builder, Controller, Guest, Outcome, Restore, StartError, Stop};
pub use engine::Engine;
pub use escape::escape;
pub use loader::Image;
pub use platform::kvm::KvmPlatform;
pub use platform::process::ProcessPlatform;
pub use sched::Share;
pub use snapshot::Snapshot;
