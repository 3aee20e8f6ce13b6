//! Work for processors alone: SHA-256, and the product of two matrices. Both come in parts that can be done at the same time.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use sha2::{Digest, Sha256};

/// Bytes that are hashed at a time.
const CHUNK: usize = 64 << 10;

/// A part of several that are as large as each other, as far as that goes: which of `0..whole`.
pub fn part(whole: usize, number: usize, parts: usize) -> Range<usize> {
    whole * number / parts..whole * (number + 1) / parts
}

/// The SHA-256 of each of these MiB of a fixed pattern, one after the other.
pub fn digests(mib: Range<usize>) -> Vec<u8> {
    let chunk: Vec<u8> = (0..CHUNK).map(|index| (index * 31 + (index >> 8)) as u8).collect();
    let one = |number: usize| {
        let mut hash = Sha256::new_with_prefix(number.to_le_bytes());
        (0..(1 << 20) / CHUNK).for_each(|_| hash.update(&chunk));
        hash.finalize()
    };
    mib.flat_map(one).collect()
}

/// The SHA-256 of the digests of all MiB.
pub fn root(digests: &[u8]) -> [u8; 32] {
    Sha256::digest(digests).into()
}

/// Two fixed matrices with as many rows as columns.
pub struct Matrices {
    n: usize,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Matrices {
    /// Those with `n` rows and columns.
    pub fn new(n: usize) -> Self {
        let fill = |factor: usize| (0..n * n).map(|index| (index * factor % 17) as f64 - 8.0).collect();
        Matrices { n, a: fill(7), b: fill(11) }
    }

    /// The sum of the elements in these rows of their product. Every operation is exact, so the sum is the same
    /// everywhere, and those of parts add up to that of all rows.
    pub fn product(&self, rows: Range<usize>) -> f64 {
        let mut out = vec![0.0; self.n];
        let mut sum = 0.0;
        for row in rows {
            out.fill(0.0);
            // The innermost loop runs along rows of both.
            for (factor, line) in self.a[row * self.n..][..self.n].iter().zip(self.b.chunks_exact(self.n)) {
                for (element, value) in out.iter_mut().zip(line) {
                    *element += factor * value;
                }
            }
            sum += out.iter().sum::<f64>();
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_pattern() {
        let pattern: Vec<u8> = (0..CHUNK).map(|index| (index * 31 + (index >> 8)) as u8).collect();
        let of = |number: u64| Sha256::digest([&number.to_le_bytes()[..], &pattern.repeat(16)].concat());
        assert_eq!(digests(0..2), [of(0), of(1)].concat());
        assert_eq!(digests(1..2), of(1)[..]);
        assert_eq!(root(&[])[..4], [0xe3, 0xb0, 0xc4, 0x42], "SHA-256 of nothing");
    }

    #[test]
    fn the_product_of_small_matrices_is_right() {
        assert_eq!(Matrices::new(0).product(0..0), 0.0);
        assert_eq!(Matrices::new(1).product(0..1), 64.0);
        // a = b = [[-8, -1], [6, -4]] for 7; for 11: [[-8, 3], [-3, 8]].
        let first = (-8.0 * -8.0 + -3.0 * -1.0) + (-8.0 * 3.0 - 8.0);
        let second = (6.0 * -8.0 + 12.0) + (18.0 - 32.0);
        let matrices = Matrices::new(2);
        assert_eq!((matrices.product(0..1), matrices.product(1..2)), (first, second));
        assert_eq!(matrices.product(0..2), first + second);
    }

    #[test]
    fn parts_are_the_whole() {
        for (whole, parts) in [(0, 3), (1, 2), (10, 3), (64, 64)] {
            let all: Vec<usize> = (0..parts).flat_map(|number| part(whole, number, parts)).collect();
            assert_eq!(all, (0..whole).collect::<Vec<_>>());
        }
    }
}
