//! How many guests the limit of file descriptors allows.
#![forbid(unsafe_code)]

use super::config::{Config, ConfigError, DEFAULT_GUESTS, FunctionConfig, Problem};
use hv_services::{BlobPlace, CONNECTIONS, S3_CONNECTIONS, StorePlace};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeSet;

/// Descriptors of the process itself: standard streams, KVM, epolls, logs, images and disks being opened, a collector, files of the admin API.
const OWN: u64 = 72;

/// What one machine takes of the descriptors.
struct DescriptorUse {
    /// The machine: a virtual CPU, or a process and its memory; and two for the doorbell of its console, once
    /// its guest prints much.
    machine: u64,
    /// More, if it has disks: the virtual machine, which doorbells are bound to, or the process's end of that one.
    with_disks: u64,
    /// Each disk: both ends of its doorbell (and the process's), its engine, and the file of its overlay.
    disk: u64,
}

/// The values of the platform that takes more in each respect: a process. The platform need not be known
/// to say whether a configuration fits.
const MACHINE_USE: DescriptorUse = DescriptorUse { machine: 4, with_disks: 1, disk: 5 };

/// Descriptors of a function beside its machines: the memory of its snapshot, and each disk's file.
const FUNCTION: u64 = 1;

/// What a function takes, with so many machines.
fn of_function(machines: u64, disks: u64) -> u64 {
    let each = match disks {
        0 => MACHINE_USE.machine,
        _ => MACHINE_USE.machine + MACHINE_USE.with_disks + MACHINE_USE.disk * disks,
    };
    machines.saturating_mul(each).saturating_add(FUNCTION + disks)
}

/// How many virtual machines there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DescriptorPlan {
    /// Requests in guests at a time.
    pub(super) guests: usize,
    /// Machines of a function beyond one for each of its requests: those that
    /// the engine's threads are just resetting.
    pub(super) spare: usize,
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

/// Connections to the services that functions share.
fn of_services(config: &Config) -> u64 {
    let all = || config.functions.iter().map(|function| &function.deployment.services);
    let stores: BTreeSet<_> = all()
        .flat_map(|services| &services.stores)
        .filter(|store| matches!(store.place, StorePlace::Redis(_)))
        .map(|store| &store.name)
        .collect();
    let blobs: BTreeSet<_> = all()
        .flat_map(|services| &services.blobs)
        .filter(|blob| matches!(blob.place, BlobPlace::S3(_)))
        .map(|blob| &blob.name)
        .collect();
    (stores.len() + S3_CONNECTIONS * blobs.len()) as u64
}

/// Plans what `limit` descriptors are for, with `threads` that run guests.
pub(super) fn plan(config: &Config, limit: u64, threads: usize) -> Result<DescriptorPlan, ConfigError> {
    let spare = 2 * threads;
    let concurrency = config.functions.iter().map(FunctionConfig::concurrency);
    let machines: usize = config.functions.iter().map(|function| function.machines(spare)).sum();
    let functions = config.functions.iter().map(|function| {
        let deployment = &function.deployment;
        let machines = function.machines(spare) as u64;
        let connections = if deployment.services.net.rules.is_empty() { 0 } else { CONNECTIONS as u64 };
        of_function(machines, deployment.source.disks().len() as u64).saturating_add(connections)
    });
    let needed = functions.fold(OWN + config.connections as u64, u64::saturating_add);
    let needed = needed.saturating_add(of_services(config));
    if needed > limit {
        let problem = Problem::Descriptors { machines, connections: config.connections, needed, limit };
        return Err(ConfigError { location: config.location.clone(), problem });
    }
    // A function's own limit may not be beyond the server's.
    let guests = config.guests.unwrap_or_else(|| concurrency.max().unwrap_or(0).max(DEFAULT_GUESTS));
    Ok(DescriptorPlan { guests, spare })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::of_arguments;

    #[test]
    fn what_does_not_fit_is_refused() {
        let image = std::env::current_exe().expect("a test is a file");
        let functions = ["/a=x", "/b=x"].map(str::to_owned);
        let config = of_arguments(&functions, &|_| Ok(image.clone())).unwrap();
        let needed = OWN + 1024 + 2 * of_function(64 + 4, 0);
        assert_eq!(of_function(10, 0), 10 * 4 + 1);
        assert_eq!(of_function(10, 2), 10 * (4 + 1 + 2 * 5) + 3);
        assert_eq!(plan(&config, needed, 2).unwrap(), DescriptorPlan { guests: 1024, spare: 4 });
        let error = plan(&config, needed - 1, 2).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{needed} file descriptors")) && error.contains("ulimit -n"),
            "{error}"
        );
    }
}
