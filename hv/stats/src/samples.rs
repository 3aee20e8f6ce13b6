//! What single operations took: histograms, and the percentiles that so many samples carry.

use hdrhistogram::Histogram;

/// Fewest samples that have to lie beyond a percentile for it to be known: of a thousand samples one lies beyond the
/// 99.9th percentile, and it says as little about it as the largest of any other thousand.
const BEYOND: f64 = 10.0;

/// Times of operations, kept to 0.1 %.
#[derive(Clone, Debug)]
pub struct Samples(Histogram<u64>);

/// The unit of [`Samples`] inside: operations of some nanoseconds have digits, too.
const PICO: f64 = 1000.0;

/// Parts that the samples of a bucket are spread over, as if they were distributed evenly in it.
const PARTS: u64 = 8;

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

    /// Counts samples of which no more is known than that they lie between two times in nanoseconds, evenly distributed over
    /// these: a median would otherwise jump from the middle of a bucket to that of the next.
    pub fn record_between(&mut self, low: f64, high: f64, count: u64) {
        for part in 0..PARTS {
            let share = count * (part + 1) / PARTS - count * part / PARTS;
            if share > 0 {
                let at = (part as f64 + 0.5) / PARTS as f64;
                self.record(low + (high - low) * at, share);
            }
        }
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

    /// The same, if so many samples carry it ([`carries`]).
    pub fn known_percentile(&self, percent: f64) -> Option<f64> {
        carries(percent, self.len()).then(|| self.percentile(percent))
    }

    /// The smallest time in nanoseconds.
    pub fn min(&self) -> f64 {
        self.0.min() as f64 / PICO
    }

    /// The largest time in nanoseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / PICO
    }

    /// The samples in [`bucket`]s: beginnings in picoseconds, ascending, and how many lie in each. Two lists of them are merged by
    /// adding what has the same beginning.
    pub fn buckets(&self) -> Vec<(u64, u64)> {
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for value in self.0.iter_recorded() {
            let (begin, count) = (bucket(value.value_iterated_to()), value.count_at_value());
            match buckets.last_mut() {
                Some(last) if last.0 == begin => last.1 += count,
                _ => buckets.push((begin, count)),
            }
        }
        buckets
    }

    /// The samples of such lists together.
    pub fn of_buckets<'a>(buckets: impl IntoIterator<Item = &'a (u64, u64)>) -> Samples {
        let mut samples = Samples::default();
        for &(begin, count) in buckets {
            // Beginnings of others may be none; counts are theirs, too, and may be absurd.
            let (low, high) = (begin as f64 / PICO, (begin as f64 + width(begin) as f64) / PICO);
            samples.record_between(low, high, count.min(1 << 50));
        }
        samples
    }
}

/// Whether so many samples carry a percentile: at least ten of them lie beyond it, on its nearer side.
pub fn carries(percent: f64, samples: u64) -> bool {
    samples as f64 * percent.min(100.0 - percent) / 100.0 >= BEYOND - 1e-9
}

/// Where the bucket begins that a time in picoseconds falls into: exact below 256, to 1/128 of the value above.
pub fn bucket(picos: u64) -> u64 {
    picos / width(picos) * width(picos)
}

/// How wide the bucket of this time is.
fn width(picos: u64) -> u64 {
    // The eight highest bits of the value stay.
    1 << picos.max(1).ilog2().saturating_sub(7)
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
    fn percentiles_need_ten_samples_beyond() {
        for (percent, fewest) in [(50.0, 20), (90.0, 100), (99.0, 1000), (99.9, 10_000), (10.0, 100)] {
            assert!(!carries(percent, fewest - 1) && carries(percent, fewest), "{percent}");
        }
        assert!(!carries(100.0, u64::MAX) && !carries(0.0, u64::MAX));
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
    fn samples_of_a_bucket_are_spread_over_it() {
        let mut samples = Samples::default();
        samples.record_between(1000.0, 1008.0, 801);
        assert_eq!(samples.len(), 801);
        assert!((samples.percentile(50.0) - 1004.0).abs() < 1.1, "{}", samples.percentile(50.0));
        // A quarter more of them in the next one moves the median by an eighth of a bucket, not by a whole one.
        samples.record_between(1008.0, 1016.0, 200);
        assert!((1004.0..1006.1).contains(&samples.percentile(50.0)), "{}", samples.percentile(50.0));
        samples.record_between(2000.0, 2001.0, 0);
        assert_eq!(samples.len(), 1001);
    }

    #[test]
    fn histograms_are_merged_bucket_by_bucket() {
        let of = |from: u32, to: u32| {
            let mut samples = Samples::default();
            (from..to).for_each(|n| samples.record(f64::from(n) * 1.37, 2));
            samples
        };
        let (one, two, both) = (of(1, 500), of(500, 3000), of(1, 3000));
        let merged = Samples::of_buckets(one.buckets().iter().chain(&two.buckets()));
        assert_eq!(merged.len(), both.len());
        for percent in [1.0, 50.0, 99.0] {
            let (a, b) = (merged.percentile(percent), both.percentile(percent));
            assert!((a / b - 1.0).abs() < 0.01, "{percent} %: {a} and {b}");
        }
        assert!(both.buckets().is_sorted_by(|a, b| a.0 < b.0));
        assert!(both.buckets().iter().all(|&(begin, _)| bucket(begin) == begin));
    }

    #[test]
    fn buckets_are_exact_below_256_and_to_a_128th_above() {
        assert_eq!([0, 1, 255, 256, 257, 258, 1000].map(bucket), [0, 1, 255, 256, 256, 258, 1000]);
        for value in [300u64, 12_345, 1 << 40, u64::MAX] {
            assert!(bucket(value) <= value && (value - bucket(value)) * 128 <= value, "{value}");
        }
    }
}
