//! The clocks that measurements read, and what reading them takes.
#![forbid(unsafe_code)]

use hv_host::clock::tsc;
use hv_stats::interval::median;
use rustix::time::{ClockId, clock_gettime};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Processor time that this process has used: all of its threads, guests included.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time of so many cycles of the time-stamp counter, in nanoseconds.
pub fn cycles_to_nanos(cycles: f64) -> f64 {
    cycles * 1e6 / f64::from(hv_host::clock::tsc_khz())
}

/// The median of what a sample of nothing takes.
fn of_nothing(sample: impl Fn() -> f64) -> f64 {
    let mut samples: Vec<f64> = (0..1001).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    median(&samples)
}

/// Nanoseconds that a sample between two readings of the time-stamp counter contains of these, in this process.
pub fn counter_overhead() -> f64 {
    static OVERHEAD: LazyLock<f64> = LazyLock::new(|| {
        of_nothing(|| {
            let start = tsc();
            cycles_to_nanos((tsc() - start) as f64)
        })
    });
    *OVERHEAD
}

/// The same for two readings of the monotonic clock.
pub fn clock_overhead() -> f64 {
    static OVERHEAD: LazyLock<f64> =
        LazyLock::new(|| of_nothing(|| Instant::now().elapsed().as_nanos() as f64));
    *OVERHEAD
}

/// The time since a reading of the time-stamp counter, in nanoseconds, without what the readings take.
pub fn nanos_since(start: u64) -> f64 {
    (cycles_to_nanos((tsc() - start) as f64) - counter_overhead()).max(0.0)
}

/// The time since a reading of the monotonic clock, without what the readings take.
pub fn since(start: Instant) -> Duration {
    start.elapsed().saturating_sub(Duration::from_nanos(clock_overhead() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_clock_takes_some_time_and_less_than_an_operation() {
        for overhead in [counter_overhead(), clock_overhead()] {
            assert!((1.0..100_000.0).contains(&overhead), "{overhead}");
        }
        assert_eq!(counter_overhead(), counter_overhead());
    }
}
