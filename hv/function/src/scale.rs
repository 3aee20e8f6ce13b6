//! How many instances a function has: the most, those that are made ahead, and calls that wait for one.

use super::call::PendingCall;
use super::pool_manager::start;
use super::{Inner, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The bounds of a function's instances, which may change while it runs.
#[derive(Debug)]
pub(super) struct Scale {
    most: AtomicUsize,
    warm: AtomicUsize,
    /// The last one that was to be made ahead could not be made.
    failing: AtomicBool,
}

impl Scale {
    pub(super) fn new(most: usize, warm: usize) -> Self {
        Scale { most: most.into(), warm: warm.into(), failing: AtomicBool::new(false) }
    }

    /// Most instances, whatever they do.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Instances that are to wait for requests.
    pub(super) fn warm(&self) -> usize {
        self.warm.load(Ordering::Relaxed)
    }

    /// Whether this is the first failure in a row.
    pub(super) fn note_failure(&self) -> bool {
        !self.failing.swap(true, Ordering::Relaxed)
    }
}

impl Pool {
    /// Whether fewer instances wait for requests than there should.
    pub(super) fn lacks_warm(&self, scale: &Scale) -> bool {
        self.idle.len() < scale.warm() && self.live.len() < scale.most()
    }

    /// A call waits until an instance is free, or one may be made. Those that were given up take no place.
    pub(super) fn wait(&mut self, call: Arc<PendingCall>) {
        self.waiting.retain(|call| call.is_waiting());
        self.waiting.push_back(call);
    }
}

/// What a call that waits gets.
enum Place {
    Idle(Arc<super::Instance>),
    New(u64),
}

impl Inner {
    /// Changes the bounds. What is beyond them ends as soon as it has nothing to do.
    pub(super) fn set_scale(&self, most: usize, warm: usize) {
        self.scale.most.store(most, Ordering::Relaxed);
        self.scale.warm.store(warm, Ordering::Relaxed);
        let surplus: Vec<_> = {
            let mut pool = self.pool();
            let count = pool.live.len().saturating_sub(most).min(pool.idle.len());
            pool.idle.drain(..count).collect()
        };
        surplus.iter().for_each(|(instance, _)| self.close(instance));
        self.pool_manager.refill();
        self.pool_manager.hand_over();
    }

    /// Makes one instance ahead, if there are too few. Says whether there still are. Only on the pool manager's thread.
    pub(super) fn make_ahead(self: &Arc<Self>) -> bool {
        let number = {
            let mut pool = self.pool();
            if !pool.lacks_warm(&self.scale) {
                return false;
            }
            pool.reserve()
        };
        if !start(self, number, None) {
            // There is no room now. The next look at idle instances tries again.
            return false;
        }
        self.scale.failing.store(false, Ordering::Relaxed);
        self.pool().lacks_warm(&self.scale)
    }

    /// Gives calls that wait the instances that have become free, and makes those that may be made. Only on the pool
    /// manager's thread.
    pub(super) fn serve_waiting(self: &Arc<Self>) {
        loop {
            let (call, place) = {
                let mut pool = self.pool();
                while pool.waiting.front().is_some_and(|call| !call.is_waiting()) {
                    pool.waiting.pop_front();
                }
                if pool.waiting.is_empty() {
                    return;
                }
                let place = if let Some(instance) = pool.take_idle(&self.pool_manager) {
                    Place::Idle(instance)
                } else if pool.live.len() < self.scale.most() {
                    Place::New(pool.reserve())
                } else {
                    return;
                };
                let Some(call) = pool.waiting.pop_front() else { return };
                (call, place)
            };
            match place {
                Place::Idle(instance) if call.begin(&instance) => {}
                Place::Idle(instance) => self.pool().idle.push((instance, std::time::Instant::now())),
                Place::New(number) => drop(start(self, number, Some(call))),
            }
        }
    }
}
