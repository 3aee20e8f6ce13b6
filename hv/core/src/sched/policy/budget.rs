//! Caps: the CPU time that a task may use in each period.

use super::Time;
use std::time::Duration;

/// The period of caps.
pub(in crate::sched) const PERIOD: Duration = Duration::from_millis(10);

const PERIOD_NANOS: u64 = PERIOD.as_nanos() as u64;

/// The CPU time that a capped task may still use.
///
/// Each period adds `cap` percent of itself. Use beyond that is a debt, which the next periods pay. Unused time is kept,
/// up to that of one period, so that a task that had to wait for others in one period can make up for it in the next. In
/// the long run a task that always wants to run gets exactly its cap.
#[derive(Clone, Copy, Debug)]
pub(super) struct CapBudget {
    /// Nanoseconds of CPU time; negative for a debt.
    balance: i64,
    /// Start of the period that the balance belongs to.
    period: Time,
    /// Start of the first period.
    since: Time,
}

impl CapBudget {
    /// A budget whose first period starts now.
    pub(super) fn new(cap: u32, now: Time) -> Self {
        CapBudget { balance: quota(cap), period: now, since: now }
    }

    /// What may be used now.
    pub(super) fn available(&mut self, cap: u32, now: Time) -> i64 {
        let periods = now.saturating_sub(self.period) / PERIOD_NANOS;
        self.period += periods * PERIOD_NANOS;
        if periods > 0 {
            let earned = quota(cap).saturating_mul(i64::try_from(periods).unwrap_or(i64::MAX));
            self.balance = self.balance.saturating_add(earned).min(2 * quota(cap));
        }
        self.balance
    }

    /// CPU time was used, up to now. Use before the first period does not count.
    pub(super) fn spend(&mut self, used: u64, now: Time) {
        self.balance = self.balance.saturating_sub_unsigned(used.min(now.saturating_sub(self.since)));
    }

    /// When CPU time will be available again.
    pub(super) fn refilled(&self, cap: u32) -> Time {
        // One nanosecond more than the debt, in whole periods.
        let missing = 1i64.saturating_sub(self.balance).max(0).unsigned_abs();
        self.period.saturating_add(missing.div_ceil(quota(cap).unsigned_abs()).saturating_mul(PERIOD_NANOS))
    }
}

/// CPU time of one period.
fn quota(cap: u32) -> i64 {
    (PERIOD_NANOS / 100 * u64::from(cap)) as i64
}
