//! Admission: how many requests are in guests, of each function, of each tenant and of the server, and how many wait.
#![forbid(unsafe_code)]

mod turns;

use super::config::{FunctionConfig, TenantConfig};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use turns::{Entry, FunctionKey, Limits, TenantKey, Turns};

/// The permits of a server for guests.
pub(super) struct Admission {
    turns: Mutex<Turns<Waiter>>,
}

/// A request that waits.
struct Waiter {
    place: Arc<Place>,
    permit: oneshot::Sender<Permit>,
}

/// A tenant among those that share the permits.
pub(super) struct TenantGate {
    admission: Arc<Admission>,
    key: TenantKey,
}

/// The permits of one function, within those of its tenant and of the server. Requests of a function get permits in the
/// order of arrival.
pub(super) struct Gate {
    place: Arc<Place>,
    queue_time: Duration,
}

/// A function among those of its tenant.
struct Place {
    tenant: Arc<TenantGate>,
    key: FunctionKey,
}

/// The right to use a guest, until it is dropped.
pub(super) struct Permit {
    /// `None` once it was given back.
    place: Option<Arc<Place>>,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many requests of the function wait already.
    Full,
    /// Too many requests of its tenant wait already.
    TenantFull,
    /// It has waited for `queue_time`.
    Late,
    /// It has waited for so long, and nothing was missing but memory.
    NoMemory,
}

impl Admission {
    /// With so many permits.
    pub(super) fn new(permits: usize) -> Arc<Self> {
        Arc::new(Admission { turns: Mutex::new(Turns::new(permits)) })
    }

    fn turns(&self) -> MutexGuard<'_, Turns<Waiter>> {
        self.turns.lock().expect("no panic while held")
    }

    /// Sets how many bytes of memory may be promised to requests in guests.
    pub(super) fn set_memory(&self, bytes: u64) {
        self.turns().set_memory(bytes);
        self.give();
    }

    /// Gives permits that are free to requests that wait.
    fn give(&self) {
        loop {
            // The next statement may lock again, so this one must not keep the lock.
            let next = self.turns().next();
            let Some(Waiter { place, permit }) = next else { return };
            if let Err(mut refused) = permit.send(Permit { place: Some(place) })
                && let Some(place) = refused.place.take()
            {
                self.turns().leave(place.key);
            }
        }
    }
}

impl TenantGate {
    /// A tenant with these limits.
    pub(super) fn new(admission: &Arc<Admission>, config: &TenantConfig) -> Arc<Self> {
        Self::with(admission, limits_of(config))
    }

    /// For a function that belongs to no tenant: alone among the tenants.
    pub(super) fn of_one(admission: &Arc<Admission>, function: &FunctionConfig) -> Arc<Self> {
        let weight = function.share.weight();
        Self::with(admission, Limits { weight, running: usize::MAX, waiting: usize::MAX, memory: u64::MAX })
    }

    fn with(admission: &Arc<Admission>, limits: Limits) -> Arc<Self> {
        let key = admission.turns().add_tenant(limits);
        Arc::new(TenantGate { admission: admission.clone(), key })
    }

    /// Gives it other limits, from now on.
    pub(super) fn set(&self, config: &TenantConfig) {
        self.admission.turns().limit_tenant(self.key, limits_of(config));
        self.admission.give();
    }
}

fn limits_of(config: &TenantConfig) -> Limits {
    Limits {
        weight: config.share.weight(),
        running: config.concurrency.unwrap_or(usize::MAX),
        waiting: config.queue.unwrap_or(usize::MAX),
        memory: config.memory.unwrap_or(u64::MAX),
    }
}

impl Drop for TenantGate {
    fn drop(&mut self) {
        self.admission.turns().remove_tenant(self.key);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tenant.admission.turns().remove_function(self.key);
    }
}

impl Gate {
    /// The permits of a function of this tenant, each of whose guests is promised so much memory.
    pub(super) fn new(tenant: Arc<TenantGate>, function: &FunctionConfig, memory: u64) -> Self {
        let limits = Limits {
            weight: function.share.weight(),
            running: function.concurrency(),
            waiting: function.queue,
            memory,
        };
        Self::with(tenant, limits, function.queue_time)
    }

    fn with(tenant: Arc<TenantGate>, limits: Limits, queue_time: Duration) -> Self {
        let key = tenant.admission.turns().add_function(tenant.key, limits);
        Gate { place: Arc::new(Place { tenant, key }), queue_time }
    }

    /// Takes a permit, or waits for one.
    pub(super) async fn enter(&self) -> Result<Permit, Refused> {
        let mut waiting = {
            let mut turns = self.place.tenant.admission.turns();
            match turns.enter(self.place.key) {
                Entry::Now => return Ok(Permit { place: Some(self.place.clone()) }),
                Entry::Full => return Err(Refused::Full),
                Entry::TenantFull => return Err(Refused::TenantFull),
                Entry::Wait => {
                    let (permit, receiver) = oneshot::channel();
                    let number = turns.wait(self.place.key, Waiter { place: self.place.clone(), permit });
                    Waiting { place: &self.place, number, receiver }
                }
            }
        };
        match timeout(self.queue_time, &mut waiting.receiver).await {
            Ok(Ok(permit)) => Ok(permit),
            _ if self.place.tenant.admission.turns().lacks_memory(self.place.key) => Err(Refused::NoMemory),
            _ => Err(Refused::Late),
        }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.place.tenant.admission.turns().waiting(self.place.key)
    }
}

/// A place in the queue.
struct Waiting<'a> {
    place: &'a Place,
    number: u64,
    receiver: oneshot::Receiver<Permit>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // What is taken out is dropped without the lock.
        let cancelled = self.place.tenant.admission.turns().cancel(self.place.key, self.number);
        drop(cancelled);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let admission = &place.tenant.admission;
            admission.turns().leave(place.key);
            admission.give();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().expect("a runtime without I/O").block_on(test);
    }

    /// A function that is alone among the tenants.
    fn gate(admission: &Arc<Admission>, running: usize, waiting: usize) -> Gate {
        let any = Limits { weight: 256, running: usize::MAX, waiting: usize::MAX, memory: u64::MAX };
        let limits = Limits { weight: 256, running, waiting, memory: 1 };
        Gate::with(TenantGate::with(admission, any), limits, Duration::from_secs(1))
    }

    fn error(entered: Result<Permit, Refused>) -> Refused {
        entered.err().expect("it is refused")
    }

    #[test]
    fn those_who_wait_are_let_in_in_order_and_those_beyond_the_queue_are_not() {
        run(async {
            let gate = gate(&Admission::new(100), 1, 2);
            let permit = gate.enter().await.ok().unwrap();
            let (mut first, mut second) = (pin!(gate.enter()), pin!(gate.enter()));
            assert!(poll(first.as_mut()).is_pending());
            assert!(poll(second.as_mut()).is_pending());
            assert_eq!(gate.waiting(), 2);
            assert_eq!(error(gate.enter().await), Refused::Full);
            drop(permit);
            assert!(poll(second.as_mut()).is_pending(), "the first is before it");
            let Poll::Ready(Ok(permit)) = poll(first.as_mut()) else { panic!("the permit is free") };
            assert!(poll(second.as_mut()).is_pending());
            drop(permit);
            assert!(poll(second.as_mut()).is_ready());
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn nobody_waits_longer_than_allowed() {
        run(async {
            let gate = gate(&Admission::new(100), 1, 1);
            let _permit = gate.enter().await.ok().unwrap();
            let start = tokio::time::Instant::now();
            assert_eq!(error(gate.enter().await), Refused::Late);
            assert_eq!(start.elapsed(), Duration::from_secs(1));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn functions_share_the_permits_of_the_server() {
        run(async {
            let admission = Admission::new(2);
            let (a, b) = (gate(&admission, 2, 2), gate(&admission, 2, 2));
            let permits = [a.enter().await.ok().unwrap(), a.enter().await.ok().unwrap()];
            let (mut third, mut other) = (pin!(a.enter()), pin!(b.enter()));
            assert!(poll(third.as_mut()).is_pending() && poll(other.as_mut()).is_pending());
            let [first, _second] = permits;
            drop(first);
            assert!(poll(third.as_mut()).is_pending(), "a has one");
            let Poll::Ready(Ok(_other)) = poll(other.as_mut()) else { panic!("b has none") };
        });
    }

    #[test]
    fn a_permit_that_comes_too_late_goes_to_the_next() {
        run(async {
            let admission = Admission::new(1);
            let (a, b) = (gate(&admission, 1, 1), gate(&admission, 1, 1));
            let permit = a.enter().await.ok().unwrap();
            let mut second = pin!(b.enter());
            {
                let mut first = Box::pin(a.enter());
                assert!(poll(first.as_mut()).is_pending());
                assert!(poll(second.as_mut()).is_pending());
                // Given to the one that came first of equals, which does not take it any more.
                drop(permit);
            }
            let Poll::Ready(Ok(permit)) = poll(second.as_mut()) else { panic!("the permit is free") };
            drop((permit, second));
            let Ok(_again) = a.enter().await else { panic!("no permit is lost") };
        });
    }
}
