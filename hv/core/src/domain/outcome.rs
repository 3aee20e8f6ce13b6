//! How a guest ended, and what it did on the way.

use crate::crash::CrashReport;
use crate::platform::Space;
use hv_abi::Hypercall;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How a guest ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited(u8),
    /// By a fault of its own.
    Crashed(Box<CrashReport>),
    /// By an order from outside.
    Stopped(Stop),
}

/// Why a guest was stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Its time limit was reached.
    Timeout,
    /// The user or the system asked for it.
    Interrupted,
    /// The reader of its console closed it.
    OutputClosed,
    /// The destination of its console output takes no more, for this reason: `ENOSPC`, `EDQUOT` or `EFBIG`.
    OutputFailed(i32),
    /// All guests together used more memory than the engine's [budget](crate::Engine::set_memory_budget), and this one was furthest beyond
    /// what it was promised.
    MemoryBudget,
    /// Its owner dropped it.
    Dropped,
}

/// Number of exits to hv, by reason.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Counters {
    hypercalls: [AtomicU64; Hypercall::ALL.len()],
    unknown: AtomicU64,
    doorbells: AtomicU64,
    unbound: AtomicU64,
    interruptions: AtomicU64,
    ports: AtomicU64,
    mmio: AtomicU64,
}

impl Counters {
    pub(crate) fn hypercall(&self, number: u32) {
        let counter = self.hypercalls.get(number as usize).unwrap_or(&self.unknown);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn doorbell(&self) {
        self.doorbells.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unbound_doorbell(&self) {
        self.unbound.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn interruption(&self) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
    }

    /// An access to emulated hardware.
    pub(crate) fn access(&self, space: Space) {
        let counter = match space {
            Space::Port => &self.ports,
            Space::Memory => &self.mmio,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Name and number of every kind of exit that happened.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let calls = Hypercall::ALL.iter().map(|call| call.name()).zip(&self.hypercalls);
        let others = [
            ("unknown_hypercall", &self.unknown),
            ("doorbell", &self.doorbells),
            ("unbound_doorbell", &self.unbound),
            ("interruption", &self.interruptions),
            ("port", &self.ports),
            ("mmio", &self.mmio),
        ];
        calls
            .chain(others)
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .filter(|&(_, count)| count != 0)
            .collect()
    }
}

/// Durations of the steps of a start.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BootPhases {
    /// Mapping memory, loading and relocating the image, preparing devices.
    pub load: Duration,
    /// Making the virtual machine.
    pub platform: Duration,
    /// From the first entry into the guest to its first hypercall.
    pub first_hypercall: Option<Duration>,
    /// From the first entry into the guest to the hypercall that says that it is ready.
    pub ready: Option<Duration>,
    /// From the first entry into the guest to its end.
    pub run: Option<Duration>,
}
