//! Clones to measure: a function's guest, saved when it was ready, and its first answers.
#![forbid(unsafe_code)]

use hv_core::device::function::{Answer, FunctionDevice};
use hv_core::domain::{Builder, Guest, Hook, Outcome, Restore, StartError};
use hv_core::engine::Engine;
use hv_core::loader::{Image, ImageOpenError};
use hv_core::platform::{Platform, PlatformError};
use hv_core::snapshot::Snapshot;
use hv_function as function;
use hv_function::{DeployError, Failure};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest that a guest may take to be ready, or to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// The request that is sent.
const HEAD: &[u8] = b"GET /?name=bench HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";

/// Why clones cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// No platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// No thread for the engine.
    #[error("cannot start a thread: {0}")]
    Engine(io::Error),
    /// No image.
    #[error(transparent)]
    Image(#[from] ImageOpenError),
    /// The guest did not become ready.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// A clone could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No random numbers for one.
    #[error("cannot read random numbers: {0}")]
    Random(io::Error),
    /// A clone did not answer.
    #[error("a clone did not answer{0}")]
    NoAnswer(String),
    /// A clone could not be used again.
    #[error("a clone could not be used again: {0}")]
    Reset(String),
}

/// A snapshot of a function's guest, and what its clones run on.
pub struct Clones {
    pub(super) engine: Engine,
    snapshot: Arc<Snapshot>,
}

/// One of them.
pub struct CloneGuest {
    guest: Guest,
    device: Arc<FunctionDevice>,
}

impl Clones {
    /// Boots the guest of this image (`fn-hello`) until it is ready. With no
    /// workers, clones run on the thread that waits for their answers.
    ///
    /// # Errors
    ///
    /// When the host or the guest fails.
    pub fn new(image: &Path, platform: Box<dyn Platform>, workers: usize) -> Result<Clones, CloneError> {
        let engine = Engine::new(platform, workers).map_err(CloneError::Engine)?;
        let guest = Builder::new(Image::open(image)?).name("clone");
        let snapshot = Arc::new(function::boot(&engine, guest, LIMIT)?);
        let clones = Clones { engine, snapshot };
        // The first one shows which pages the others will write.
        let first = clones.start()?;
        first.ask()?;
        clones.snapshot.learn(&first.guest);
        Ok(clones)
    }

    /// Bytes that all clones share.
    pub fn shared(&self) -> u64 {
        self.snapshot.template().resident()
    }

    /// Makes empty virtual machines beforehand; returns how many there are.
    pub fn reserve(&self, machines: usize) -> usize {
        self.engine.reserve(machines)
    }

    /// Has a machine ready for the next clone.
    ///
    /// # Errors
    ///
    /// When the host refuses it.
    pub fn prepare(&self) -> Result<(), CloneError> {
        Ok(self.engine.prepare_machine()?)
    }

    /// A clone that waits for its first request.
    ///
    /// # Errors
    ///
    /// When the host refuses it.
    pub fn start(&self) -> Result<CloneGuest, CloneError> {
        let device = FunctionDevice::new();
        let guest = Restore::new(self.snapshot.clone())
            .function(device.clone())
            .hook(Arc::new(OneAnswer))
            .spawn(&self.engine)?;
        Ok(CloneGuest { guest, device })
    }
}

impl CloneGuest {
    /// Sends it a request, and waits until it has answered: then it is held.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn ask(&self) -> Result<(), CloneError> {
        let complete = Arc::new(AtomicBool::new(false));
        self.guest.set_running();
        self.device.begin(HEAD, Box::new(Complete(complete.clone())));
        self.guest.wake();
        self.guest.wait_paused(LIMIT);
        drop(self.device.take());
        if complete.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(CloneError::NoAnswer(match self.guest.outcome() {
            Some(Outcome::Crashed(report)) => format!(": it crashed: {}", report.reason),
            _ => String::new(),
        }))
    }

    /// Takes it back to the snapshot and makes it another clone: what a pooled instance does between two requests.
    ///
    /// # Errors
    ///
    /// When the host refuses it.
    pub fn assign_identity(&self) -> Result<(), CloneError> {
        self.guest.reset().map_err(|error| CloneError::Reset(error.to_string()))?;
        self.guest.assign_identity().map_err(CloneError::Random)
    }

    /// How often it left to hv.
    pub fn exits(&self) -> Vec<(&'static str, u64)> {
        self.guest.counters()
    }

    /// Bytes of its private memory, in this process.
    pub fn private(&self) -> u64 {
        self.guest.resident_memory()
    }
}

/// Has a guest held after each answer.
struct OneAnswer;

impl Hook for OneAnswer {
    fn pauses_when_done(&self) -> bool {
        true
    }

    fn done(&self) {}

    fn ended(&self, _: &Outcome) {}
}

/// Notes that an answer is complete.
struct Complete(Arc<AtomicBool>);

impl Answer for Complete {
    fn head(&mut self, head: &[u8]) -> Result<(), String> {
        match head.starts_with(b"HTTP/1.1 200") {
            true => Ok(()),
            false => Err("the answer is no success".into()),
        }
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn end(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn failed(&mut self, _: Failure) {}

    fn writable(&mut self) {}
}
