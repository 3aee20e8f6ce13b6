//! Work for the processor alone: SHA-256, and the product of two matrices.

use alloc::vec;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};

/// Bytes that are hashed at a time.
const CHUNK: usize = 64 << 10;

/// The SHA-256 of this many MiB of a fixed pattern.
pub fn digest(mib: usize) -> [u8; 32] {
    let chunk: Vec<u8> = (0..CHUNK).map(|index| (index * 31 + (index >> 8)) as u8).collect();
    let mut hash = Sha256::new();
    for _ in 0..mib * ((1 << 20) / CHUNK) {
        hash.update(&chunk);
    }
    hash.finalize().into()
}

/// The sum of all elements of the product of two fixed matrices with `n` rows
/// and columns. Every operation is exact, so the sum is the same everywhere.
pub fn matrix(n: usize) -> f64 {
    let fill = |factor: usize| (0..n * n).map(|index| (index * factor % 17) as f64 - 8.0).collect();
    let (a, b): (Vec<f64>, Vec<f64>) = (fill(7), fill(11));
    let mut product = vec![0.0; n * n];
    // Row by row, so that the innermost loop runs along rows of both.
    for (row, out) in product.chunks_exact_mut(n.max(1)).enumerate() {
        for (factor, line) in a[row * n..][..n].iter().zip(b.chunks_exact(n)) {
            for (sum, value) in out.iter_mut().zip(line) {
                *sum += factor * value;
            }
        }
    }
    product.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_pattern() {
        // Of 0 bytes; and one that was computed by `sha256sum` over the pattern.
        assert_eq!(digest(0)[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        let pattern: Vec<u8> = (0..CHUNK).map(|index| (index * 31 + (index >> 8)) as u8).collect();
        assert_eq!(digest(1)[..], Sha256::digest(pattern.repeat(16))[..]);
    }

    #[test]
    fn the_product_of_small_matrices_is_right() {
        assert_eq!(matrix(0), 0.0);
        assert_eq!(matrix(1), 64.0);
        // a = b = [[-8, -1], [6, -4]] for 7; for 11: [[-8, 3], [-3, 8]].
        let expected = (-8.0 * -8.0 + -3.0 * -1.0) + (-8.0 * 3.0 - 8.0) + (6.0 * -8.0 + 12.0) + (18.0 - 32.0);
        assert_eq!(matrix(2), expected);
    }
}
