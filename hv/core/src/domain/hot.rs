//! Which pages a clone gets copies of before it runs.
//!
//! The pages that a clone writes are needed anyway. Pages that it only reads could be shared. But the first touch of a
//! shared page costs a fault of 4 to 5 µs, and KVM maps eight neighbours (an aligned group of a page table's entries) at
//! one fault if the host can write to all of them. So whole groups are copied as well, as long as a clone's own memory
//! stays small. The groups that lack the fewest pages come first.
#![forbid(unsafe_code)]

use hv_abi::PAGE_SIZE;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most pages that are copied because they were written.
const WRITTEN: usize = 64;

/// Most pages of a clone, including those that complete a group: 96 KiB.
const WITH_GROUPS: usize = 24;

/// Pages that KVM maps at one fault.
const GROUP: u64 = 8;

fn numbers(ranges: impl Iterator<Item = Range<u64>>) -> impl Iterator<Item = u64> {
    ranges.flat_map(|range| range.start / PAGE_SIZE..range.end / PAGE_SIZE)
}

/// The ranges to copy for guests like one that has written `written`, of a template with this data (whole pages).
pub(super) fn pages(written: Vec<Range<u64>>, data: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut hot: BTreeSet<u64> = numbers(written.into_iter()).take(WRITTEN).collect();
    let mut groups = BTreeMap::<u64, Vec<u64>>::new();
    for page in numbers(data).filter(|page| !hot.contains(page)) {
        groups.entry(page / GROUP).or_default().push(page);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    // Stable: groups that lack the same number of pages stay in ascending order.
    groups.sort_by_key(Vec::len);
    for lacking in groups {
        if hot.len() + lacking.len() > WITH_GROUPS {
            break;
        }
        hot.extend(lacking);
    }
    let mut ranges = Vec::<Range<u64>>::new();
    for start in hot.into_iter().map(|page| page * PAGE_SIZE) {
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end += PAGE_SIZE,
            _ => ranges.push(start..start + PAGE_SIZE),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(pages: Range<u64>) -> Range<u64> {
        pages.start * PAGE_SIZE..pages.end * PAGE_SIZE
    }

    #[test]
    fn groups_are_completed_as_long_as_there_is_room() {
        // The first group lacks one page, the second six, and two more lack eight each. There is space for one of those two.
        let written = vec![range(8..10), range(11..13), range(20..22), range(1000..1001)];
        let data = [range(8..13), range(16..40)];
        let hot = pages(written.clone(), data.clone().into_iter());
        assert_eq!(hot, [range(8..13), range(16..32), range(1000..1001)]);
        assert_eq!(pages(written.clone(), std::iter::empty()), written);
    }

    #[test]
    fn a_guest_that_writes_much_gets_no_more_than_a_beginning_of_it() {
        let much = range(100..100 + 2 * WRITTEN as u64);
        let hot = pages(vec![much], [range(0..8)].into_iter());
        assert_eq!(hot, [range(100..100 + WRITTEN as u64)]);
    }
}
