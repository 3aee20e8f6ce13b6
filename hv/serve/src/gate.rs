//! Admission: how many requests of a function are in guests, and how many wait.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Seats for guests, those of one function within those of the server.
/// Whoever waits is let in in the order of coming.
#[derive(Debug)]
pub(super) struct Gate {
    seats: Arc<Semaphore>,
    /// The server's.
    shared: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    queue_time: Duration,
}

/// The right to use a guest, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    _seat: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

/// Why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many wait already.
    Full,
    /// It has waited for as long as it may.
    Late,
}

impl Gate {
    /// `capacity` seats, of those that `shared` has; up to `queue` may wait for `queue_time`.
    pub(super) fn new(capacity: usize, shared: Arc<Semaphore>, queue: usize, queue_time: Duration) -> Self {
        let seats = Arc::new(Semaphore::new(capacity));
        Gate { seats, shared, waiting: AtomicUsize::new(0), queue, queue_time }
    }

    /// Takes a seat, or waits for one.
    pub(super) async fn enter(&self) -> Result<Seat, Refused> {
        if let Some(seat) = self.at_once() {
            return Ok(seat);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        let _place = QueuePlace(&self.waiting);
        timeout(self.queue_time, self.in_turn()).await.map_err(|_| Refused::Late)
    }

    fn at_once(&self) -> Option<Seat> {
        let seat = self.seats.clone().try_acquire_owned().ok()?;
        let shared = self.shared.clone().try_acquire_owned().ok()?;
        Some(Seat { _seat: seat, _shared: shared })
    }

    async fn in_turn(&self) -> Seat {
        let take = async |seats: &Arc<Semaphore>| {
            seats.clone().acquire_owned().await.expect("nobody closes the semaphores")
        };
        Seat { _seat: take(&self.seats).await, _shared: take(&self.shared).await }
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
            let seat = gate.enter().await.unwrap();
            let (mut first, mut second) = (pin!(gate.enter()), pin!(gate.enter()));
            assert!(poll(first.as_mut()).is_pending());
            assert!(poll(second.as_mut()).is_pending());
            assert_eq!(gate.waiting(), 2);
            assert_eq!(gate.enter().await.unwrap_err(), Refused::Full);
            drop(seat);
            assert!(poll(second.as_mut()).is_pending(), "the first is before it");
            let Poll::Ready(Ok(seat)) = poll(first.as_mut()) else { panic!("the seat is free") };
            assert!(poll(second.as_mut()).is_pending());
            drop(seat);
            assert!(poll(second.as_mut()).is_ready());
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn nobody_waits_longer_than_allowed() {
        run(async {
            let gate = Gate::new(1, plenty(), 1, Duration::from_secs(1));
            let _seat = gate.enter().await.unwrap();
            let start = tokio::time::Instant::now();
            assert_eq!(gate.enter().await.unwrap_err(), Refused::Late);
            assert_eq!(start.elapsed(), Duration::from_secs(1));
            assert_eq!(gate.waiting(), 0);
        });
    }

    #[test]
    fn functions_share_the_seats_of_the_server() {
        run(async {
            let shared = Arc::new(Semaphore::new(2));
            let gate = |capacity| Gate::new(capacity, shared.clone(), 1, Duration::from_secs(1));
            let (a, b) = (gate(2), gate(2));
            let seats = (a.enter().await.unwrap(), b.enter().await.unwrap());
            let mut third = pin!(a.enter());
            assert!(poll(third.as_mut()).is_pending());
            drop(seats.1);
            let Poll::Ready(Ok(_third)) = poll(third.as_mut()) else { panic!("a seat is free") };
            assert!(poll(pin!(b.enter()).as_mut()).is_pending(), "a has taken both");
        });
    }
}
