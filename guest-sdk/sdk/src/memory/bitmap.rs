//! A bitmap of pages, and the search for pages in it. Pure: tested on the host.

use core::ops::Range;

/// A bit for each page: set if the page is used.
#[derive(Debug)]
pub(crate) struct Bitmap<'a> {
    words: &'a mut [u64],
    pages: usize,
    /// All pages before this one are used.
    first: usize,
}

impl<'a> Bitmap<'a> {
    /// The words of a bitmap of so many pages.
    pub(crate) const fn words_for(pages: usize) -> usize {
        pages.div_ceil(64)
    }

    /// A bitmap in [`words_for`](Self::words_for) words.
    pub(crate) fn new(words: &'a mut [u64], pages: usize) -> Self {
        debug_assert!(words.len() == Self::words_for(pages));
        Bitmap { words, pages, first: 0 }
    }

    /// The first free page, or the first used one, from a page on; the number of pages if there is none.
    fn next(&self, from: usize, used: bool) -> usize {
        let flip = if used { 0 } else { u64::MAX };
        let mut mask = u64::MAX.checked_shl(from as u32 % 64).unwrap_or(0);
        for word in from / 64..self.words.len() {
            let found = (self.words[word] ^ flip) & mask;
            if found != 0 {
                return (word * 64 + found.trailing_zeros() as usize).min(self.pages);
            }
            mask = u64::MAX;
        }
        self.pages
    }

    /// The first `count` adjacent free pages of which the first one, counted from `base`, has a number that is a multiple of `align`.
    pub(crate) fn find(&self, count: usize, base: usize, align: usize) -> Option<usize> {
        let mut from = self.first;
        loop {
            let start = self.next(from, false);
            let begin = (base + start).checked_next_multiple_of(align)? - base;
            let end = begin.checked_add(count).filter(|end| *end <= self.pages)?;
            match self.next(start, true) {
                used if used >= end => return Some(begin),
                used => from = used,
            }
        }
    }

    /// Whether all pages of a range exist and are free.
    pub(crate) fn is_free(&self, range: Range<usize>) -> bool {
        range.end <= self.pages && self.next(range.start, true) >= range.end
    }

    /// Marks a range as used.
    pub(crate) fn set(&mut self, range: Range<usize>) {
        for (word, mask) in masks(range.clone()) {
            self.words[word] |= mask;
        }
        if range.start <= self.first {
            self.first = self.first.max(range.end);
        }
    }

    /// Marks a range as free.
    pub(crate) fn clear(&mut self, range: Range<usize>) {
        self.first = self.first.min(range.start);
        for (word, mask) in masks(range) {
            self.words[word] &= !mask;
        }
    }

    /// The bits of a word.
    pub(crate) fn word(&self, word: usize) -> u64 {
        self.words[word]
    }
}

/// The words that a range of pages is in, each with the bits of the range.
pub(crate) fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    (range.start / 64..range.end.div_ceil(64)).map(move |word| {
        let from = range.start.saturating_sub(word * 64);
        let to = (range.end - word * 64).min(64);
        (word, (u64::MAX << from) & (u64::MAX >> (64 - to)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn masks_of_ranges() {
        let all = |range| masks(range).collect::<Vec<_>>();
        assert_eq!(all(0..64), [(0, u64::MAX)]);
        assert_eq!(all(3..5), [(0, 0b11000)]);
        assert_eq!(all(63..66), [(0, 1 << 63), (1, 0b11)]);
        assert_eq!(all(64..192), [(1, u64::MAX), (2, u64::MAX)]);
        assert_eq!(all(5..5), []);
    }

    /// Against a simple model, with ranges that are set and cleared in a fixed random order.
    #[test]
    fn the_first_free_pages_are_found() {
        const PAGES: usize = 300;
        let mut words = [0; Bitmap::words_for(PAGES)];
        let mut bitmap = Bitmap::new(&mut words, PAGES);
        let mut model = [false; PAGES];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = |bits: u32| (seed >> bits) as usize;
            let (count, base, align) = (1 + random(33) % 70, random(40) % 7, 1 << (random(45) % 5));
            let fits =
                |at: &usize| (base + at).is_multiple_of(align) && !model[*at..at + count].contains(&true);
            let expected = (0..=PAGES - count).find(fits);
            assert_eq!(bitmap.find(count, base, align), expected, "{count} pages from {base}, by {align}");
            let at = random(50) % (PAGES - count);
            assert_eq!(bitmap.is_free(at..at + count), !model[at..at + count].contains(&true));
            match expected {
                Some(at) if random(55) % 3 != 0 => {
                    bitmap.set(at..at + count);
                    model[at..at + count].fill(true);
                }
                _ => {
                    bitmap.clear(at..at + count);
                    model[at..at + count].fill(false);
                }
            }
        }
        assert_eq!(bitmap.find(PAGES + 1, 0, 1), None);
        assert_eq!(bitmap.find(usize::MAX, 0, 1), None);
        assert!(!bitmap.is_free(PAGES - 1..PAGES + 1));
        let ones: u32 = (0..Bitmap::words_for(PAGES)).map(|word| bitmap.word(word).count_ones()).sum();
        assert_eq!(ones as usize, model.iter().filter(|used| **used).count());
    }
}
