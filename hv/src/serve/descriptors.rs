//! How many guests the limit of file descriptors allows.
#![forbid(unsafe_code)]

use super::config::{Config, ConfigError, DEFAULT_GUESTS, Problem, Source};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the process itself: standard streams, KVM, epolls, logs, images and disks being opened.
const OWN: u64 = 64;

/// Descriptors of one guest: its virtual CPU, and doorbells of its console and its function device.
const GUEST: u64 = 4;

/// Descriptors of a guest's disk: its doorbell and its file.
const DISK: u64 = 2;

/// How many virtual machines there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Live guests at a time.
    pub(super) guests: usize,
    /// Warm shells of one function, at most.
    pub(super) shells: usize,
}

/// Raises the soft limit as far as it goes, and returns it.
pub(super) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}

/// Plans what `limit` descriptors are for.
pub(super) fn plan(config: &Config, limit: u64) -> Result<Plan, ConfigError> {
    let disks = config.functions.iter().map(|function| match &function.deployment.source {
        Source::Image { disks, .. } => disks.len() as u64,
        Source::Snapshot(_) => 0,
    });
    let guest = GUEST + DISK * disks.max().unwrap_or(0);
    let fixed = OWN + config.connections as u64;
    let machines = limit.saturating_sub(fixed) / guest;
    let guests = config.guests.unwrap_or_else(|| DEFAULT_GUESTS.min(machines as usize).max(1));
    if guests as u64 > machines {
        let problem = Problem::Descriptors { guests, needed: fixed + guest * guests as u64, limit };
        return Err(ConfigError { place: config.guests_place.clone(), problem });
    }
    let rest = machines as usize - guests;
    Ok(Plan { guests, shells: rest / config.functions.len().max(1) })
}
