//! The hypervisor: guests with their memory, virtual CPUs and devices, on KVM or in processes.
//!
//! `docs/architecture.md` tells what each module is for, and what it may import.
#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc)]

mod background;
mod budget;
pub mod crash;
pub mod device;
pub mod domain;
pub mod engine;
pub mod event;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod hypercall;
pub mod loader;
pub mod memory;
pub mod platform;
pub mod reactor;
pub mod sched;
pub mod snapshot;

pub use budget::BudgetError;
pub use domain::{Builder, Controller, Guest, Outcome, Restore, StartError, Stop};
pub use engine::Engine;
pub use loader::Image;
pub use platform::kvm::KvmPlatform;
pub use platform::process::ProcessPlatform;
pub use sched::Share;
pub use snapshot::Snapshot;
