//! The thread that watches for deadlines and ends of slices while all other threads are busy.

use super::policy::Time;
use super::{SharedScheduler, park_until};
use hv_host::prompt::{be_first, be_prompt};
use hv_jail as jail;
use hv_jail::Kind;
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::Duration;

/// A ticker that will check this soon after the time that it is asked for is not woken to do so earlier, in nanoseconds: most time
/// slices end by themselves before they have to, and to wake it costs more than many of them.
const TOLERANCE: Time = 100_000;

/// Least time between two checks, in nanoseconds.
const GRAIN: Time = 200_000;

/// The ticker. Its thread is made when it is first needed.
pub(super) struct Ticker {
    thread: Option<Thread>,
    /// When it will check by itself.
    watches: Time,
}

impl Default for Ticker {
    fn default() -> Self {
        Ticker { thread: None, watches: Time::MAX }
    }
}

impl Ticker {
    /// Makes it check at this time at the latest. Returns its thread if that has to be woken.
    pub(super) fn watch(&mut self, at: Time, shared: &Arc<SharedScheduler>) -> Option<Thread> {
        if at.saturating_add(TOLERANCE) >= self.watches {
            return None;
        }
        self.watches = at;
        if self.thread.is_some() {
            return self.thread.clone();
        }
        let weak = Arc::downgrade(shared);
        match jail::spawn(Kind::Tick, "hv-tick", move || run(&weak)) {
            Ok(handle) => self.thread = Some(handle.thread().clone()),
            Err(error) => {
                tracing::error!("no thread to end time slices: {error}");
                self.watches = Time::MAX;
            }
        }
        None
    }

    /// Ends it: there is nothing left to watch for.
    pub(super) fn end(&mut self) {
        self.thread.iter().for_each(Thread::unpark);
    }
}

fn run(shared: &Weak<SharedScheduler>) {
    be_prompt();
    be_first(true);
    while let Some(strong) = shared.upgrade() {
        let now = strong.now();
        let mut core = strong.core();
        core.policy.tick(now);
        let mut calls = core.dispatch(now);
        let watches = core.assign(&mut calls, now).map(|at| at.max(now + GRAIN));
        core.ticker.watches = watches.unwrap_or(Time::MAX);
        drop(core);
        calls.make();
        let until = watches.map(|at| strong.start + Duration::from_nanos(at));
        drop(strong);
        park_until(until);
    }
}
