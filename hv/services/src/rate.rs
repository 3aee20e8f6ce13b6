//! How many operations a second a binding takes, and how many bytes connections move.

use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// A bucket that holds a second's worth of operations.
pub(crate) struct Rate(Option<Mutex<Level>>);

struct Level {
    per_second: f64,
    level: f64,
    since: Instant,
}

impl Rate {
    /// So many a second; `None`: any number.
    pub(crate) fn new(per_second: Option<u32>) -> Rate {
        Rate(per_second.map(|count| {
            let per_second = f64::from(count);
            Mutex::new(Level { per_second, level: per_second, since: Instant::now() })
        }))
    }

    /// Whether one more may be done now.
    pub(crate) fn admit(&self, now: Instant) -> bool {
        let Some(bucket) = &self.0 else { return true };
        let bucket = &mut *bucket.lock().expect("no panic while held");
        let passed = now.saturating_duration_since(bucket.since).as_secs_f64();
        bucket.level = (bucket.level + passed * bucket.per_second).min(bucket.per_second);
        bucket.since = now.max(bucket.since);
        let admitted = bucket.level >= 1.0;
        if admitted {
            bucket.level -= 1.0;
        }
        admitted
    }
}

/// How long bytes may be moved beforehand.
const AHEAD: Duration = Duration::from_millis(250);

/// Bytes a second, which wait for their turn.
pub(crate) struct Pace {
    rate: Option<u64>,
    /// When the bytes that were moved are paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    /// So many a second; `None`: any number.
    pub(crate) fn new(rate: Option<u64>) -> Pace {
        Pace { rate, paid: Mutex::new(Instant::now()) }
    }

    /// Waits until bytes that were moved are paid for, which may be beforehand for a moment.
    pub(crate) async fn pay(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let now = Instant::now();
        let due = {
            let paid = &mut *self.paid.lock().expect("no panic while held");
            let earliest = now.checked_sub(AHEAD).unwrap_or(now);
            *paid = (*paid).max(earliest) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
            *paid
        };
        if due > now {
            sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_operations() {
        let (rate, now) = (Rate::new(Some(10)), Instant::now());
        let admitted = |at| (0..100).filter(|_| rate.admit(at)).count();
        assert_eq!(admitted(now), 10);
        assert_eq!(admitted(now + Duration::from_millis(550)), 5);
        assert_eq!(admitted(now + Duration::from_secs(60)), 10);
        assert!((0..1000).all(|_| Rate::new(None).admit(now)));
    }
}
