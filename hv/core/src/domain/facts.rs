//! What can be told of a guest while it runs.

use super::power::Power;
use super::{Controller, Domain, State, Targets};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What is known of a guest. All of it is the host's own knowledge: a guest cannot say something else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// Name of the guest's image.
    pub name: String,
    /// What it does.
    pub state: State,
    /// How many virtual CPUs it has.
    pub vcpus: usize,
    /// How many of them the guest has started and not stopped, whether they execute or wait.
    pub vcpus_running: usize,
    /// Bytes of its memory.
    pub memory: u64,
    /// How much of that it should use.
    pub targets: Targets,
    /// All CPU time that was used for it: see [`Usage::cpu_time`](super::Usage::cpu_time).
    pub cpu_time: Duration,
}

/// How many bytes of the memory are looked at in one step.
const STEP: u64 = 16 << 20;

/// Counts the [resident memory](super::Guest::resident_memory) of a guest in steps.
#[derive(Debug)]
pub struct ResidentCount {
    domain: Weak<Domain>,
    left: Range<u64>,
    bytes: u64,
}

impl ResidentCount {
    /// Looks at a bounded part of the memory. Returns the number of bytes when all of it has been looked at.
    pub fn step(&mut self) -> Option<u64> {
        let Some(domain) = self.domain.upgrade() else { return Some(self.bytes) };
        let end = self.left.end.min(self.left.start + STEP);
        self.bytes += domain.memory.resident_within(self.left.start..end);
        self.left.start = end;
        self.left.is_empty().then_some(self.bytes)
    }
}

impl Domain {
    fn facts(&self) -> Facts {
        let runs = |power: &Power| *power != Power::Stopped;
        Facts {
            name: self.name.clone(),
            state: self.life.state(),
            vcpus: self.vcpus.len(),
            vcpus_running: self.vcpus.iter().filter(|vcpu| runs(&vcpu.power())).count(),
            memory: self.memory.size(),
            targets: self.targets(),
            cpu_time: self.cpu_time(),
        }
    }
}

impl Controller {
    /// What is known of the guest now. `None` if there is no guest any more.
    pub fn facts(&self) -> Option<Facts> {
        self.domain.upgrade().map(|domain| domain.facts())
    }

    /// Begins to count its resident memory. `None` if there is no guest any more.
    pub fn count_resident(&self) -> Option<ResidentCount> {
        let domain = self.domain.upgrade()?;
        Some(ResidentCount { domain: Arc::downgrade(&domain), left: 0..domain.memory.size(), bytes: 0 })
    }
}
