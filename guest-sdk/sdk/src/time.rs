//! ⚠ Time: a monotonic clock that never leaves the guest, the wall clock, and sleep.
#![allow(unsafe_code, reason = "the clock, which the host shares")]

use crate::{event, rt};
use core::sync::atomic::{AtomicU32, Ordering, fence};
pub use core::time::Duration;
use hv_abi::shared_info::{Clock, SharedInfo};

fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has it, and hv lets ring 3 use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The clock's parameters, read without tearing.
fn clock() -> Clock {
    let address = rt::start_info().shared_info.0 as usize + core::mem::offset_of!(SharedInfo, clock);
    let clock = address as *const Clock;
    loop {
        // SAFETY: the shared-info page is mapped for good; `version` is
        // aligned, and is only accessed atomically.
        let version = unsafe { AtomicU32::from_ptr(address as *mut u32) };
        let before = version.load(Ordering::Acquire);
        // SAFETY: mapped and aligned; a torn copy is thrown away below.
        let copy = unsafe { clock.read_volatile() };
        fence(Ordering::Acquire);
        if before.is_multiple_of(2) && version.load(Ordering::Relaxed) == before {
            return copy;
        }
        core::hint::spin_loop();
    }
}

/// Nanoseconds since the guest started.
pub fn now_nanos() -> u64 {
    clock().time_at(tsc())
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn wall_nanos() -> u64 {
    let clock = clock();
    clock.wall_base.wrapping_add(clock.time_at(tsc()))
}

/// A point in time on the guest's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// This very moment.
    pub fn now() -> Self {
        Instant(now_nanos())
    }

    /// The moment this many nanoseconds after the guest's start.
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

/// Waits, without the processor. In async code use [`embassy_time::Timer`]:
/// this form keeps every task waiting.
pub fn sleep(duration: Duration) {
    let deadline = Instant::now() + duration;
    // No device raises this event, so only time ends the wait.
    event::wait_only(hv_abi::event::NONE, Some(deadline));
}
