//! What a function is doing and has done.

use super::survey::Survey;
use super::{Inner, Instance};
use hv_core::domain::{Guest, Usage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A function's figures at one moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Virtual machines that there are, busy or not.
    pub live: usize,
    /// Those of them that wait for a request.
    pub idle: usize,
    /// Those that are being made.
    pub starting: usize,
    /// Requests that found one waiting.
    pub warm: u64,
    /// Requests for which one was made.
    pub cold: u64,
    /// Requests that were answered completely.
    pub answered: u64,
    /// Guests that ended: crashed, over their limits, or no longer wanted.
    pub ended: u64,
    /// How often guests that are live left to hv, by reason.
    pub exits: BTreeMap<&'static str, u64>,
    /// Bytes of memory that belong to single guests, as far as they have been measured: reading the figures
    /// has a few machines measured, one after the other, on another thread, for the next reading.
    pub private: u64,
    /// Bytes of memory that they share.
    pub shared: u64,
    /// Integral of `shared` over the time since the function was made, in bytes times seconds.
    pub shared_byte_seconds: f64,
    /// What all of its guests have used, those that are closed included. Their memory is that of single guests, and as
    /// old as `private`.
    pub usage: Usage,
    /// How long no request is let in, because it crashes always.
    pub back_off: Duration,
    /// Total time between head and end of the requests that were answered.
    pub time: Duration,
}

/// Counts since the function was made.
#[derive(Default)]
pub(super) struct Totals {
    warm: AtomicU64,
    cold: AtomicU64,
    answered: AtomicU64,
    ended: AtomicU64,
    nanos: AtomicU64,
    hot_noted: AtomicBool,
    survey: Mutex<Survey>,
}

impl Totals {
    pub(super) fn warm(&self) {
        self.warm.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn cold(&self) {
        self.cold.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, began: Option<Instant>) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let nanos = began.map_or(0, |began| began.elapsed().as_nanos() as u64);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// Notes which pages the first answered request wrote: the next ones will write the same.
    pub(super) fn note_hot_pages(&self, guest: &Guest) {
        if self.totals.hot_noted.swap(true, Ordering::Relaxed) {
            return;
        }
        self.snapshot.learn(guest);
    }

    /// Measures the memory of the machines that are next, at least of one, until something else has to be
    /// done.
    pub(super) fn survey(&self, busy: &dyn Fn() -> bool) {
        let instances: Vec<Arc<Instance>> = self.pool().live.values().flatten().cloned().collect();
        let mut numbers: Vec<_> = instances.iter().map(|instance| instance.number).collect();
        numbers.sort_unstable();
        let mut next = self.totals.survey.lock().expect("no panic while held").next(&numbers, Instant::now());
        next.sort_unstable();
        for instance in instances.iter().filter(|instance| next.binary_search(&instance.number).is_ok()) {
            instance.measure();
            if busy() {
                return;
            }
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let (instances, starting, idle, mut usage) = {
            let pool = self.pool();
            let instances: Vec<Arc<Instance>> = pool.live.values().flatten().cloned().collect();
            let starting = pool.live.len() - instances.len();
            (instances, starting, pool.idle.len(), pool.used.clone())
        };
        // Guests that are closed have no memory.
        usage.resident_memory = 0;
        instances.iter().for_each(|instance| usage += &instance.usage());
        let shared = self.snapshot.template().resident();
        self.pool_manager.survey();
        let mut exits = BTreeMap::new();
        for (name, count) in instances.iter().flat_map(|instance| instance.counters()) {
            *exits.entry(name).or_default() += count;
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            live: instances.len(),
            starting,
            idle,
            warm: load(&self.totals.warm),
            cold: load(&self.totals.cold),
            answered: load(&self.totals.answered),
            ended: load(&self.totals.ended),
            back_off: self.backoff().remaining(Instant::now()),
            exits,
            private: usage.resident_memory,
            shared,
            shared_byte_seconds: shared as f64 * self.began.elapsed().as_secs_f64(),
            usage,
            time: Duration::from_nanos(load(&self.totals.nanos)),
        }
    }
}
