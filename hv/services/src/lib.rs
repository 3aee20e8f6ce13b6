//! What functions reach without a network: stores, blobs, secrets and connections.
//!
//! A guest's calls come from its services device ([`hv_core::device::services`]) and are carried out here:
//!
//! ```text
//!  guest's thread ── begin ──► hv-services ──► files of folders: threads of their own
//!                              one thread,  ──► sockets: Redis, TCP, UDP, DNS
//!                              a task a call
//! ```
//!
//! A function sees what its [`Spec`] names, and nothing else. A task ends as soon as its guest closes the call, has answered the
//! request that it was for, or has ended.
#![forbid(unsafe_code)]

mod binding;
mod blob;
mod figures;
mod files;
mod folder;
mod function;
mod list;
mod names;
mod net;
mod rate;
mod redis_store;
mod refusal;
mod spec;
mod store;

pub use figures::{Figure, Figures};
pub use folder::FolderError;
pub use function::FunctionServices;
pub use names::Names;
pub use net::{CONNECTIONS, NetLimits, NetSpec, Protocol, Rule, RuleError};
pub use spec::{BlobPlace, BlobSpec, Limits, RedisSpec, SecretBytes, Spec, StorePlace, StoreSpec};

use binding::Bindings;
use files::Files;
use hv_jail as jail;
use hv_jail::Kind;
use std::future::pending;
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle};

/// Carries out the calls of all functions of a server.
pub struct Services {
    runtime: Handle,
    bindings: Bindings,
}

impl Services {
    /// Starts the threads, which live as long as the process.
    ///
    /// # Errors
    ///
    /// If the host makes no thread or no descriptor for it.
    pub fn start(names: Names) -> io::Result<Services> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        jail::spawn(Kind::Services, "hv-services", move || runtime.block_on(pending::<()>()))?;
        Ok(Services { runtime: handle, bindings: Bindings::new(Files::start()?, names) })
    }

    /// The services of a function with this specification.
    ///
    /// # Errors
    ///
    /// If a folder cannot be used.
    pub fn provide(&self, spec: &Spec) -> Result<Arc<FunctionServices>, FolderError> {
        FunctionServices::new(self.runtime.clone(), &self.bindings, spec)
    }
}
