//! The guests of `hv bench`: what they can measure, and how they are run.
#![forbid(unsafe_code)]

mod operation;
mod rig;
mod tail;
mod wire;

pub use wire::WireError;

use crate::files::Files;
use hv_core::device::net::BindError;
use hv_core::domain::{Builder, Guest, Outcome, StartError, Stop};
use hv_core::engine::Engine;
use hv_core::loader::{Image, ImageOpenError};
use hv_core::platform::Platform;
use operation::GuestOperation;
use rig::{Rig, Rigs};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use tail::Tail;

/// Memory of a bench guest: room for the largest buffers and a network.
const MEMORY: u64 = 32 << 20;

/// Longest that a guest may take for a round.
const LIMIT: Duration = Duration::from_secs(60);

/// Why a bench guest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageOpenError),
    /// It cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A device or server for it cannot be made.
    #[error("cannot make the {what} of the bench guest: {source}")]
    Rig {
        /// Which device or server.
        what: &'static str,
        /// What the host's kernel said.
        source: io::Error,
    },
    /// The disk for it cannot be opened.
    #[error(transparent)]
    Disk(#[from] hv_core::device::block::DiskError),
    /// The share for it cannot be opened.
    #[error(transparent)]
    Share(#[from] hv_core::device::share::FolderError),
    /// The network for it cannot be made.
    #[error(transparent)]
    Network(#[from] BindError),
    /// It ended in another way than by itself with success.
    #[error("the bench guest {0}")]
    Ended(String),
    /// What it printed is no list and no result.
    #[error("what the bench guest printed for {what}: {source}; build it anew from guest-sdk/bench/")]
    Wire {
        /// What it was asked for.
        what: String,
        /// What is wrong with it.
        source: WireError,
    },
}

/// The images of the bench guests, the engine that runs them, and what they are given.
pub struct Guests {
    engine: Engine,
    /// With a thread for each virtual CPU of a guest that has two.
    threads: Option<Engine>,
    bench: Arc<Image>,
    null: Arc<Image>,
    rigs: Rigs,
}

/// How a guest finds its console, disk and network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It looks them up in start-info.
    Look,
    /// It initialises virtio devices whose places it knows.
    Virtio,
    /// It probes a UART, an ATA disk and virtio devices, as on a PC.
    Probe,
}

/// What a guest did from its start to its end.
struct Run {
    guest: Guest,
    output: String,
}

impl Guests {
    /// Validates the images, and makes an engine on this platform and everything that bench guests can ask for.
    ///
    /// # Errors
    ///
    /// With images that are none, and when the host refuses a disk or a socket.
    pub fn new(bench: &Path, null: &Path, platform: Box<dyn Platform>) -> Result<Guests, GuestError> {
        let failed = |what| move |source| GuestError::Rig { what, source };
        Ok(Guests {
            engine: Engine::new(platform, 0).map_err(failed("engine"))?,
            threads: None,
            bench: Arc::new(Image::open(bench)?),
            null: Arc::new(Image::open(null)?),
            rigs: Rigs::new()?,
        })
    }

    /// The same, with another engine on this platform for guests with two virtual CPUs.
    ///
    /// # Errors
    ///
    /// When the host refuses threads.
    pub fn with_threads(mut self, platform: Box<dyn Platform>) -> Result<Guests, GuestError> {
        let engine = Engine::new(platform, 2);
        self.threads =
            Some(engine.map_err(|source| GuestError::Rig { what: "engine with threads", source })?);
        Ok(self)
    }

    /// What the bench guest can measure, as it says itself.
    ///
    /// # Errors
    ///
    /// When it does not run, or says nothing that makes sense.
    pub fn operations(self: &Rc<Self>) -> Result<Vec<GuestOperation>, GuestError> {
        let run = self.run(&["list"], Rig::Plain)?;
        let listed = wire::operations(&run.output)
            .map_err(|source| GuestError::Wire { what: "its list".into(), source })?;
        let here = listed.into_iter().filter(|(spec, rig)| {
            let has = self.rigs.has(*rig);
            if !has {
                tracing::warn!(
                    "not measured: {}: the folder for temporary files does not have it",
                    spec.name
                );
            }
            has
        });
        Ok(here.map(|(spec, rig)| GuestOperation::new(self.clone(), spec, rig)).collect())
    }

    /// The folder that operations on files work in.
    pub(super) fn files(&self) -> &Rc<Files> {
        &self.rigs.files
    }

    /// Starts a guest that ends at once, and waits for that.
    ///
    /// # Errors
    ///
    /// When it cannot be started or crashes.
    pub fn start_null(&self) -> Result<Guest, GuestError> {
        let guest = Builder::new(self.null.clone()).spawn(&self.engine)?;
        finished(&guest, guest.wait(), "")?;
        Ok(guest)
    }

    /// Starts a guest with so many virtual CPUs, which ends at once without having started the others, and waits for that.
    ///
    /// # Errors
    ///
    /// When it cannot be started or crashes.
    pub fn start_with(&self, vcpus: usize) -> Result<Guest, GuestError> {
        let guest = Builder::new(self.null.clone()).vcpus(vcpus).spawn(&self.engine)?;
        finished(&guest, guest.wait(), "")?;
        Ok(guest)
    }

    /// Starts a guest that finds a console, a disk and a network, and waits for
    /// its end: in start-info, or by probing emulated hardware.
    ///
    /// # Errors
    ///
    /// When it cannot be started or finds nothing.
    pub fn start_and_find(&self, way: Way) -> Result<Guest, GuestError> {
        let (word, rig) = match way {
            Way::Look => ("look", Rig::All),
            Way::Virtio => ("probe-virtio", Rig::AllVirtio),
            Way::Probe => ("probe", Rig::AllEmulated),
        };
        Ok(self.run(&[word], rig)?.guest)
    }

    /// Runs the bench guest to its end. What it printed last is the output.
    fn run(&self, arguments: &[&str], rig: Rig) -> Result<Run, GuestError> {
        let engine = match rig {
            Rig::Vcpus => self.threads.as_ref().unwrap_or(&self.engine),
            _ => &self.engine,
        };
        let tail = Tail::default();
        let mut builder = Builder::new(self.bench.clone()).name("bench").memory(MEMORY).output(tail.clone());
        for argument in arguments {
            builder = builder.argument(argument);
        }
        let guest = self.rigs.fit(builder, rig, &tail)?.spawn(engine)?;
        let (done, over) = channel::<()>();
        let controller = guest.controller();
        let watch = std::thread::spawn(move || {
            if over.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                controller.stop(Stop::Timeout);
            }
        });
        let outcome = guest.wait();
        drop(done);
        // It does nothing that panics.
        let _ = watch.join();
        let output = tail.text();
        finished(&guest, outcome, &output)?;
        Ok(Run { guest, output })
    }
}

/// Whether a guest ended as it should.
fn finished(_: &Guest, outcome: Outcome, output: &str) -> Result<(), GuestError> {
    Err(GuestError::Ended(match outcome {
        Outcome::Exited(0) => return Ok(()),
        Outcome::Exited(code) => match wire::error(output) {
            Some(reason) => format!("failed: {reason}"),
            None => format!("exited with {code}"),
        },
        Outcome::Crashed(report) => format!("crashed: {}", report.reason),
        Outcome::Stopped(Stop::Timeout) => format!("took longer than {} s", LIMIT.as_secs()),
        Outcome::Stopped(_) => "was stopped".into(),
    }))
}
