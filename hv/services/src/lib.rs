//! What functions reach without a network: stores, blobs, secrets and connections.
//!
//! A guest's calls come from its services device ([`hv_core::device::services`]) and are carried out here:
//!
//! ```text
//!  guest's thread ── begin ──► hv-services ──► files of folders: threads of their own
//!                              one thread,  ──► sockets: Redis, S3, TCP, UDP, DNS
//!                              a task a call
//! ```
//!
//! A function sees what its [`Spec`] names, and nothing else. A task ends as soon as its guest closes the call, has answered the
//! request that it was for, or has ended.
#![forbid(unsafe_code)]

mod binding;
mod blob;
mod dial;
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
mod s3;
mod spec;
mod store;
mod tenant;
mod tls;

pub use dial::{Dialer, Stream};
pub use figures::{Figure, Figures};
pub use folder::FolderError;
pub use function::FunctionServices;
pub use names::Names;
pub use net::{CONNECTIONS, NetLimits, NetSpec, Protocol, Rule, RuleError};
pub use s3::S3_CONNECTIONS;
pub use spec::{
    Addressing, BlobPlace, BlobSpec, Limits, RedisSpec, S3Problem, S3Spec, SecretBytes, Spec, StorePlace,
    StoreSpec, TenantSpec,
};
pub use tls::{ClientCertificate, TlsError, TlsSpec};

use binding::{Bindings, OpenError};
use files::Files;
use hv_jail as jail;
use hv_jail::Kind;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::runtime::{Builder, Runtime};

/// Carries out the calls of all functions of a server.
pub struct Services {
    /// Lives as long as the process, since its thread does.
    runtime: &'static Runtime,
    files: Files,
    bindings: Bindings,
    /// The threads run.
    started: Mutex<bool>,
}

/// Why a function has no services.
#[derive(Debug, thiserror::Error)]
pub enum ProvideError {
    /// The host makes no thread for them.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// TLS to a service cannot be used as specified.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<OpenError> for ProvideError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Folder(error) => error.into(),
            OpenError::Tls(error) => error.into(),
        }
    }
}

impl Services {
    /// Opens what a thread in its jail could not open. There are no threads before the first function that has services.
    ///
    /// # Errors
    ///
    /// If the host makes no descriptor for it.
    pub fn new(names: Names) -> io::Result<Services> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let files = Files::new();
        let bindings = Bindings::new(files.clone(), names);
        Ok(Services { runtime: Box::leak(Box::new(runtime)), files, bindings, started: Mutex::new(false) })
    }

    /// The services of a function with this specification.
    ///
    /// # Errors
    ///
    /// If a folder or TLS cannot be used, or the host makes no thread.
    pub fn provide(&self, spec: &Spec) -> Result<Arc<FunctionServices>, ProvideError> {
        self.start().map_err(ProvideError::Thread)?;
        Ok(FunctionServices::new(self.runtime.handle().clone(), &self.bindings, spec)?)
    }

    /// Starts the threads, if they do not run yet.
    fn start(&self) -> io::Result<()> {
        let started = &mut *self.started.lock().expect("no panic while held");
        if !*started {
            self.files.start()?;
            let runtime = self.runtime;
            jail::spawn(Kind::Services, "hv-services", move || runtime.block_on(pending::<()>()))?;
            *started = true;
        }
        Ok(())
    }
}
