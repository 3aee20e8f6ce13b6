//! Admission: how many requests of a function are in guests, and how many wait.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Permits for guests, those of one function within those of the server.
/// Waiting requests get permits in the order of arrival.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Arc<Semaphore>,
    /// The permits of the server.
    shared: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    queue_time: Duration,
}

/// The right to use a guest, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _permit: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many wait already.
    Full,
    /// It has waited for `queue_time`.
    Late,
}

impl Gate {
    /// `capacity` permits, of those that `shared` has; up to `queue` may wait for `queue_time`.
    pub(super) fn new(capacity: usize, shared: Arc<Semaphore>, queue: usize, queue_time: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(capacity));
        Gate { permits, shared, waiting: AtomicUsize::new(0), queue, queue_time }
    }

    /// Takes a permit, or waits for one.
    pub(super) async fn enter(&self) -> Result<Permit, Refused> {
        if let Some(permit) = self.at_once() {
            return Ok(permit);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        let _place = QueuePlace(&self.waiting);
        timeout(self.queue_time, self.in_turn()).await.map_err(|_| Refused::Late)
    }

    fn at_once(&self) -> Option<Permit> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        let shared = self.shared.clone().try_acquire_owned().ok()?;
        Some(Permit { _permit: permit, _shared: shared })
    }

    async fn in_turn(&self) -> Permit {
        let take = async |permits: &Arc<Semaphore>| {
            permits.clone().acquire_owned().await.expect("nobody closes the semaphores")
        };
        Permit { _permit: take(&self.permits).await, _shared: take(&self.shared).await }
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the queue.
struct QueuePlace<'a>(&'a AtomicUsize);

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    fn plenty() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(100))
    }

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().expect("a runtime without I/O").block_on(test);
    }

    #[test]
    fn those_who_wait_are_let_in_in_order_and_those_beyond_the_queue_are_not() {
        run(async {
            let gate = Gate::new(1, plenty(), 2, Duration::from_secs(1));
            let permit = gate.enter().await.unwrap();
            let (mut first, mut second) = (pin!(gate.enter()), pin!(gate.enter()));
            assert!(poll(first.as_mut()).is_pending());
            assert!(poll(second.as_mut()).is_pending());
            assert_eq!(gate.waiting(), 2);
            assert_eq!(gate.enter().await.unwrap_err(), Refused::Full);
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
            let gate = Gate::new(1, plenty(), 1, Duration::from_secs(1));
            let _permit = gate.enter().await.unwrap();
            let start = tokio::time::Instant::now();
            assert_eq!(gate.enter().await.unwrap_err(), Refused::Late);
            assert_eq!(start.elapsed(), Duration::from_secs(1));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn functions_share_the_permits_of_the_server() {
        run(async {
            let shared = Arc::new(Semaphore::new(2));
            let gate = |capacity| Gate::new(capacity, shared.clone(), 1, Duration::from_secs(1));
            let (a, b) = (gate(2), gate(2));
            let permits = (a.enter().await.unwrap(), b.enter().await.unwrap());
            let mut third = pin!(a.enter());
            assert!(poll(third.as_mut()).is_pending());
            drop(permits.1);
            let Poll::Ready(Ok(_third)) = poll(third.as_mut()) else { panic!("a permit is free") };
            assert!(poll(pin!(b.enter()).as_mut()).is_pending(), "a has taken both");
        });
    }
}
