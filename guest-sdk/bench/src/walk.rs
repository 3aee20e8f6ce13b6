//! Work on memory that guest and host do alike. Pure: hv has this file, too.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

/// Bytes that are walked: more than the caches of one core hold.
pub const CHASED: usize = 8 << 20;
/// Bytes that are copied at a time.
pub const COPIED: usize = 1 << 20;

/// Numbers in a line of a cache.
const LINE: usize = 16;

/// A walk over all lines of some memory in a random order, each found in the one before.
pub struct Chase {
    next: Vec<u32>,
    at: u32,
}

impl Default for Chase {
    /// One cycle through all lines (Sattolo's shuffle).
    fn default() -> Chase {
        let lines = CHASED / 4 / LINE;
        let mut order: Vec<u32> = (0..lines as u32).collect();
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for last in (1..lines).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(last, (random >> 33) as usize % last);
        }
        let mut next = vec![0; lines * LINE];
        for (from, to) in order.into_iter().enumerate() {
            next[from * LINE] = to * LINE as u32;
        }
        Chase { next, at: 0 }
    }
}

impl Chase {
    /// Goes to the next line, and returns where it is.
    pub fn step(&mut self) -> u32 {
        self.at = self.next[self.at as usize];
        self.at
    }
}

/// Memory that is copied.
pub struct Copied {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Default for Copied {
    fn default() -> Copied {
        Copied { from: vec![1; COPIED], to: vec![2; COPIED] }
    }
}

impl Copied {
    /// Copies all of it.
    pub fn copy(&mut self) -> u8 {
        self.to.copy_from_slice(&self.from);
        self.to[COPIED / 2]
    }
}
