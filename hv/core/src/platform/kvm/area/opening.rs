//! Opens ports and pages of emulated hardware to a guest.
//!
//! Only the guests of `hv bench` that measure emulation need this. The I/O bitmap grows behind the TSS, up to the IDT.
//! The pages get tables of their own at the end of the tail, below the first entry of the top table: no guest has memory under that entry.

use super::super::paging::{self, Tables};
use super::{Area, CpuPage, DescriptorTable, IDT_OFFSET, TSS_OFFSET, TSS_SIZE, TssType, gdt, tss};
use crate::memory::{Access, GuestMemory};
use crate::platform::{Opening, PlatformError};
use hv_abi::PAGE_SIZE;
use zerocopy::IntoBytes;

/// Most bytes of the I/O bitmap, with its closing byte.
const MAX_BITMAP: usize = IDT_OFFSET as usize - TSS_OFFSET as usize - TSS_SIZE;
/// Tables for one range of pages below 4 GiB that crosses no 2 MiB boundary: one of each level.
const LEVELS: u64 = 4;

impl CpuPage {
    fn open(self, memory: &GuestMemory, bitmap: &[u8], limit: u16, tss_type: TssType) {
        let task = DescriptorTable { base: self.tss().base, limit };
        memory.host_write(self.physical + TSS_OFFSET + TSS_SIZE as u64, bitmap);
        memory.host_write(self.physical + super::GDT_OFFSET, gdt(task, tss_type).as_bytes());
    }
}

impl Area {
    /// Opens ports and pages in an area that is already filled. Returns the limit of the TSS.
    pub(in super::super) fn open(
        self,
        memory: &GuestMemory,
        opening: &Opening,
        tss_type: TssType,
    ) -> Result<u16, PlatformError> {
        self.map_pages(memory, opening)?;
        let bitmap = bitmap(opening);
        let limit = (TSS_SIZE + bitmap.len() - 1) as u16;
        for number in 0..self.vcpus {
            self.page(number).open(memory, &bitmap, limit, tss_type);
        }
        Ok(limit)
    }

    fn map_pages(self, memory: &GuestMemory, opening: &Opening) -> Result<(), PlatformError> {
        let pages = &opening.pages;
        if pages.is_empty() {
            return Ok(());
        }
        let end = self.physical + memory.tail();
        if pages.start < end {
            return Err(PlatformError::TooLarge(memory.size()));
        }
        assert!(pages.end <= 1 << 32 && pages.start >> 21 == (pages.end - 1) >> 21, "{pages:?}");
        let start = end - LEVELS * PAGE_SIZE;
        let mut last = [0; PAGE_SIZE as usize];
        memory.host_read(start, &mut last);
        if last.iter().any(|&byte| byte != 0) {
            return Err(PlatformError::TooLarge(memory.size()));
        }
        let mut tables = Tables::new(start);
        tables.map(pages.clone(), pages.start, paging::guest_flags(Access::READ | Access::WRITE));
        for (offset, entry) in tables.entries() {
            // The first of these tables stands for the guest's top table.
            let to = if offset < PAGE_SIZE { self.top_table() } else { start };
            memory.host_write(to + offset, &entry.to_le_bytes());
        }
        Ok(())
    }
}

/// The I/O bitmap with more ports than those of the ABI.
fn bitmap(opening: &Opening) -> Vec<u8> {
    let mut bitmap = tss(0)[TSS_SIZE..].to_vec();
    for port in opening.ports.iter().cloned().flatten().map(usize::from) {
        assert!(port >= 256, "the ABI's own ports are not for devices");
        if bitmap.len() < port / 8 + 2 {
            bitmap.resize(port / 8 + 2, 0xff);
        }
        bitmap[port / 8] &= !(1 << (port % 8));
    }
    assert!(bitmap.len() <= MAX_BITMAP, "ports of devices are below {:#x}", (MAX_BITMAP - 1) * 8);
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_ports_that_are_named_are_opened() {
        let opening = Opening { ports: vec![0x1f0..0x1f8, 0x608..0x60c], pages: 0..0 };
        let bitmap = bitmap(&opening);
        for port in 0..bitmap.len() * 8 {
            let open = bitmap[port / 8] & 1 << (port % 8) == 0;
            let ours = (0xe0..0xe8).contains(&port);
            assert_eq!(open, ours || opening.ports.iter().any(|p| p.contains(&(port as u16))), "{port:#x}");
        }
        assert_eq!(bitmap.last(), Some(&0xff), "beyond the limit everything is closed");
        assert_eq!(super::bitmap(&Opening::default()), tss(0)[TSS_SIZE..]);
    }
}
