//! How many guests the limit of file descriptors allows.
#![forbid(unsafe_code)]

use super::config::{Config, ConfigError, DEFAULT_GUESTS, Problem};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors of the process itself: standard streams, KVM, epolls, logs, images and disks being opened.
const OWN: u64 = 64;

/// Descriptors of one virtual machine: its virtual CPU, and two for the doorbell
/// of its console, once its guest prints much.
const MACHINE: u64 = 3;

/// How many virtual machines there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
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

/// Plans what `limit` descriptors are for, with `threads` that run guests.
pub(super) fn plan(config: &Config, limit: u64, threads: usize) -> Result<Plan, ConfigError> {
    let spare = 2 * threads;
    let concurrency = config.functions.iter().map(|function| function.deployment.concurrency);
    let machines: usize = concurrency.clone().map(|concurrency| concurrency.saturating_add(spare)).sum();
    let needed = OWN + config.connections as u64 + MACHINE * machines as u64;
    if needed > limit {
        let problem = Problem::Descriptors { machines, connections: config.connections, needed, limit };
        return Err(ConfigError { place: config.place.clone(), problem });
    }
    // A function's own limit may not be beyond the server's.
    let guests = config.guests.unwrap_or_else(|| concurrency.max().unwrap_or(0).max(DEFAULT_GUESTS));
    Ok(Plan { guests, spare })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::config::of_arguments;

    #[test]
    fn what_does_not_fit_is_refused() {
        let image = std::env::current_exe().expect("a test is a file");
        let functions = ["/a=x", "/b=x"].map(str::to_owned);
        let config = of_arguments(&functions, &|_| Ok(image.clone())).unwrap();
        let needed = OWN + 1024 + MACHINE * 2 * (64 + 4);
        assert_eq!(plan(&config, needed, 2).unwrap(), Plan { guests: 1024, spare: 4 });
        let error = plan(&config, needed - 1, 2).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{needed} file descriptors")) && error.contains("ulimit -n"),
            "{error}"
        );
    }
}
