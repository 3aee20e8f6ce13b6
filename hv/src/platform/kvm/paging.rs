//! The guest's page tables: built once from the access map, owned by the host.
//!
//! Format: Intel SDM volume 3, section 4.5 (4-level paging). The tables live in
//! the host-owned area, which no entry of the guest's half points to.

use crate::memory::Access;
use hv_abi::PAGE_SIZE;
use std::ops::Range;
use x86_64::structures::paging::PageTableFlags as Flags;

const ENTRIES: u64 = 512;
/// Bytes under one entry of a page directory.
const LARGE_PAGE: u64 = PAGE_SIZE * ENTRIES;
/// Bytes under one entry of a page-directory-pointer table.
const GIB: u64 = LARGE_PAGE * ENTRIES;
/// Bytes under one entry of the top table.
const TOP: u64 = GIB * ENTRIES;

/// Page tables under construction: physical page `start + 4096 * n` is table `n`.
pub(super) struct Tables {
    start: u64,
    tables: Vec<[u64; ENTRIES as usize]>,
}

/// Flags of an entry that points to another table: the last level decides.
const TABLE: Flags =
    Flags::PRESENT.union(Flags::WRITABLE).union(Flags::USER_ACCESSIBLE).union(Flags::ACCESSED);

impl Tables {
    /// An empty top table at physical address `start`.
    pub(super) fn new(start: u64) -> Self {
        Tables { start, tables: vec![[0; ENTRIES as usize]] }
    }

    /// The table below entry `index` of table `table`, made if absent.
    fn below(&mut self, table: usize, index: u64) -> usize {
        let entry = self.tables[table][index as usize];
        if entry != 0 {
            return ((entry & 0x000f_ffff_ffff_f000) - self.start) as usize / PAGE_SIZE as usize;
        }
        let new = self.tables.len();
        self.tables.push([0; ENTRIES as usize]);
        self.tables[table][index as usize] = (self.start + new as u64 * PAGE_SIZE) | TABLE.bits();
        new
    }

    fn directory(&mut self, address: u64) -> usize {
        let pointers = self.below(0, address / TOP % ENTRIES);
        self.below(pointers, address / GIB % ENTRIES)
    }

    /// Maps a page-aligned range to consecutive physical pages from `physical`.
    pub(super) fn map(&mut self, range: Range<u64>, physical: u64, flags: Flags) {
        let mut address = range.start;
        while address < range.end {
            let to = physical + (address - range.start);
            let directory = self.directory(address);
            let index = address / LARGE_PAGE % ENTRIES;
            let large = address.is_multiple_of(LARGE_PAGE)
                && to.is_multiple_of(LARGE_PAGE)
                && range.end - address >= LARGE_PAGE;
            if large {
                self.tables[directory][index as usize] = to | (flags | Flags::HUGE_PAGE).bits();
                address += LARGE_PAGE;
            } else {
                let table = self.below(directory, index);
                self.tables[table][(address / PAGE_SIZE % ENTRIES) as usize] = to | flags.bits();
                address += PAGE_SIZE;
            }
        }
    }

    /// The tables' bytes, in the order of their physical pages.
    pub(super) fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        self.tables.iter().map(|table| zerocopy::IntoBytes::as_bytes(table.as_slice()))
    }
}

/// Flags of a page that the guest may use in this way. Accessed and dirty are
/// set from the start, since nobody reads them and setting them would cost the
/// guest a fault each.
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

    /// Walks the tables as the processor would: the physical address and flags of the last level.
    fn walk(tables: &Tables, address: u64) -> Option<(u64, Flags)> {
        let mut table = 0;
        for (level, under) in [TOP, GIB, LARGE_PAGE, PAGE_SIZE].into_iter().enumerate() {
            let entry = tables.tables[table][(address / under % ENTRIES) as usize];
            let flags = Flags::from_bits_truncate(entry);
            if !flags.contains(Flags::PRESENT) {
                return None;
            }
            let to = entry & 0x000f_ffff_ffff_f000;
            if level == 3 || flags.contains(Flags::HUGE_PAGE) {
                return Some((to + address % under, flags));
            }
            table = ((to - tables.start) / PAGE_SIZE) as usize;
        }
        None
    }

    #[test]
    fn every_page_of_a_range_is_mapped_and_its_neighbours_are_not() {
        let base = 3 * TOP + 511 * GIB + 510 * LARGE_PAGE;
        let mut tables = Tables::new(1 << 38);
        let range = base + PAGE_SIZE..base + 5 * LARGE_PAGE + 3 * PAGE_SIZE;
        tables.map(range.clone(), PAGE_SIZE, guest_flags(Access::READ | Access::WRITE));
        for address in range.clone().step_by(PAGE_SIZE as usize) {
            let (to, flags) = walk(&tables, address).unwrap();
            assert_eq!(to, address - base);
            assert!(flags.contains(Flags::WRITABLE | Flags::USER_ACCESSIBLE | Flags::NO_EXECUTE));
        }
        assert_eq!(walk(&tables, base), None);
        assert_eq!(walk(&tables, range.end), None);
        assert!(tables.tables.len() < 10, "most of it is in large pages");
    }

    #[test]
    fn permissions_are_those_of_the_access_map() {
        let code = guest_flags(Access::READ | Access::EXECUTE);
        assert!(!code.contains(Flags::WRITABLE) && !code.contains(Flags::NO_EXECUTE));
        let constants = guest_flags(Access::READ);
        assert!(!constants.contains(Flags::WRITABLE) && constants.contains(Flags::NO_EXECUTE));
    }
}
