//! How many operations a second a binding takes.

use std::sync::Mutex;
use std::time::Instant;

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
