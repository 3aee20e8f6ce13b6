//! How many guests the limit of processes allows. Threads count in it as processes do.
#![forbid(unsafe_code)]

use super::config::{Config, ConfigError, Problem};
use super::time_limit::within;
use hv_core::device::block::{DiskSpec, engine};
use hv_host::limits::group::PIDS;
use rustix::process::{Resource, getrlimit, getuid};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// Those of the server beside its machines: the thread that speaks HTTP, log, reports, I/O, ticker, maker, one that
/// deploys and one that ends functions, five for what functions reach, one that tells a collector, three that write the files of the admin API, workers of the kernel behind io_uring, a machine that is made
/// beforehand; and the three that processes of guests come from.
const OWN: u64 = 29;

/// Those of each machine: a thread of the kernel on KVM, or the process.
const MACHINE: u64 = 1;

/// Those of a function beside its machines: its pool manager.
const FUNCTION: u64 = 1;

/// How long a file system may take to say whether it can be asked without waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// A limit of processes and threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    most: u64,
    /// What sets it.
    name: String,
    remedy: &'static str,
}

/// The lowest that counts for this server. Asked once: in its jail, a server cannot open the files that say it.
pub(super) fn limit() -> Option<&'static Limit> {
    static LIMIT: OnceLock<Option<Limit>> = OnceLock::new();
    let ask = || {
        let group = PIDS.lowest().map(|(most, name)| Limit { most, name, remedy: "pids.max" });
        // Root has no limit.
        let user = getrlimit(Resource::Nproc).current.filter(|_| !getuid().is_root());
        let user =
            user.map(|most| Limit { most, name: "the limit of this user".into(), remedy: "ulimit -u" });
        group.into_iter().chain(user).min_by_key(|limit| limit.most)
    };
    LIMIT.get_or_init(ask).as_ref()
}

/// Refuses a configuration that takes more than the limit when all its machines are there, with `spare` for each
/// function beyond its `concurrency` where it does not say more, and with `cores` threads that run guests. What others take of the
/// limit is not asked for: it changes, and may be that of the server that this one is to replace.
pub(super) fn check(
    config: &Config,
    limit: Option<&Limit>,
    spare: usize,
    cores: usize,
    threads_of: impl Fn(&DiskSpec) -> usize,
) -> Result<(), ConfigError> {
    let Some(limit) = limit else { return Ok(()) };
    let (mut machines, mut disk_threads) = (0_usize, 0_u64);
    for function in &config.functions {
        let deployment = &function.deployment;
        let own = function.machines(spare);
        let each: usize = deployment.source.disks().iter().map(&threads_of).sum();
        machines = machines.saturating_add(own);
        disk_threads = disk_threads.saturating_add((own as u64).saturating_mul(each as u64));
    }
    let needed = (OWN + cores as u64 + FUNCTION * config.functions.len() as u64)
        .saturating_add(MACHINE * machines as u64)
        .saturating_add(disk_threads);
    if needed <= limit.most {
        return Ok(());
    }
    let Limit { most, name, remedy } = limit.clone();
    let problem = Problem::Processes { machines, disk_threads, needed, name, limit: most, remedy };
    Err(ConfigError { location: config.location.clone(), problem })
}

/// The threads that work on a disk for each machine. Asked once for each disk: a deployed disk that does not
/// answer any more does not delay a reload. A file system that does not answer now is of the kind that needs
/// threads; opening the disk reports the error.
pub(super) fn threads_of(disk: &DiskSpec) -> usize {
    static KNOWN: Mutex<BTreeMap<(PathBuf, bool), usize>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().expect("no panic while held");
    let key = (disk.path.clone(), disk.overlay);
    if let Some(threads) = known().get(&key) {
        return *threads;
    }
    let asked = disk.clone();
    match within(PATIENCE, move || engine::threads_of(&asked)) {
        Ok(Some(threads)) => *known().entry(key).or_insert(threads),
        _ => engine::MAX_THREADS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Source, of_arguments};

    fn limit(most: u64) -> Limit {
        Limit { most, name: "/a/pids.max".into(), remedy: "pids.max" }
    }

    #[test]
    fn threads_of_disks_count() {
        let image = std::env::current_exe().expect("a test is a file");
        let mut config = of_arguments(&["/a=x".into(), "/b=x".into()], &|_| Ok(image.clone())).unwrap();
        let Source::Image { disks, .. } = &mut config.functions[0].deployment.source else {
            panic!("arguments name images")
        };
        *disks = vec![DiskSpec::new("threads"), DiskSpec::new("ring")];
        let threads_of = |disk: &DiskSpec| if disk.path.ends_with("threads") { 4 } else { 0 };
        let needed = OWN + 2 + 2 + 2 * 68 + 68 * 4;
        check(&config, Some(&limit(needed)), 4, 2, threads_of).unwrap();
        check(&config, None, 4, 2, threads_of).unwrap();
        let error = check(&config, Some(&limit(needed - 1)), 4, 2, threads_of).unwrap_err().to_string();
        for part in ["136 virtual machines", "272 threads", &format!("take {needed} "), "/a/pids.max allows"]
        {
            assert!(error.contains(part), "{part:?} in: {error}");
        }
    }
}
