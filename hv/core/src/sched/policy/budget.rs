//! Caps and quotas: the CPU time that may be used in each period.

use super::super::Share;
use super::Time;
use std::time::Duration;

/// The period of caps.
pub(in crate::sched) const PERIOD: Duration = Duration::from_millis(10);

/// The CPU time that may still be used.
///
/// Each period adds its quota. Use beyond that is a debt, which the next periods pay. In the long run a task that always
/// wants to run gets exactly its quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Nanoseconds of CPU time that each period adds.
    quota: i64,
    /// The length of a period.
    period: u64,
    /// The largest balance.
    most: i64,
    /// Nanoseconds of CPU time; negative for a debt.
    balance: i64,
    /// Start of the period that the balance belongs to.
    start: Time,
    /// Start of the first period.
    since: Time,
}

impl Budget {
    /// The budgets of a share. The first period starts now.
    pub(super) fn of(share: Share, now: Time) -> Vec<Budget> {
        let nanos = |time: Duration| time.as_nanos() as u64;
        // Unused time of one period is kept, so that a task that had to wait for others in one period can make up for
        // it in the next.
        let cap =
            share.cap().map(|cap| Budget::new(nanos(PERIOD) / 100 * u64::from(cap), nanos(PERIOD), 2, now));
        // A quota may be of minutes: what is not used is not added to what the next period allows.
        let quota =
            share.quota().map(|quota| Budget::new(nanos(quota.time()), nanos(quota.period()), 1, now));
        cap.into_iter().chain(quota).collect()
    }

    fn new(quota: u64, period: u64, kept: i64, now: Time) -> Self {
        let quota = quota as i64;
        Budget { quota, period, most: kept * quota, balance: quota, start: now, since: now }
    }

    /// Whether this many tasks could use more.
    pub(super) fn binds(&self, tasks: usize) -> bool {
        self.quota.unsigned_abs() < self.period.saturating_mul(tasks as u64)
    }

    /// What may be used now.
    pub(super) fn available(&mut self, now: Time) -> i64 {
        let periods = now.saturating_sub(self.start) / self.period;
        self.start += periods * self.period;
        if periods > 0 {
            let earned = self.quota.saturating_mul(i64::try_from(periods).unwrap_or(i64::MAX));
            self.balance = self.balance.saturating_add(earned).min(self.most);
        }
        self.balance
    }

    /// CPU time was used, up to now. Use before the first period does not count.
    pub(super) fn spend(&mut self, used: u64, now: Time) {
        self.balance = self.balance.saturating_sub_unsigned(used.min(now.saturating_sub(self.since)));
    }

    /// When CPU time will be available again.
    pub(super) fn refilled(&self) -> Time {
        // One nanosecond more than the debt, in whole periods.
        let missing = 1i64.saturating_sub(self.balance).max(0).unsigned_abs();
        let periods = missing.div_ceil(self.quota.unsigned_abs());
        self.start.saturating_add(periods.saturating_mul(self.period))
    }
}
