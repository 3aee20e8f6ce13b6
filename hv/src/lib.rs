//! hv: a paravirtual hypervisor for Rust unikernels.
//!
//! This is what a program needs that runs guests itself. The parts of the `hv` command are crates of their own, which the feature
//! `command` brings; without it, nothing is compiled but the hypervisor.
#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc)]

pub use hv_core::{
    BudgetError, Builder, Controller, Engine, Guest, Image, KvmPlatform, Outcome, ProcessPlatform, Restore,
    Share, Snapshot, StartError, Stop,
};
pub use hv_core::{crash, device, domain, engine, event, loader, memory, platform, reactor, sched, snapshot};
pub use hv_host::escape;
pub use hv_jail as jail;
