//! Handles to a guest: what its owner and others can do with it.

use super::end::Order;
use super::life::{Record, State};
use super::{BootPhases, Domain, Inspector, Outcome, Stop, Usage};
use crate::engine::Engine;
use crate::sched::{Entity, Share};
use hv_abi::event::POWER;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A guest that was started. Dropping it ends the guest.
pub struct Guest {
    pub(super) domain: Arc<Domain>,
    /// Keeps its virtual CPUs in the scheduler.
    pub(super) _entities: Vec<Arc<Entity>>,
    pub(super) engine: Engine,
}

impl Guest {
    /// Waits for the guest's end. On an engine without threads of its own, the engine's guests run on the calling thread
    /// meanwhile. If several threads wait, they run on one of them.
    pub fn wait(&self) -> Outcome {
        self.wait_until(None, |record| record.outcome.clone()).expect("there is no time limit")
    }

    /// Waits until the guest is paused (see [`Builder::pause_at_ready`](super::Builder::pause_at_ready) and
    /// [`pause`](Self::pause)), or has ended. Returns false if neither happens within this time.
    pub fn wait_paused(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let over = |record: &Record| matches!(record.state, State::Paused | State::Ended);
        self.wait_until(Some(until), |record| over(record).then_some(())).is_some()
    }

    /// How the guest ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.domain.life.record().outcome.clone()
    }

    /// Pauses the guest where it is. The guest does not notice.
    pub fn pause(&self) {
        self.domain.pause();
    }

    /// Resumes a paused guest.
    pub fn resume(&self) {
        self.domain.resume();
    }

    fn wait_until<T>(&self, until: Option<Instant>, look: impl Fn(&Record) -> Option<T>) -> Option<T> {
        /// When to check whether the thread that ran the guests has left.
        const AGAIN: Duration = Duration::from_millis(10);
        let late = || until.is_some_and(|until| Instant::now() >= until);
        loop {
            if !self.engine.has_workers()
                && let Ok(_driver) = self.engine.inner.driver.try_lock()
            {
                let _alarm = until.map(|until| self.engine.inner.scheduler.notify_at(until));
                self.engine.inner.scheduler.work(&|| late() || look(&self.domain.life.record()).is_some());
            }
            let record = self.domain.life.record();
            if let Some(found) = look(&record) {
                return Some(found);
            }
            if late() {
                return None;
            }
            let record = self.domain.life.wait(record, AGAIN);
            if let Some(found) = look(&record) {
                return Some(found);
            }
        }
    }

    /// Ends the guest. What it has printed is still written.
    pub fn stop(&self, reason: Stop) {
        self.controller().stop(reason);
    }

    /// A handle that controls the guest from another thread.
    pub fn controller(&self) -> Controller {
        Controller { domain: Arc::downgrade(&self.domain) }
    }

    /// How often the guest exited to hv, by reason.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.domain.counters.list()
    }

    /// Bytes of guest memory that are backed by host memory: what the guest has touched, and what was loaded for it.
    pub fn resident_memory(&self) -> u64 {
        self.domain.memory.resident()
    }

    /// All CPU time that was used for it: see [`Usage::cpu_time`].
    pub fn cpu_time(&self) -> Duration {
        self.domain.cpu_time()
    }

    /// What it has used. Measures its memory, if that is due: this takes several microseconds, and more for a large guest.
    pub fn usage(&self) -> Usage {
        self.domain.usage(true)
    }

    /// [`Usage::memory_byte_nanos`] alone, with its memory as it was measured last.
    pub fn memory_byte_nanos(&self) -> u128 {
        self.domain.memory_usage(false).1
    }

    /// [`usage`](Self::usage) with its memory as it was measured last, for readers of very many guests, and for
    /// threads whose jail does not allow to measure.
    pub fn usage_unmeasured(&self) -> Usage {
        self.domain.usage(false)
    }

    /// How long its start took.
    pub fn phases(&self) -> BootPhases {
        *self.domain.phases.lock().expect("no panic while held")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop(Stop::Dropped);
        self.controller().abandon();
        let sources = std::mem::take(&mut *self.domain.sources.lock().expect("no panic while held"));
        self.engine.inner.reactor.remove(&sources);
    }
}

/// Controls a guest from another thread: looks at it, changes its share and its targets, pauses and ends it. Does not keep
/// the guest alive. No method waits for the guest.
#[derive(Clone)]
pub struct Controller {
    pub(super) domain: Weak<Domain>,
}

impl Controller {
    /// Ends the guest. What it has printed is still written.
    pub fn stop(&self, reason: Stop) {
        if let Some(domain) = self.domain.upgrade() {
            domain.order(Order::Stop(reason));
        }
    }

    /// What the guest has used; `None` once it was dropped.
    pub fn usage(&self) -> Option<Usage> {
        self.domain.upgrade().map(|domain| domain.usage(true))
    }

    /// Has the memory of a guest that runs measured soon, by the threads that run it: see
    /// [`Usage::memory_byte_seconds`]. Does nothing if it sleeps.
    pub fn measure(&self) {
        if let Some(domain) = self.domain.upgrade().filter(|domain| domain.memory_meter.is_running()) {
            domain.vcpus.iter().for_each(|vcpu| vcpu.kicker.kick());
        }
    }

    /// Pauses the guest where it is, as [`Guest::pause`].
    pub fn pause(&self) {
        if let Some(domain) = self.domain.upgrade() {
            domain.pause();
        }
    }

    /// Resumes a paused guest.
    pub fn resume(&self) {
        if let Some(domain) = self.domain.upgrade() {
            domain.resume();
        }
    }

    /// Gives the guest another weight and cap, from now on.
    pub fn set_share(&self, share: Share) {
        if let Some(domain) = self.domain.upgrade() {
            domain.vcpus.iter().filter_map(|vcpu| vcpu.entity()).for_each(|entity| entity.set_share(share));
        }
    }

    /// Asks the guest to end by itself. Returns false if it does not listen to such requests: then it has to be
    /// [stopped](Self::stop).
    pub fn request_shutdown(&self) -> bool {
        self.domain.upgrade().is_some_and(|domain| {
            domain.hub.raise(POWER);
            domain.hub.is_unmasked(POWER)
        })
    }

    /// Has `inspector` told where the guest is. The guest continues. `inspector` is not called if the guest has ended, if
    /// no thread runs it (on an engine without threads, while no thread [waits](Guest::wait)), or if too many inspectors wait already.
    pub fn inspect(&self, inspector: Inspector) {
        if let Some(domain) = self.domain.upgrade() {
            domain.inspect(inspector);
        }
    }

    /// From now on the reader of the guest's console is not waited for.
    pub fn abandon(&self) {
        if let Some(domain) = self.domain.upgrade() {
            domain.drain.abandon();
            domain.wake_all();
        }
    }
}
