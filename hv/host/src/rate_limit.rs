//! Limits how much guests may cause hv to log: a token bucket. Pure: the caller says what time it is.

use std::time::{Duration, Instant};

/// The bytes that may still be logged. It fills up with time.
///
/// A message may be logged while the level is above zero. It may be larger than the level, which is negative
/// then. So the size of a message need not be known beforehand.
#[derive(Debug)]
pub struct Bucket {
    capacity: u64,
    per_second: u64,
    /// Below zero after a message that was larger than what was left. In bytes.
    level: i64,
    /// When the level was computed.
    since: Instant,
    left_out: u64,
}

impl Bucket {
    /// A full one: up to `capacity` bytes at once, and `per_second` (at least one) in the long run.
    pub fn new(capacity: u64, per_second: u64, now: Instant) -> Bucket {
        Bucket { capacity, per_second, level: capacity as i64, since: now, left_out: 0 }
    }

    /// Whether a message may be logged now. If so, [`charge`](Self::charge) is to be called with its size; if
    /// not, it is counted.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.fill(now);
        let allows = self.level > 0;
        self.left_out += u64::from(!allows);
        allows
    }

    /// A message of so many bytes was logged.
    pub fn charge(&mut self, bytes: usize) {
        // No message is that long; nothing here wraps.
        self.level -= bytes.min(1 << 30) as i64;
    }

    /// The count of messages that were left out and not reported yet, if a report may be logged now.
    pub fn take_left_out(&mut self, now: Instant) -> Option<u64> {
        self.fill(now);
        let left_out = (self.level > 0 && self.left_out > 0).then_some(self.left_out);
        self.left_out -= left_out.unwrap_or(0);
        left_out
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let filled = passed.as_nanos().saturating_mul(self.per_second.into()) / 1_000_000_000;
        if filled == 0 {
            return;
        }
        let room = (self.capacity as i64).saturating_sub(self.level) as u128;
        if filled >= room {
            (self.level, self.since) = (self.capacity as i64, now);
        } else {
            self.level += filled as i64;
            // The rest, less than a byte, counts the next time.
            let nanos = (filled * 1_000_000_000).div_ceil(self.per_second.into());
            self.since += Duration::from_nanos(nanos as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 10, start);
        for _ in 0..10 {
            assert!(bucket.allows(start));
            bucket.charge(10);
        }
        assert!(!bucket.allows(start) && !bucket.allows(start));
        assert_eq!(bucket.take_left_out(start), None, "there is no room to say so");
        let later = start + SECOND;
        assert_eq!(bucket.take_left_out(later), Some(2));
        assert_eq!(bucket.take_left_out(later), None);
        assert!(bucket.allows(later));
    }

    #[test]
    fn what_a_message_is_too_large_by_is_waited_for() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 10, start);
        assert!(bucket.allows(start));
        bucket.charge(150);
        assert!(!bucket.allows(start + 5 * SECOND));
        assert!(bucket.allows(start + 6 * SECOND));
    }

    #[test]
    fn it_does_not_save_up_more_than_it_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 10, start);
        let later = start + 1_000_000 * SECOND;
        assert!(bucket.allows(later));
        bucket.charge(100);
        assert!(!bucket.allows(later));
        assert!(!bucket.allows(start), "a clock that goes back gives nothing");
    }

    proptest! {
        #[test]
        fn in_the_long_run_no_more_than_the_rate_is_told(
            steps in prop::collection::vec((0u64..2_000_000_000, 0usize..300), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(1000, 100, start);
            let (mut now, mut told, mut largest) = (start, 0, 0);
            for (nanos, bytes) in steps {
                now += Duration::from_nanos(nanos);
                if bucket.allows(now) {
                    bucket.charge(bytes);
                    told += bytes as u64;
                    largest = largest.max(bytes as u64);
                }
                let filled = (now - start).as_nanos() as u64 / 10_000_000;
                prop_assert!(told <= 1000 + filled + largest, "{told} of {filled}");
            }
        }
    }
}
