//! A function that crashes always: it is tried again after longer and longer times. Pure: the caller says what
//! time it is.

use std::time::{Duration, Instant};

/// Crashes in a row that change nothing: bad requests come in bursts.
const FREE: u32 = 20;

/// The first back-off time.
const FIRST: Duration = Duration::from_millis(100);

/// The longest.
const LONGEST: Duration = Duration::from_secs(30);

/// The recent crashes of a function.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Crashes since the last answer that was complete.
    crashes: u32,
    /// When the next request is let in.
    until: Option<Instant>,
}

impl Backoff {
    /// Admits a request, or returns for how long none will be. While a function crashes always, one request
    /// at a time is let in to see whether it still does.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let remaining = self.remaining(now);
        if !remaining.is_zero() {
            return Err(remaining);
        }
        if self.crashes >= FREE {
            self.until = now.checked_add(self.delay());
        }
        Ok(())
    }

    /// A guest has crashed.
    pub(super) fn crashed(&mut self, now: Instant) {
        self.crashes = self.crashes.saturating_add(1);
        if self.crashes >= FREE {
            // Those that were under way already do not make it longer, each by itself.
            self.until = self.until.max(now.checked_add(self.delay()));
        }
    }

    /// A guest has answered completely.
    pub(super) fn answered(&mut self) {
        *self = Backoff::default();
    }

    /// How long no request will be let in.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn delay(&self) -> Duration {
        let doublings = self.crashes.saturating_sub(FREE).min(16);
        (FIRST * (1 << doublings)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_crashes_change_nothing() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        for _ in 1..FREE {
            backoff.crashed(now);
            assert_eq!(backoff.admit(now), Ok(()));
        }
        backoff.answered();
        for _ in 1..FREE {
            backoff.crashed(now);
        }
        assert_eq!(backoff.admit(now), Ok(()), "an answer in between counts");
    }

    #[test]
    fn times_double_up_to_a_bound_and_one_request_at_a_time_tries() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        for _ in 0..FREE {
            assert_eq!(backoff.admit(now), Ok(()));
            backoff.crashed(now);
        }
        let mut wanted = FIRST;
        for _ in 0..20 {
            let wait = backoff.admit(now).unwrap_err();
            assert_eq!(wait, wanted);
            now += wait;
            assert_eq!(backoff.admit(now), Ok(()));
            assert!(backoff.admit(now).is_err(), "one is trying it");
            backoff.crashed(now);
            wanted = (wanted * 2).min(LONGEST);
        }
        assert_eq!(wanted, LONGEST);
        now += LONGEST;
        assert_eq!(backoff.admit(now), Ok(()));
        backoff.answered();
        assert_eq!((backoff.admit(now), backoff.admit(now)), (Ok(()), Ok(())));
    }

    #[test]
    fn one_that_never_ends_does_not_keep_the_next_away_for_ever() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        (0..FREE).for_each(|_| backoff.crashed(now));
        assert_eq!(backoff.admit(now + FIRST), Ok(()));
        assert_eq!(backoff.admit(now + FIRST + LONGEST), Ok(()));
    }
}
