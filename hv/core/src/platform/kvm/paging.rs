//! The guest's page tables: built once from the access map, owned by the host.
//!
//! Format: Intel SDM volume 3, section 4.5 (4-level paging). The tables are in the host-owned area, to which no entry of
//! the guest's half points.

use crate::memory::Access;
use hv_abi::PAGE_SIZE;
use std::ops::Range;
use x86_64::structures::paging::PageTableFlags as Flags;

const ENTRIES: u64 = 512;
/// Bytes under one entry of a page directory.
const LARGE_PAGE: u64 = PAGE_SIZE * ENTRIES;
/// Bytes under one entry of a page-directory-pointer table.
const GIB: u64 = LARGE_PAGE * ENTRIES;
/// Page tables under construction. The physical page `start + 4096 * n` is table `n`. Only non-zero entries are kept:
/// most entries are zero, and so is the memory that the tables are copied to.
pub(super) struct Tables {
    start: u64,
    count: usize,
    /// Number of the table, index of the entry, and its value.
    entries: Vec<(usize, u64, u64)>,
    /// Tables by what they map: level, and address divided by the level's size.
    known: Vec<(u64, u64, usize)>,
}

/// Flags of an entry that points to another table. The last level restricts the access.
const TABLE: Flags =
    Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER_ACCESSIBLE).union(Flags::ACCESSED);

impl Tables {
    /// An empty top table at physical address `start`.
    pub(super) fn new(start: u64) -> Self {
        Tables { start, count: 1, entries: Vec::with_capacity(1024), known: Vec::with_capacity(16) }
    }

    /// The table whose entries each map `size` bytes, for `address`. Made if absent.
    fn table(&mut self, address: u64, size: u64) -> usize {
        if size == GIB * ENTRIES {
            return 0;
        }
        let covers = address / (size * ENTRIES);
        if let Some(&(_, _, table)) = self.known.iter().find(|&&(s, c, _)| (s, c) == (size, covers)) {
            return table;
        }
        let parent = self.table(address, size * ENTRIES);
        let table = self.count;
        self.count += 1;
        self.known.push((size, covers, table));
        self.set(parent, covers % ENTRIES, (self.start + table as u64 * PAGE_SIZE) | TABLE.bits());
        table
    }

    fn set(&mut self, table: usize, index: u64, value: u64) {
        self.entries.push((table, index, value));
    }

    /// Maps a page-aligned range to consecutive physical pages from `physical`.
    pub(super) fn map(&mut self, range: Range<u64>, physical: u64, flags: Flags) {
        let mut address = range.start;
        while address < range.end {
            let to = physical + (address - range.start);
            let large = address.is_multiple_of(LARGE_PAGE)
                && to.is_multiple_of(LARGE_PAGE)
                && range.end - address >= LARGE_PAGE;
            let (size, flags) =
                if large { (LARGE_PAGE, flags | Flags::HUGE_PAGE) } else { (PAGE_SIZE, flags) };
            let table = self.table(address, size);
            self.set(table, address / size % ENTRIES, to | flags.bits());
            address += size;
        }
    }

    /// Number of tables, one page each.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The non-zero entries: offsets from the top table, and values.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        self.entries.iter().map(|&(table, index, value)| (table as u64 * PAGE_SIZE + index * 8, value))
    }
}

/// Flags of a page that the guest may use in this way. Accessed and dirty are set from the start: hv does not read them,
/// and setting them would cost the guest a fault each.
pub(super) fn guest_flags(access: Access) -> Flags {
    let mut flags = Flags::PRESENT | Flags::USER_ACCESSIBLE | Flags::ACCESSED;
    if access.contains(Access::WRITE) {
        flags |= Flags::WRITABLE | Flags::DIRTY;
    }
    if !access.contains(Access::EXECUTE) {
        flags |= Flags::NO_EXECUTE;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = GIB * ENTRIES;

    /// Walks the tables as the processor would: the physical address and flags of the last level.
    fn walk(tables: &Tables, address: u64) -> Option<(u64, Flags)> {
        let memory: std::collections::HashMap<u64, u64> = tables.entries().collect();
        assert_eq!(memory.len(), tables.entries().count(), "no entry is written twice");
        let mut table = 0;
        for (level, under) in [TOP, GIB, LARGE_PAGE, PAGE_SIZE].into_iter().enumerate() {
            let entry = *memory.get(&(table + address / under % ENTRIES * 8))?;
            let flags = Flags::from_bits_truncate(entry);
            let to = entry & 0x000f_ffff_ffff_f000;
            if level == 3 || flags.contains(Flags::HUGE_PAGE) {
                return Some((to + address % under, flags));
            }
            table = to - tables.start;
            assert!(table < tables.count() as u64 * PAGE_SIZE);
        }
        None
    }

    #[test]
    fn every_page_of_a_range_is_mapped_and_its_neighbours_are_not() {
        let base = 3 * TOP + 511 * GIB + 510 * LARGE_PAGE;
        let mut tables = Tables::new(1 << 38);
        let range = base + PAGE_SIZE..base + 5 * LARGE_PAGE + 3 * PAGE_SIZE;
        tables.map(range.clone(), PAGE_SIZE, guest_flags(Access::READ | Access::WRITE));
        for address in range.clone().step_by(97 * PAGE_SIZE as usize) {
            let (to, flags) = walk(&tables, address).unwrap();
            assert_eq!(to, address - base);
            assert!(flags.contains(Flags::WRITABLE | Flags::USER_ACCESSIBLE | Flags::NO_EXECUTE));
        }
        assert_eq!(walk(&tables, base), None);
        assert_eq!(walk(&tables, range.end), None);
        assert!(tables.count() < 10, "most of it is in large pages");
    }

    #[test]
    fn permissions_are_those_of_the_access_map() {
        let code = guest_flags(Access::READ | Access::EXECUTE);
        assert!(!code.contains(Flags::WRITABLE) && !code.contains(Flags::NO_EXECUTE));
        let constants = guest_flags(Access::READ);
        assert!(!constants.contains(Flags::WRITABLE) && constants.contains(Flags::NO_EXECUTE));
    }
}
