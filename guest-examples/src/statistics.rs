//! What a list of numbers is like.

use alloc::vec::Vec;

/// What there is to say about some numbers.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Statistics {
    /// How many there are.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// How far they are from the mean: the population's standard deviation.
    pub deviation: f64,
}

/// Statistics over finite numbers; `None` if there are none.
pub fn of(mut numbers: Vec<f64>) -> Option<Statistics> {
    let count = numbers.len();
    numbers.sort_unstable_by(f64::total_cmp);
    let (&min, &max) = (numbers.first()?, numbers.last()?);
    // Welford's method: no sum grows beyond what the numbers themselves are.
    let (mut mean, mut squares) = (0.0, 0.0);
    for (n, number) in (1..).map(f64::from).zip(&numbers) {
        let before = number - mean;
        mean += before / n;
        squares += before * (number - mean);
    }
    let median = f64::midpoint(numbers[(count - 1) / 2], numbers[count / 2]);
    Some(Statistics { count, min, max, mean, median, deviation: libm::sqrt(squares / count as f64) })
}
