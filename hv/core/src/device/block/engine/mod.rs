//! Engines: asynchronous work on a disk.
//!
//! An engine has a fixed number of slots; a plan occupies one from [`DiskEngine::submit`] until its outcome
//! is fetched. What is in flight keeps guest memory alive, and an engine that is dropped waits for it, so the
//! kernel never writes to memory that was freed. A disk may never answer: a caller that must not wait
//! [closes](DiskEngine::close) the engine and keeps it until nothing is in flight.
//!
//! A file whose file system may block (network file systems, FUSE) gets its own threads. The kernel's threads
//! behind io_uring are few, and all rings of a thread share them: such a file would delay the other disks.

mod job;
mod on_image;
mod threads;
mod uring;

use super::disk::{self, Disk};
use super::request::Plan;
use super::spec::DiskSpec;
use crate::device::DeviceCounters;
use hv_abi::Errno;
use hv_disk::Format;
use hv_host::escape::escape;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Most requests in flight on one disk.
pub const MAX_IN_FLIGHT: u32 = 256;

/// The outcome of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token that came with the plan.
    pub token: u64,
    /// Whether all of it was done.
    pub result: Result<(), Errno>,
}

/// Carries out plans on one disk. The descriptor becomes readable when
/// outcomes wait; nothing blocks but `drop`.
pub trait DiskEngine: AsRawFd + Send {
    /// Number of plans that can be submitted now.
    fn room(&self) -> usize;

    /// Number of plans whose outcome has not been fetched.
    fn in_flight(&self) -> usize;

    /// Takes a plan. It may only start with the next [`kick`](Self::kick).
    /// Panics without room.
    fn submit(&mut self, plan: Plan, token: u64);

    /// Starts what was submitted. Returns false if the host cannot take all of
    /// it now: then it is to be called again, a little later.
    #[must_use = "what was not started has to be kicked again"]
    fn kick(&mut self) -> bool;

    /// Appends the outcomes that wait. May leave further steps to the next `kick`.
    fn complete(&mut self, done: &mut Vec<Completion>);

    /// Whether `complete` or `kick` has something to do; cheap.
    fn has_news(&mut self) -> bool;

    /// Takes note that the descriptor was readable.
    fn acknowledge(&mut self);

    /// Another descriptor that becomes readable in the same way.
    fn other_descriptor(&self) -> Option<RawFd> {
        None
    }

    /// Begins no further step: what is in flight ends with the step that it is at.
    fn close(&mut self);
}

/// Which engine to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring where the host's kernel allows it, threads elsewhere, or if
    /// the environment has `HV_NO_IO_URING=1`.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// A few threads that make blocking calls.
    Threads,
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The kernel has no io_uring, or a policy forbids it.
    #[error("the host's kernel refuses io_uring: {0}; unset the choice of engine to use threads")]
    Uring(#[source] io::Error),
    /// No more descriptors, usually.
    #[error("cannot make an event descriptor for a disk: {0}")]
    Event(#[source] io::Error),
    /// It has not answered the requests of guests that have ended.
    #[error(
        "disk {}: it does not answer: {unanswered} guests have ended and left requests to it; bring its storage back",
        escape(path)
    )]
    Unanswered {
        /// The disk's file.
        path: PathBuf,
        /// Guests that ended before their requests were answered.
        unanswered: usize,
    },
}

/// Most guests that may have left requests to a disk unanswered before no other may use it.
pub const MAX_UNANSWERED: usize = 16;

/// Most threads that work on one disk for one guest.
pub const MAX_THREADS: usize = threads::WORKERS;

/// An engine for the disk, with slots for `entries` plans (at most [`MAX_IN_FLIGHT`]). What its threads do is counted in `counters`.
///
/// # Errors
///
/// If too many requests to the disk are unanswered; if the host has no io_uring and `kind` asks for it, or has no descriptors or threads left.
pub fn open(
    disk: Arc<Disk>,
    entries: u32,
    kind: EngineKind,
    counters: &Arc<DeviceCounters>,
) -> Result<Box<dyn DiskEngine>, EngineError> {
    let unanswered = disk.unanswered().count();
    if unanswered >= MAX_UNANSWERED {
        return Err(EngineError::Unanswered { path: disk.path().to_owned(), unanswered });
    }
    let entries = entries.clamp(1, MAX_IN_FLIGHT);
    let kind = chosen(kind, disk.overlay().is_some(), || disk.may_block());
    if kind != EngineKind::Threads {
        match uring::Uring::new(disk.clone(), entries, counters) {
            Ok(engine) => return Ok(Box::new(engine)),
            Err(e) if kind == EngineKind::Uring => return Err(EngineError::Uring(e)),
            Err(e) => tracing::debug!("disk {}: no io_uring ({e}), using threads", escape(disk.path())),
        }
    }
    let engine = threads::Threads::new(disk, entries, counters.clone()).map_err(EngineError::Event)?;
    Ok(Box::new(engine))
}

/// The engine for a disk, as far as it does not depend on what the kernel refuses.
fn chosen(kind: EngineKind, has_overlay: bool, may_block: impl FnOnce() -> bool) -> EngineKind {
    match kind {
        EngineKind::Auto if std::env::var_os("HV_NO_IO_URING").is_some_and(|v| v == "1") => {
            EngineKind::Threads
        }
        // Each step goes to the disk or to its overlay, which only the threads decide.
        _ if has_overlay => EngineKind::Threads,
        EngineKind::Auto if may_block() => EngineKind::Threads,
        kind => kind,
    }
}

/// How many threads work on such a disk for each guest that has it. Opens the file, so it may wait for as long as
/// the disk's file system does.
pub fn threads_of(spec: &DiskSpec) -> usize {
    let on_file = || std::fs::File::open(&spec.path).is_ok_and(|file| disk::may_block(&file));
    // Beside io_uring, an image has threads for all that does not only move bytes.
    let is_image = match spec.format {
        Some(format) => format != Format::Raw,
        None => spec.path.extension().is_some_and(|extension| extension == "qcow2"),
    };
    match chosen(EngineKind::Auto, spec.overlay || is_image, on_file) {
        EngineKind::Threads => MAX_THREADS,
        _ if uring::is_possible() => 0,
        _ => MAX_THREADS,
    }
}
