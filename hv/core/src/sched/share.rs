//! The share of the processors that a guest or a group gets.

use std::time::Duration;

/// Weight of a task without a given one.
pub const DEFAULT_WEIGHT: u32 = 256;

/// The largest cap, in percent of one core: that of all 64 virtual CPUs.
pub const MAX_CAP: u32 = 6400;

/// What a guest or a group gets when others want to run as well, and its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    weight: u16,
    cap: u16,
    quota: Option<Quota>,
}

/// CPU time that may be used in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    time: Duration,
    period: Duration,
}

/// An invalid share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The weight is 0 or too large.
    #[error("a weight of {0} is not possible: use 1 to 65535 (a guest without one has 256)")]
    Weight(u32),
    /// The cap is more than any guest can use.
    #[error("a cap of {0} % is not possible: use 1 to {MAX_CAP}, in percent of one core, or 0 for none")]
    Cap(u32),
    /// The period of a quota is out of range.
    #[error("a quota's period of {0:?} is not possible: use 10 ms to 1 hour")]
    Period(Duration),
    /// The CPU time of a quota is out of range.
    #[error(
        "a quota of {time:?} in each {period:?} is not possible: use at least 1 ms, and at most as much as 64 processors have in that time"
    )]
    Quota {
        /// The CPU time.
        time: Duration,
        /// The period.
        period: Duration,
    },
}

impl Quota {
    /// So much CPU time, at least 1 ms, in each period of 10 ms to 1 hour.
    ///
    /// # Errors
    ///
    /// If the period is out of range, or the time is less than 1 ms or more than 64 processors have in the period.
    pub fn new(time: Duration, period: Duration) -> Result<Self, ShareError> {
        const HOUR: Duration = Duration::from_secs(3600);
        if period < Duration::from_millis(10) || period > HOUR {
            return Err(ShareError::Period(period));
        }
        if time < Duration::from_millis(1) || time > period * (MAX_CAP / 100) {
            return Err(ShareError::Quota { time, period });
        }
        Ok(Quota { time, period })
    }

    /// The CPU time of each period.
    pub fn time(self) -> Duration {
        self.time
    }

    /// The length of a period.
    pub fn period(self) -> Duration {
        self.period
    }
}

impl Share {
    /// A weight within 1 to 65535, relative to those of others, and a cap
    /// within 1 to [`MAX_CAP`] percent of one core, or 0 for none.
    ///
    /// # Errors
    ///
    /// If the weight or the cap is out of range.
    pub fn new(weight: u32, cap: u32) -> Result<Self, ShareError> {
        Ok(Share {
            weight: u16::try_from(weight)
                .ok()
                .filter(|&weight| weight != 0)
                .ok_or(ShareError::Weight(weight))?,
            cap: u16::try_from(cap).ok().filter(|_| cap <= MAX_CAP).ok_or(ShareError::Cap(cap))?,
            quota: None,
        })
    }

    /// The same with a quota. A cap bounds what is used at any time, a quota what is used in a longer time.
    #[must_use]
    pub fn with_quota(self, quota: Option<Quota>) -> Self {
        Share { quota, ..self }
    }

    /// Its weight.
    pub fn weight(self) -> u32 {
        self.weight.into()
    }

    /// Its cap, in percent of one core.
    pub fn cap(self) -> Option<u32> {
        (self.cap > 0).then_some(self.cap.into())
    }

    /// Its quota.
    pub fn quota(self) -> Option<Quota> {
        self.quota
    }
}

impl Default for Share {
    fn default() -> Self {
        Share { weight: DEFAULT_WEIGHT as u16, cap: 0, quota: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(Share::new(256, 0), Ok(Share::default()));
        let share = Share::new(65_535, 99).unwrap();
        assert_eq!((share.weight(), share.cap()), (65_535, Some(99)));
        assert_eq!(Share::new(1, MAX_CAP).unwrap().cap(), Some(MAX_CAP));
        for weight in [0, 65_536, u32::MAX] {
            assert_eq!(Share::new(weight, 0), Err(ShareError::Weight(weight)));
        }
        for cap in [6401, 65_536, 65_537, u32::MAX] {
            assert_eq!(Share::new(256, cap), Err(ShareError::Cap(cap)));
        }
        let ms = Duration::from_millis;
        let quota = Quota::new(ms(50), ms(100)).unwrap();
        assert_eq!(Share::default().with_quota(Some(quota)).quota(), Some(quota));
        assert!(Quota::new(ms(1), ms(3_600_000)).is_ok() && Quota::new(ms(640), ms(10)).is_ok());
        for period in [ms(0), ms(9), ms(3_600_001), Duration::MAX] {
            assert_eq!(Quota::new(ms(1), period), Err(ShareError::Period(period)));
        }
        for time in [Duration::ZERO, Duration::from_micros(999), ms(641), Duration::MAX] {
            assert_eq!(Quota::new(time, ms(10)), Err(ShareError::Quota { time, period: ms(10) }));
        }
    }
}
