//! Samples, percentiles and spreads. Pure but for the reading of this process's clock.
#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Times of operations, kept to 0.1 %.
#[derive(Clone, Debug)]
pub struct Samples(Histogram<u64>);

/// The unit of [`Samples`] inside: operations of some nanoseconds have digits, too.
const PICO: f64 = 1000.0;

impl Default for Samples {
    fn default() -> Self {
        Samples(Histogram::new(3).expect("three digits are possible"))
    }
}

impl Samples {
    /// Counts a time in nanoseconds, `count` times.
    pub fn record(&mut self, nanos: f64, count: u64) {
        // Beyond days there is nothing to tell apart.
        let picos = (nanos * PICO).clamp(1.0, 1e18) as u64;
        self.0.record_n(picos, count).expect("the histogram grows");
    }

    /// Takes over the times of others.
    pub fn add(&mut self, other: &Samples) {
        self.0.add(&other.0).expect("the histogram grows");
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time in nanoseconds that this share of all, in percent, does not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / PICO
    }

    /// The smallest time in nanoseconds.
    pub fn min(&self) -> f64 {
        self.0.min() as f64 / PICO
    }

    /// The largest time in nanoseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / PICO
    }
}

/// A middle and how far from it most values are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The tenth percentile.
    pub low: f64,
    /// The ninetieth percentile.
    pub high: f64,
}

impl Spread {
    /// Median and tails of some values; of none, zeroes.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Spread { median: at(&values, 0.5), low: at(&values, 0.1), high: at(&values, 0.9) }
    }

    /// Whether two spreads have a value in common.
    pub fn meets(&self, other: &Spread) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// The value below which this part of the sorted values lies, interpolated.
fn at(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = part * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Processor time that this process has used: all of its threads, guests included.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time of so many cycles of the time-stamp counter, in nanoseconds.
pub fn cycles_to_nanos(cycles: f64) -> f64 {
    cycles * 1e6 / f64::from(hv_host::clock::tsc_khz())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut samples = Samples::default();
        (1..=1000).for_each(|n| samples.record(f64::from(n) * 10.0, 1));
        for (percent, nanos) in [(50.0, 5000.0), (90.0, 9000.0), (99.0, 9900.0), (99.9, 9990.0)] {
            let found = samples.percentile(percent);
            assert!((found / nanos - 1.0).abs() < 0.002, "{percent} %: {found} for {nanos}");
        }
        assert_eq!(samples.len(), 1000);
    }

    #[test]
    fn times_below_a_nanosecond_and_absurd_ones_are_kept() {
        let mut samples = Samples::default();
        samples.record(0.25, 3);
        assert!((samples.percentile(50.0) - 0.25).abs() < 0.001);
        samples.record(f64::MAX, 1);
        samples.record(-1.0, 1);
        assert_eq!(samples.len(), 5);
    }

    #[test]
    fn spreads() {
        let spread = Spread::of([3.0, 1.0, 2.0]);
        assert_eq!((spread.median, spread.low, spread.high), (2.0, 1.2, 2.8));
        assert_eq!(Spread::of([]).median, 0.0);
        assert_eq!(Spread::of([7.0]), Spread { median: 7.0, low: 7.0, high: 7.0 });
        let other = |low, high| Spread { median: low, low, high };
        assert!(spread.meets(&other(2.8, 9.0)) && !spread.meets(&other(2.9, 9.0)));
    }
}
