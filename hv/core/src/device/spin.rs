//! How long to poll for more work before going to sleep.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Usual longest time that a device polls its idle ring before it sleeps. A
/// doorbell costs the guest about 3.4 µs and the wake-up of the reactor up to
/// ten times as much; a guest that waits for each answer needs some 10 to 30 µs
/// to come back. Longer polling costs others more than it saves.
pub const MAX_SPIN: Duration = Duration::from_micros(40);
/// The limit after a first success.
const FIRST: Duration = Duration::from_micros(20);
/// Below this, polling does not pay.
const MIN: Duration = Duration::from_micros(2);

/// Grows when work came soon after the device went to sleep, shrinks when it did not.
#[derive(Debug)]
pub struct Spin {
    max: Duration,
    limit: Duration,
    slept: Option<Instant>,
}

impl Spin {
    /// Polls for `max` at the longest.
    pub fn new(max: Duration) -> Self {
        Spin { max, limit: Duration::ZERO, slept: None }
    }

    /// How long to poll now.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The device has found nothing and goes to sleep.
    pub fn sleeps(&mut self, now: Instant) {
        self.slept = Some(now);
        self.limit /= 2;
        if self.limit < MIN {
            self.limit = Duration::ZERO;
        }
    }

    /// Work has come; if the device slept, it was for this long.
    pub fn works(&mut self, now: Instant) {
        let Some(slept) = self.slept.take() else { return };
        if now.saturating_duration_since(slept) <= self.max {
            self.limit = (self.limit * 4).max(FIRST).min(self.max);
        }
    }
}

/// Polls for news until `limit` after `time`, which becomes the time of the last look. Returns whether there is some.
///
/// # Errors
///
/// That of the look.
pub(super) fn look<E>(
    limit: Duration,
    time: &mut Instant,
    mut has_news: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let until = *time + limit;
    while *time < until {
        for _ in 0..8 {
            if has_news()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        *time = Instant::now();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_guest_is_waited_for_and_an_idle_one_is_not() {
        let mut spin = Spin::new(MAX_SPIN);
        assert_eq!(spin.limit(), Duration::ZERO, "nothing is known yet");
        let mut now = Instant::now();
        spin.sleeps(now);
        now += Duration::from_micros(15);
        spin.works(now);
        assert_eq!(spin.limit(), FIRST);
        spin.works(now);
        assert_eq!(spin.limit(), FIRST, "work without sleep says nothing");
        for _ in 0..8 {
            spin.sleeps(now);
            now += Duration::from_millis(5);
            spin.works(now);
        }
        assert_eq!(spin.limit(), Duration::ZERO);
        for _ in 0..8 {
            spin.sleeps(now);
            now += MAX_SPIN;
            spin.works(now);
        }
        assert_eq!(spin.limit(), MAX_SPIN);
    }
}
