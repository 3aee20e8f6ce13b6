//! Counts of cycles in buckets whose width grows with the value.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

/// Values below this have a bucket each.
const EXACT: u64 = 256;
/// Buckets of each doubling from there on: a value is known to 1/128 of itself.
const PER_OCTAVE: usize = 128;
/// Doublings: values from 2^40 on (minutes) count as the largest.
const OCTAVES: usize = 32;
const BUCKETS: usize = EXACT as usize + OCTAVES * PER_OCTAVE;

/// A histogram of cycle counts: 17 KiB, whatever it holds.
#[derive(Debug)]
pub struct Histogram(Vec<u32>);

impl Default for Histogram {
    fn default() -> Self {
        Histogram(vec![0; BUCKETS])
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    // The eight highest bits of the value, of which the first is set.
    let shift = (u64::BITS - 1 - value.leading_zeros()) as usize - 7;
    let high = (value >> shift) as usize - PER_OCTAVE;
    (EXACT as usize + (shift - 1) * PER_OCTAVE + high).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn value(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(EXACT as usize) else { return bucket as u64 };
    let shift = above / PER_OCTAVE + 1;
    let low = ((above % PER_OCTAVE + PER_OCTAVE) as u64) << shift;
    low + (1 << shift) / 2
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        let count = &mut self.0[bucket(value)];
        *count = count.saturating_add(1);
    }

    /// Values and how often they came, in ascending order.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u32)> {
        let counts = self.0.iter().enumerate().filter(|&(_, &count)| count != 0);
        counts.map(|(bucket, &count)| (value(bucket), count))
    }
}
