//! What becomes of a request, and when.

use super::RequestUsage;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A request in an instance. What has not happened yet is not known.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    ended: OnceLock<Instant>,
    reset: OnceLock<Instant>,
    usage: OnceLock<RequestUsage>,
}

impl Progress {
    pub(super) fn new(began: Instant) -> Arc<Self> {
        let (ended, reset, usage) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Arc::new(Progress { began, ended, reset, usage })
    }

    /// The guest was given it.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The guest has answered it completely, or has ended.
    pub fn ended(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    /// The machine was as before again. Never, if it was not used again, or is kept as it is.
    pub fn reset(&self) -> Option<Instant> {
        self.reset.get().copied()
    }

    /// What the guest has used for it, once it has ended.
    pub(super) fn usage(&self) -> Option<RequestUsage> {
        self.usage.get().copied()
    }

    /// It is over. What was said first stays.
    pub(super) fn end(&self, usage: RequestUsage) {
        let _ = self.usage.set(usage);
        let _ = self.ended.set(Instant::now());
    }

    pub(super) fn note_reset(&self) {
        let _ = self.reset.set(Instant::now());
    }
}

/// The number of the request that an instance answers, or has answered last, as [`call_as`](super::Function::call_as) gave it.
/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct CurrentRequest(Arc<AtomicU64>);

impl CurrentRequest {
    /// The number; 0: none, or one without a number.
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, number: u64) {
        self.0.store(number, Ordering::Release);
    }
}
