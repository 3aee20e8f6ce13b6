//! ⚠ The guest's clocks, read without leaving it.
#![allow(unsafe_code, reason = "`rdtsc`")]

use crate::shared_info;
use core::time::Duration;

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has it, and hv lets ring 3 use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since the guest started.
pub fn now_nanos() -> u64 {
    let (clock, tsc) = shared_info::clock(tsc);
    clock.time_at(tsc)
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn wall_nanos() -> u64 {
    let (clock, tsc) = shared_info::clock(tsc);
    clock.wall_base.wrapping_add(clock.time_at(tsc))
}

/// A point in time on the guest's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The current time.
    pub fn now() -> Self {
        Instant(now_nanos())
    }

    /// The time this many nanoseconds after the guest's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    /// Nanoseconds after the guest's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since then.
    pub fn elapsed(self) -> Duration {
        Duration::from_nanos(now_nanos().saturating_sub(self.0))
    }
}

impl core::ops::Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl core::ops::Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
