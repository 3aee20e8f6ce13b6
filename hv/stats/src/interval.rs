//! Medians of rounds with their 95 % intervals, and ratios of two such medians.
//!
//! An interval is the percentile bootstrap's (Efron 1979): the values are drawn anew with replacement, and the middle 95 % of
//! the medians that come out are it. With few values that is too narrow: of seven rounds it would contain the true median
//! 88 times out of 100. So it is never narrower than the interval between two order statistics, which follows from the
//! binomial distribution and holds for every distribution of the values. Below six values there is none.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How often an interval is to contain what it is about.
pub const CONFIDENCE: f64 = 0.95;

/// Fewest values with an interval: the range of five contains their median 93.75 times out of 100 only.
pub const FEWEST: usize = 6;

/// Draws of a bootstrap: 25 medians lie beyond each end.
const DRAWS: usize = 1000;

/// A median, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The 95 % interval; none with fewer than [`FEWEST`] values.
    pub interval: Option<[f64; 2]>,
    /// How many values there are.
    pub n: u32,
}

impl Estimate {
    /// The median of some values; of none, 0. The draws depend on the seed alone.
    pub fn of(values: impl IntoIterator<Item = f64>, seed: u64) -> Estimate {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let interval = order_statistics(&values).map(|[low, high]| {
            let [drawn_low, drawn_high] = drawn_medians(&values, &mut Rng::with_seed(seed));
            [low.min(drawn_low), high.max(drawn_high)]
        });
        Estimate { median: median(&values), interval, n: values.len() as u32 }
    }

    /// Half of the interval's width, as a part of the median; infinite without an interval.
    pub fn half_width(&self) -> f64 {
        match self.interval {
            Some([low, high]) if self.median > 0.0 => (high - low) / 2.0 / self.median,
            _ => f64::INFINITY,
        }
    }

    /// The same for what is the inverse: a rate instead of a time, the ratio of the second to the first.
    pub fn inverse(&self) -> Estimate {
        let of = |value: f64| 1.0 / value.max(f64::MIN_POSITIVE);
        Estimate {
            median: of(self.median),
            interval: self.interval.map(|[low, high]| [of(high), of(low)]),
            n: self.n,
        }
    }
}

/// The ratio of the medians of two sets of values that do not belong together pair by pair, as two runs' are: `new` by `old`.
///
/// The interval is that of the two medians, put together on a logarithmic scale as the method of variance estimates recovery
/// does (Zou and Donner 2008): each end is as far from the ratio as the root of the sum of squares of the medians' own
/// distances to theirs. `n` is that of the smaller set. Values have to be above 0.
pub fn ratio_of_medians(new: &[f64], old: &[f64], seed: u64) -> Estimate {
    let logs =
        |values: &[f64], seed| Estimate::of(values.iter().map(|v| v.max(f64::MIN_POSITIVE).ln()), seed);
    let (new, old) = (logs(new, seed), logs(old, seed ^ 1));
    let log = new.median - old.median;
    let interval = new.interval.zip(old.interval).map(|([new_low, new_high], [old_low, old_high])| {
        let below = (new.median - new_low).hypot(old_high - old.median);
        let above = (new_high - new.median).hypot(old.median - old_low);
        [(log - below).exp(), (log + above).exp()]
    });
    Estimate { median: log.exp(), interval, n: new.n.min(old.n) }
}

/// The median of sorted values; of none, 0.
pub fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    match n {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The middle [`CONFIDENCE`] of the medians of values that are drawn from sorted ones.
fn drawn_medians(sorted: &[f64], rng: &mut Rng) -> [f64; 2] {
    let n = sorted.len();
    // Places of values instead of values: they are in the same order, and are compared faster.
    let mut drawn = vec![0; n];
    let mut medians: Vec<f64> = (0..DRAWS)
        .map(|_| {
            drawn.fill_with(|| rng.usize(..n));
            let (below, &mut upper, _) = drawn.select_nth_unstable(n / 2);
            let lower = if n % 2 == 1 { upper } else { *below.iter().max().expect("half of them") };
            f64::midpoint(sorted[lower], sorted[upper])
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    let tail = ((1.0 - CONFIDENCE) / 2.0 * DRAWS as f64) as usize;
    [medians[tail], medians[DRAWS - 1 - tail]]
}

/// The narrowest pair of values, as far from the one end as from the other, between which the true median lies with at least
/// [`CONFIDENCE`].
fn order_statistics(sorted: &[f64]) -> Option<[f64; 2]> {
    let n = sorted.len();
    if n < FEWEST {
        return None;
    }
    // How likely it is that at most `left` of n values lie below the median, summed up term by term; by logarithms, since
    // 1/2^n is too small for a float beyond a thousand values.
    let (mut left, mut outside, mut term) = (0, 0.0, -(n as f64) * std::f64::consts::LN_2);
    loop {
        outside += term.exp();
        if 2.0 * outside > 1.0 - CONFIDENCE {
            break;
        }
        term += ((n - left) as f64 / (left + 1) as f64).ln();
        left += 1;
    }
    // `left` values at each end may be left out: at least none, since there are `FEWEST`.
    let left = left.saturating_sub(1);
    Some([sorted[left], sorted[n - 1 - left]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        let estimate = Estimate::of([3.0, 1.0, 2.0], 1);
        assert_eq!(estimate, Estimate { median: 2.0, interval: None, n: 3 });
        assert_eq!(estimate.half_width(), f64::INFINITY);
    }

    #[test]
    fn order_statistics_are_those_of_the_tables() {
        // n, and how many values are left out at each end (any table of the sign test for 95 %).
        for (n, left) in [(6, 0), (8, 0), (9, 1), (12, 2), (15, 3), (20, 5), (25, 7), (40, 13), (100, 39)] {
            let values: Vec<f64> = (0..n).map(f64::from).collect();
            assert_eq!(order_statistics(&values), Some([values[left], values[n as usize - 1 - left]]), "{n}");
        }
        assert_eq!(order_statistics(&[1.0; 5]), None);
        let many: Vec<f64> = (0..5000).map(f64::from).collect();
        let [low, high] = order_statistics(&many).unwrap();
        assert!((high - low - 1.96 * 5000f64.sqrt()).abs() < 3.0, "{low} to {high}");
    }

    #[test]
    fn a_seed_gives_the_same_interval_each_time() {
        let values = || (0..30).map(|n| f64::from(n * n % 17));
        assert_eq!(Estimate::of(values(), 7), Estimate::of(values(), 7));
    }

    /// A value around 1 whose logarithm is spread by `sigma`, with one in twenty far above, as on machines that others use.
    fn noisy(rng: &mut Rng, sigma: f64) -> f64 {
        let normal: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let spike = if rng.u8(..20) == 0 { 1.0 + rng.f64() } else { 1.0 };
        (normal * sigma).exp() * spike
    }

    /// The median of [`noisy`]: a spike turns any value into one above it.
    fn true_median() -> f64 {
        let mut rng = Rng::with_seed(99);
        let mut all: Vec<f64> = (0..200_001).map(|_| noisy(&mut rng, 0.05)).collect();
        all.sort_by(f64::total_cmp);
        median(&all)
    }

    #[test]
    fn intervals_contain_the_median_as_often_as_they_say() {
        let truth = true_median();
        let mut rng = Rng::with_seed(3);
        for n in [6, 7, 10, 15, 30] {
            let contains = |seed| {
                let estimate = Estimate::of((0..n).map(|_| noisy(&mut rng, 0.05)), seed);
                let [low, high] = estimate.interval.unwrap();
                (low..=high).contains(&truth)
            };
            let hits = (0..400).map(contains).filter(|hit| *hit).count();
            // 380 of 400, less three standard deviations.
            assert!(hits >= 367, "n = {n}: {hits} of 400");
        }
    }

    #[test]
    fn ratios_of_two_runs_contain_the_truth_as_often_as_they_say() {
        let mut rng = Rng::with_seed(4);
        for n in [7, 15, 30] {
            let contains = |seed| {
                let mut run = |by: f64| (0..n).map(|_| by * noisy(&mut rng, 0.05)).collect::<Vec<_>>();
                let (old, new) = (run(1.0), run(1.25));
                let [low, high] = ratio_of_medians(&new, &old, seed).interval.unwrap();
                (low..=high).contains(&1.25)
            };
            let hits = (0..400).map(contains).filter(|hit| *hit).count();
            assert!(hits >= 367, "n = {n}: {hits} of 400");
        }
    }

    #[test]
    fn an_inverse_swaps_the_ends() {
        let estimate = Estimate { median: 0.5, interval: Some([0.25, 0.8]), n: 9 };
        assert_eq!(estimate.inverse(), Estimate { median: 2.0, interval: Some([1.25, 4.0]), n: 9 });
    }
}
