//! Features of the processor that a guest may have detected and uses.

use std::arch::x86_64::__cpuid_count;
use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Features that are useful in ring 3 without AVX, in the bits of CPUID (Intel SDM volume 2, AMD APM volume 3). A guest
/// that has detected one continues to use it, so a host without it cannot restore the guest.
///
/// This is a saved form. Words: leaf 1 ECX, EDX; leaf 7 EBX, ECX, EDX; leaf
/// 80000001H ECX, EDX; zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Features([u32; 8]);

/// Word, bit, and name.
const NAMES: [(usize, u32, &str); 33] = [
    (0, 0, "sse3"),
    (0, 1, "pclmulqdq"),
    (0, 9, "ssse3"),
    (0, 13, "cmpxchg16b"),
    (0, 19, "sse4.1"),
    (0, 20, "sse4.2"),
    (0, 22, "movbe"),
    (0, 23, "popcnt"),
    (0, 25, "aes"),
    (0, 30, "rdrand"),
    (1, 15, "cmov"),
    (1, 19, "clflush"),
    (2, 0, "fsgsbase"),
    (2, 3, "bmi1"),
    (2, 8, "bmi2"),
    (2, 9, "erms"),
    (2, 18, "rdseed"),
    (2, 19, "adx"),
    (2, 23, "clflushopt"),
    (2, 24, "clwb"),
    (2, 29, "sha"),
    (3, 5, "waitpkg"),
    (3, 8, "gfni"),
    (3, 22, "rdpid"),
    (3, 27, "movdiri"),
    (3, 28, "movdir64b"),
    (4, 4, "fsrm"),
    (4, 14, "serialize"),
    (5, 0, "lahf"),
    (5, 5, "lzcnt"),
    (5, 6, "sse4a"),
    (5, 8, "prefetchw"),
    (6, 27, "rdtscp"),
];

impl Features {
    /// The features of this host's processor.
    pub fn of_host() -> Self {
        let leaf = |number: u32| {
            let has = __cpuid_count(number & 0x8000_0000, 0).eax >= number;
            has.then(|| __cpuid_count(number, 0))
        };
        let mut words = [0; 8];
        if let Some(leaf) = leaf(1) {
            (words[0], words[1]) = (leaf.ecx, leaf.edx);
        }
        if let Some(leaf) = leaf(7) {
            (words[2], words[3], words[4]) = (leaf.ebx, leaf.ecx, leaf.edx);
        }
        if let Some(leaf) = leaf(0x8000_0001) {
            (words[5], words[6]) = (leaf.ecx, leaf.edx);
        }
        let mut known = [0; 8];
        for (word, bit, _) in NAMES {
            known[word] |= 1 << bit;
        }
        Features(std::array::from_fn(|word| words[word] & known[word]))
    }

    /// Those of these that `host` lacks.
    pub fn missing_on(self, host: Features) -> Self {
        Features(std::array::from_fn(|word| self.0[word] & !host.0[word]))
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self == Features::default()
    }
}

/// Most features that are named. A forged snapshot may ask for every one.
const MAX_NAMED: usize = 10;

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.into_iter().enumerate();
        let all = words.flat_map(|(word, bits)| (0..32).map(move |bit| (word, bit, bits & 1 << bit != 0)));
        let mut count = 0;
        for (word, bit, _) in all.filter(|(_, _, set)| *set) {
            let separator = if count == 0 { "" } else { ", " };
            count += 1;
            match NAMES.iter().find(|(w, b, _)| (*w, *b) == (word, bit)) {
                _ if count > MAX_NAMED => {}
                Some((_, _, name)) => write!(f, "{separator}{name}")?,
                None => write!(f, "{separator}feature {word}.{bit}")?,
            }
        }
        match count.saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_named_as_fit_a_line() {
        let few = Features([0x3ff, 0, 0, 0, 0, 0, 0, 0]).to_string();
        assert!(!few.contains("more") && few.matches(", ").count() == 9, "{few}");
        let many = Features([u32::MAX; 8]).to_string();
        assert!(many.ends_with(" and 246 more") && many.len() < 200, "{many}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let host = Features::of_host();
        assert!(host.missing_on(host).is_empty());
        assert!(Features::default().missing_on(host).is_empty());
        assert!(!host.missing_on(Features::default()).is_empty());
        let odd = Features([1 << 9, 0, 0, 0, 0, 0, 0, 1 << 31]);
        assert_eq!(odd.to_string(), "ssse3, feature 7.31");
        assert_eq!(odd.missing_on(Features([u32::MAX; 8])).to_string(), "");
    }
}
