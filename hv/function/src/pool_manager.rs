//! The thread that does a function's slow work: it makes and closes virtual machines, measures their memory,
//! and enforces the limits of requests.

use super::call::PendingCall;
use super::{Failure, Inner, Instance};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use hv_core::domain::StartError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// How often a request that is under way is looked at. Most are over before the first look.
const LOOK: Duration = Duration::from_millis(5);

/// Least time between two looks: each is at all requests whose time has come, and many can have begun within a millisecond.
const GRAIN: Duration = Duration::from_millis(1);

pub(super) struct PoolManager {
    jobs: Sender<Job>,
    /// It was asked for a survey, and has not begun.
    surveying: AtomicBool,
    /// It was asked to make instances ahead, and has not begun.
    refilling: AtomicBool,
    /// It was asked to serve calls that wait, and has not begun.
    handing_over: AtomicBool,
    watched: Mutex<WatchedRequests>,
}

enum Job {
    /// Make the instance of this number, for this request or to be kept.
    Start(u64, Option<Arc<PendingCall>>),
    Dispose(Arc<Instance>),
    /// There is a request to watch.
    Look,
    /// Measure the memory of some guests.
    Survey,
    /// Make one instance ahead, if there are too few.
    Refill,
    /// Give instances that are free to calls that wait.
    HandOver,
    Stop,
}

#[derive(Default)]
struct WatchedRequests {
    /// When to look at which request next, in that order.
    requests: VecDeque<(Instant, Weak<Instance>, u64)>,
    /// The thread knows that there is something to watch.
    awake: bool,
}

impl PoolManager {
    /// A pool manager, and what its thread takes its work from.
    pub(super) fn new() -> (Self, Jobs) {
        let (jobs, receiver) = unbounded();
        let pool_manager = PoolManager {
            jobs,
            surveying: AtomicBool::new(false),
            refilling: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
            watched: Mutex::default(),
        };
        (pool_manager, Jobs(receiver))
    }

    fn send(&self, job: Job) {
        // A thread that has ended needs no job.
        let _ = self.jobs.send(job);
    }

    pub(super) fn start(&self, number: u64, pending: Option<Arc<PendingCall>>) {
        self.send(Job::Start(number, pending));
    }

    pub(super) fn dispose(&self, instance: Arc<Instance>) {
        self.send(Job::Dispose(instance));
    }

    /// Requests that memory of guests is measured soon, without waiting.
    pub(super) fn survey(&self) {
        if !self.surveying.swap(true, Ordering::SeqCst) {
            self.send(Job::Survey);
        }
    }

    /// Requests that instances are made ahead, without waiting.
    pub(super) fn refill(&self) {
        if !self.refilling.swap(true, Ordering::SeqCst) {
            self.send(Job::Refill);
        }
    }

    /// Requests that calls which wait get what is free, without waiting.
    pub(super) fn hand_over(&self) {
        if !self.handing_over.swap(true, Ordering::SeqCst) {
            self.send(Job::HandOver);
        }
    }

    pub(super) fn stop(&self) {
        self.send(Job::Stop);
    }

    fn watched(&self) -> MutexGuard<'_, WatchedRequests> {
        self.watched.lock().expect("no panic while held")
    }

    pub(super) fn watch(&self, instance: &Arc<Instance>, exchange: u64) {
        let mut watched = self.watched();
        watched.requests.push_back((Instant::now() + LOOK, Arc::downgrade(instance), exchange));
        if !std::mem::replace(&mut watched.awake, true) {
            drop(watched);
            self.send(Job::Look);
        }
    }

    /// Looks at the requests whose time has come. Returns when to do so again.
    fn look(&self) -> Option<Instant> {
        loop {
            let (instance, exchange) = {
                let mut watched = self.watched();
                let Some((at, ..)) = watched.requests.front() else {
                    watched.awake = false;
                    return None;
                };
                let now = Instant::now();
                if *at > now {
                    return Some((*at).max(now + GRAIN));
                }
                let (_, instance, exchange) = watched.requests.pop_front()?;
                (instance, exchange)
            };
            if instance.upgrade().is_some_and(|instance| instance.check(exchange)) {
                self.watched().requests.push_back((Instant::now() + LOOK, instance, exchange));
            }
        }
    }
}

pub(super) struct Jobs(Receiver<Job>);

impl Jobs {
    /// Works until the function is dropped.
    pub(super) fn work(self, function: &Weak<Inner>) {
        let mut next = None;
        if let Some(inner) = function.upgrade() {
            prepare(&inner);
        }
        loop {
            let job = match next {
                Some(at) => self.0.recv_deadline(at),
                None => self.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let Some(inner) = function.upgrade() else { return };
            match job {
                Ok(Job::Start(number, pending)) => drop(start(&inner, number, pending)),
                Ok(Job::Refill) => {
                    inner.pool_manager.refilling.store(false, Ordering::SeqCst);
                    // One after the other: what has to be done for requests comes in between.
                    if inner.make_ahead() {
                        inner.pool_manager.refill();
                    }
                }
                Ok(Job::HandOver) => {
                    inner.pool_manager.handing_over.store(false, Ordering::SeqCst);
                    inner.serve_waiting();
                }
                Ok(Job::Dispose(instance)) => instance.close(),
                Ok(Job::Survey) => {
                    inner.pool_manager.surveying.store(false, Ordering::SeqCst);
                    // What has to be done for a request comes first.
                    inner.survey(&|| !self.0.is_empty());
                }
                Ok(Job::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    // All earlier jobs are done.
                    return;
                }
            }
            next = inner.pool_manager.look();
            // Makes a machine for the next start while there is nothing else to do.
            if self.0.is_empty() {
                prepare(&inner);
            }
        }
    }
}

/// Has a machine ready for the next start.
fn prepare(inner: &Inner) {
    if let Err(error) = inner.engine.prepare_machine() {
        tracing::debug!("a machine to be kept could not be made: {error}");
    }
}

/// How long a start waits for memory: machines are being reset or closed.
const ROOM: Duration = Duration::from_millis(200);

/// Makes an instance. Where the budget has no memory for it, takes one that has become idle meanwhile, or has machines of other
/// functions closed that wait for requests.
fn start_with_room(inner: &Arc<Inner>, number: u64) -> Result<Arc<Instance>, StartError> {
    const LOOK_AGAIN: Duration = Duration::from_micros(500);
    let begin = Instant::now();
    loop {
        match Instance::start(inner, number) {
            Err(StartError::Budget(_)) if begin.elapsed() < ROOM => {}
            result => return result,
        }
        let own = inner.pool().take_idle(&inner.pool_manager);
        if let Some(own) = own {
            return Ok(own);
        }
        if let Some(make_room) = &inner.options.make_room {
            make_room();
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
}

/// Makes the instance of this number, for this request or to be kept. Says whether it could be made. One that is to be kept
/// takes no memory away from others.
pub(super) fn start(inner: &Arc<Inner>, number: u64, pending: Option<Arc<PendingCall>>) -> bool {
    let made = match pending {
        Some(_) => start_with_room(inner, number),
        None => Instance::start(inner, number),
    };
    let instance = match made {
        Ok(instance) => instance,
        Err(error) => {
            inner.pool().live.remove(&number);
            match pending {
                Some(pending) => pending.fail(Failure::NoRoom(Box::new(error))),
                None if inner.scale.note_failure() => {
                    tracing::warn!("an instance to be kept ready cannot be made for now: {error}");
                }
                None => tracing::debug!("an instance to be kept ready cannot be made for now: {error}"),
            }
            return false;
        }
    };
    {
        let live = &mut inner.pool().live;
        live.remove(&number);
        live.insert(instance.number, Some(instance.clone()));
    }
    if inner.stopped.load(Ordering::SeqCst) {
        if let Some(pending) = pending {
            pending.fail(Failure::Stopped);
        }
        instance.close();
    } else if !pending.is_some_and(|pending| pending.begin(&instance)) {
        inner.put_back(instance);
    }
    true
}
