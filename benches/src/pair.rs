//! Two ways of doing a thing, timed in turn.
//!
//! Machines are noisy and drift: a ratio of two runs that stand side by side,
//! taken many times, says more than two averages.

use std::time::Duration;

/// What pairs of measurements came to.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Median of the floor.
    pub floor: Duration,
    /// Median of the measured way.
    pub ours: Duration,
    /// Median of the pairwise ratios, ours to the floor.
    pub ratio: f64,
    /// Tenth and ninetieth percentile of the pairwise ratios.
    pub spread: (f64, f64),
}

fn at<T: Copy>(sorted: &[T], part: f64) -> T {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// Times `floor` and `ours` in turn, `pairs` times after a warm-up.
pub fn compare(
    pairs: usize,
    mut floor: impl FnMut() -> Duration,
    mut ours: impl FnMut() -> Duration,
) -> Ratio {
    for _ in 0..pairs.div_ceil(10) {
        floor();
        ours();
    }
    let mut floors = Vec::with_capacity(pairs);
    let mut all = Vec::with_capacity(pairs);
    let mut ratios = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        let (f, o) = (floor(), ours());
        floors.push(f);
        all.push(o);
        ratios.push(o.as_secs_f64() / f.as_secs_f64());
    }
    floors.sort();
    all.sort();
    ratios.sort_by(f64::total_cmp);
    Ratio {
        floor: at(&floors, 0.5),
        ours: at(&all, 0.5),
        ratio: at(&ratios, 0.5),
        spread: (at(&ratios, 0.1), at(&ratios, 0.9)),
    }
}

impl Ratio {
    /// Prints one line of the table in `docs/performance.md`.
    pub fn print(&self, what: &str, reach: &str) {
        println!(
            "ratio: {what} | floor {:.2} µs | hv {:.2} µs | {:.3} ({:.3} to {:.3}) | reach {reach}",
            self.floor.as_secs_f64() * 1e6,
            self.ours.as_secs_f64() * 1e6,
            self.ratio,
            self.spread.0,
            self.spread.1,
        );
    }

    /// Prints the same for things whose speed is compared: more is better.
    pub fn print_speed(&self, what: &str, reach: &str) {
        println!(
            "speed: {what} | floor {:.2} µs | hv {:.2} µs | {:.3} ({:.3} to {:.3}) | reach {reach}",
            self.floor.as_secs_f64() * 1e6,
            self.ours.as_secs_f64() * 1e6,
            1.0 / self.ratio,
            1.0 / self.spread.1,
            1.0 / self.spread.0,
        );
    }
}
