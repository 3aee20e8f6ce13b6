//! The memory of the server: how much there is, what hv itself needs of it, and machines that are closed when others need theirs.
#![forbid(unsafe_code)]

use super::config::{Config, ConfigError, Problem, Source};
use hv_core::engine::{BudgetError, Engine, MemoryPromise};
use hv_host::limits::group::MEMORY;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What hv needs beside its connections: code, stacks, logs, metrics.
const OWN: u64 = 12 << 20;

/// What a connection needs: buffers of HTTP, and of answers on their way.
const CONNECTION: u64 = 16 << 10;

/// The part of a control group's limit that is left to the kernel, for page tables, machines, sockets and files: an eighth, and at
/// least this.
const LEAST_KERNEL: u64 = 16 << 20;

/// A limit beyond this is none: version 1 of control groups has no other way to say so.
const UNLIMITED: u64 = 1 << 62;

/// How long a function that is to be booted waits for memory.
const PATIENCE: Duration = Duration::from_millis(500);

/// The memory that a server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// For hv and all guests.
    pub bytes: u64,
    /// What sets it.
    pub name: String,
}

/// What the configuration says, or else the control group of this process, without a part for the kernel. `None`: no limit.
/// The first answer stays: only a restart changes it, and in its jail a server cannot ask.
pub fn budget(config: &Config) -> Option<&'static MemoryBudget> {
    BUDGET.get_or_init(|| ask(config)).as_ref()
}

static BUDGET: OnceLock<Option<MemoryBudget>> = OnceLock::new();

/// What [`budget`] has answered.
pub(super) fn known() -> Option<&'static MemoryBudget> {
    BUDGET.get().and_then(Option::as_ref)
}

fn ask(config: &Config) -> Option<MemoryBudget> {
    let configured = config.memory.map(|bytes| MemoryBudget { bytes, name: "`memory`".into() });
    let group = MEMORY.lowest().filter(|(limit, _)| *limit < UNLIMITED);
    configured.or_else(|| group.map(|(limit, name)| of_group(limit, name)))
}

fn of_group(limit: u64, name: String) -> MemoryBudget {
    MemoryBudget { bytes: limit.saturating_sub((limit / 8).max(LEAST_KERNEL)), name }
}

/// What hv needs of it.
fn own(config: &Config) -> u64 {
    OWN + CONNECTION * config.connections as u64
}

/// Refuses functions of which not even one instance would fit, or not those that are to be kept ready.
pub(super) fn check(config: &Config, budget: Option<&MemoryBudget>) -> Result<(), ConfigError> {
    let Some(budget) = budget else { return Ok(()) };
    let left = budget.bytes.saturating_sub(own(config));
    for function in &config.functions {
        let Source::Image { memory, .. } = function.deployment.source else { continue };
        let needed = function.deployment.promised_memory.unwrap_or(memory);
        if needed > left {
            let problem = Problem::Memory {
                function: function.name.clone(),
                needed: needed >> 10,
                left: left >> 10,
                budget: budget.bytes >> 10,
                name: budget.name.clone(),
            };
            return Err(ConfigError { location: function.location.clone(), problem });
        }
        let needed = needed.saturating_mul(function.min_warm as u64);
        if needed > left {
            let problem = Problem::WarmMemory {
                function: function.name.clone(),
                count: function.min_warm,
                needed: needed >> 10,
                left: left >> 10,
                budget: budget.bytes >> 10,
                name: budget.name.clone(),
            };
            return Err(ConfigError { location: function.location.clone(), problem });
        }
    }
    Ok(())
}

/// Something that has idle machines.
pub(super) trait HasIdle: Send + Sync {
    /// Since when the machine has been idle that has been so the longest.
    fn idle_since(&self) -> Option<Instant>;

    /// Closes that one.
    fn reclaim(&self) -> bool;
}

/// Memory that can be made free.
pub(super) struct Reclaimable {
    all: Mutex<Vec<Weak<dyn HasIdle>>>,
    /// Bytes for hv itself.
    own: u64,
    _promise: MemoryPromise,
}

impl Reclaimable {
    /// Promises hv its own memory.
    pub(super) fn new(engine: &Engine, config: &Config) -> Result<Arc<Self>, BudgetError> {
        let own = if engine.memory_budget().is_some() { own(config) } else { 0 };
        Ok(Arc::new(Reclaimable { all: Mutex::default(), own, _promise: engine.promise_memory(own)? }))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<dyn HasIdle>>> {
        self.all.lock().expect("no panic while held")
    }

    /// Bytes that hv itself is promised.
    pub(super) fn own(&self) -> u64 {
        self.own
    }

    pub(super) fn add(&self, one: Weak<dyn HasIdle>) {
        let mut all = self.all();
        all.retain(|one| one.strong_count() > 0);
        all.push(one);
    }

    /// Closes the machine that has been idle the longest, of all functions. Says whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let all: Vec<_> = self.all().iter().filter_map(Weak::upgrade).collect();
        let oldest = all.iter().filter_map(|one| Some((one.idle_since()?, one)));
        oldest.min_by_key(|(since, _)| *since).is_some_and(|(_, one)| one.reclaim())
    }
}

impl Reclaimable {
    /// Closes idle machines until so much can be promised, or none is left. May wait for a moment.
    pub(super) fn make_room_for(&self, engine: &Engine, bytes: u64) {
        const LOOK: Duration = Duration::from_millis(1);
        let lacks = || engine.memory_budget().is_some_and(|(budget, promised)| promised + bytes > budget);
        let begin = Instant::now();
        while lacks() && begin.elapsed() < PATIENCE {
            self.make_room();
            std::thread::park_timeout(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::of_arguments;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_function_that_does_not_fit_is_refused() {
        let image = std::env::current_exe().expect("a test is a file");
        let mut config = of_arguments(&["/a=x".into()], &|_| Ok(image.clone())).unwrap();
        let needed = own(&config) + (16 << 20);
        let of = |bytes| MemoryBudget { bytes, name: "/a/memory.max".into() };
        check(&config, None).unwrap();
        check(&config, Some(&of(needed))).unwrap();
        let error = check(&config, Some(&of(needed - 1024))).unwrap_err().to_string();
        for part in ["16384 KiB", "16383 KiB", "/a/memory.max", "MIN..MAX"] {
            assert!(error.contains(part), "{part:?} in: {error}");
        }
        config.functions[0].deployment.promised_memory = Some(1 << 20);
        check(&config, Some(&of(needed - 1024))).unwrap();
        config.functions[0].min_warm = 16;
        check(&config, Some(&of(needed))).unwrap();
        let error = check(&config, Some(&of(needed - 1024))).unwrap_err().to_string();
        assert!(error.contains("min_warm = 16") && error.contains("16384 KiB"), "{error}");
        assert_eq!(of_group(100_000_000, "x".into()).bytes, 100_000_000 - LEAST_KERNEL);
        assert_eq!(of_group(8 << 30, "x".into()).bytes, 7 << 30);
    }

    #[test]
    fn the_oldest_goes_first() {
        struct Idle(Instant, AtomicUsize);
        impl HasIdle for Idle {
            fn idle_since(&self) -> Option<Instant> {
                (self.1.load(Ordering::SeqCst) > 0).then_some(self.0)
            }
            fn reclaim(&self) -> bool {
                self.1.fetch_sub(1, Ordering::SeqCst) > 0
            }
        }
        let now = Instant::now();
        let [young, old] =
            [now, now - Duration::from_secs(1)].map(|at| Arc::new(Idle(at, AtomicUsize::new(1))));
        let all: [Weak<dyn HasIdle>; 2] =
            [Arc::downgrade(&young) as Weak<dyn HasIdle>, Arc::downgrade(&old) as Weak<dyn HasIdle>];
        let engine = Engine::new(hv_core::ProcessPlatform::new().unwrap(), 0).unwrap();
        let reclaimable =
            Reclaimable { all: Mutex::new(all.into()), own: 0, _promise: engine.promise_memory(0).unwrap() };
        assert!(reclaimable.make_room());
        assert_eq!([&young, &old].map(|idle| idle.1.load(Ordering::SeqCst)), [1, 0]);
        assert!(reclaimable.make_room());
        assert!(!reclaimable.make_room());
    }
}
