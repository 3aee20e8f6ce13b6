//! The host-owned area: what the processor needs in memory to run a ring-3
//! guest and to report what becomes of it.
//!
//! ```text
//! page 0   GDT, TSS with the I/O permission bitmap, IDT     supervisor, read-write
//! page 1   exception stubs                                  supervisor, execute
//! page 2   the stack of the exception stubs                 supervisor, read-write
//! page 3…  page tables                                      not mapped
//! ```
//!
//! The area is a memory slot of its own. The guest's tables map its first
//! pages for the supervisor only, so ring 3 can neither read nor write them.
//! Formats: Intel SDM volume 3, sections 3.4.5 (segment descriptors), 6.14
//! (64-bit IDT), 7.7 (64-bit TSS), and volume 1, 19.5.2 (I/O permission bitmap).

use super::{DOORBELL_PORT, EXCEPTION_PORT, HYPERCALL_PORT, paging};
use crate::memory::GuestMemory;
use hv_abi::PAGE_SIZE;
use x86_64::structures::gdt::DescriptorFlags;
use x86_64::structures::paging::PageTableFlags as Flags;

/// Guest-physical address of the area; guest memory lies below it.
pub(super) const PHYSICAL: u64 = 1 << 38;
/// Virtual address of the area's first page.
const VIRTUAL: u64 = 0xffff_8000_0000_0000;
/// Guest-physical address of the top page table.
pub(super) const TOP_TABLE: u64 = PHYSICAL + 3 * PAGE_SIZE;

/// Selectors of the GDT below.
pub(super) const KERNEL_CODE: u16 = 0x08;
pub(super) const USER_DATA: u16 = 0x18 | 3;
pub(super) const USER_CODE: u16 = 0x20 | 3;
pub(super) const TSS: u16 = 0x28;

const GDT_OFFSET: u64 = 0;
const GDT_ENTRIES: usize = 7;
const TSS_OFFSET: u64 = 0x80;
const IDT_OFFSET: u64 = 0x200;
/// Vectors of the IDT: the processor's exceptions.
const VECTORS: usize = 32;

/// Bytes of a 64-bit TSS before its I/O bitmap.
const TSS_SIZE: usize = 104;
/// Bytes of the I/O bitmap: ports up to the last one of the ABI, and the
/// closing byte of ones that the processor wants.
const BITMAP_SIZE: usize = (DOORBELL_PORT as usize + 4) / 8 + 1;

/// Bytes from one exception stub to the next.
const STUB_SIZE: u64 = 8;

/// Highest address of the exception stack. The processor aligns it to 16.
const STACK_TOP: u64 = VIRTUAL + 3 * PAGE_SIZE;

/// The processor's frame of an exception, from the lowest address.
#[derive(zerocopy::FromBytes, Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Frame {
    /// Absent from the stack for vectors that have none.
    pub(super) error: u64,
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
    pub(super) ss: u64,
}

/// Which system-descriptor type the TSS gets.
///
/// Hardware wants a *busy* 64-bit TSS (type 11) in TR. QEMU's TCG, when it is
/// what emulates the virtualization below KVM, honours the I/O bitmap only of
/// an *available* one (type 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TssType {
    Busy,
    Available,
}

impl TssType {
    pub(super) fn of_host() -> Self {
        // The signature leaf of hypervisors, Intel's and AMD's convention.
        let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
        let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
        if signature == *b"TCGTCGTCGTCG" { TssType::Available } else { TssType::Busy }
    }

    pub(super) fn descriptor_type(self) -> u8 {
        match self {
            TssType::Busy => 11,
            TssType::Available => 9,
        }
    }
}

/// Address and limit of a table, as the registers want it.
pub(super) struct Table {
    pub(super) base: u64,
    pub(super) limit: u16,
}

pub(super) const GDT: Table = Table { base: VIRTUAL + GDT_OFFSET, limit: (GDT_ENTRIES * 8 - 1) as u16 };
pub(super) const IDT: Table = Table { base: VIRTUAL + IDT_OFFSET, limit: (VECTORS * 16 - 1) as u16 };
pub(super) const TASK: Table =
    Table { base: VIRTUAL + TSS_OFFSET, limit: (TSS_SIZE + BITMAP_SIZE - 1) as u16 };

fn gdt(tss: TssType) -> [u64; GDT_ENTRIES] {
    let limit = u64::from(TASK.limit);
    let base = TASK.base;
    let present = 1 << 47;
    let low = (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | u64::from(tss.descriptor_type()) << 40
        | present
        | (base >> 24 & 0xff) << 56;
    [
        0,
        DescriptorFlags::KERNEL_CODE64.bits(),
        DescriptorFlags::KERNEL_DATA.bits(),
        DescriptorFlags::USER_DATA.bits(),
        DescriptorFlags::USER_CODE64.bits(),
        low,
        base >> 32,
    ]
}

fn tss() -> [u8; TSS_SIZE + BITMAP_SIZE] {
    let mut tss = [0; TSS_SIZE + BITMAP_SIZE];
    // RSP0 at 4, IST1 at 36, the bitmap's offset at 102.
    tss[4..12].copy_from_slice(&STACK_TOP.to_le_bytes());
    tss[36..44].copy_from_slice(&STACK_TOP.to_le_bytes());
    tss[102..104].copy_from_slice(&(TSS_SIZE as u16).to_le_bytes());
    let bitmap = &mut tss[TSS_SIZE..];
    bitmap.fill(0xff);
    // A 4-byte write needs the bits of four ports.
    for port in [HYPERCALL_PORT, DOORBELL_PORT] {
        for port in port..port + 4 {
            bitmap[usize::from(port / 8)] &= !(1 << (port % 8));
        }
    }
    tss
}

fn idt() -> [u64; 2 * VECTORS] {
    let mut idt = [0; 2 * VECTORS];
    for (vector, gate) in idt.chunks_exact_mut(2).enumerate() {
        let handler = VIRTUAL + PAGE_SIZE + vector as u64 * STUB_SIZE;
        // Present, interrupt gate (type 14), privilege 0: `int n` from ring 3
        // becomes a general-protection fault.
        let options: u64 = 0x8e01;
        gate[0] =
            handler & 0xffff | u64::from(KERNEL_CODE) << 16 | options << 32 | (handler >> 16 & 0xffff) << 48;
        gate[1] = handler >> 32;
    }
    idt
}

/// A stub tells the host its vector by the port that it writes to, and leaves
/// every register as it was. It is never returned to.
fn stubs() -> [u8; VECTORS * STUB_SIZE as usize] {
    let mut stubs = [0xcc; VECTORS * STUB_SIZE as usize];
    for (vector, stub) in stubs.chunks_exact_mut(STUB_SIZE as usize).enumerate() {
        let port = EXCEPTION_PORT + vector as u8;
        // out %al, $port; jmp to the out.
        stub[..4].copy_from_slice(&[0xe6, port, 0xeb, 0xfc]);
    }
    stubs
}

/// Whether the processor pushes an error code for this exception.
pub(super) fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Where the processor pushed the frame of an exception of this vector, as an
/// offset in the area.
pub(super) fn frame_offset() -> u64 {
    STACK_TOP - VIRTUAL - size_of::<Frame>() as u64
}

/// The area's content, page by page, for a guest with this memory.
pub(super) fn build(memory: &GuestMemory, tss_type: TssType) -> Vec<u8> {
    let mut tables = paging::Tables::new(TOP_TABLE);
    let base = memory.base().0;
    for (range, access) in memory.map() {
        tables.map(base + range.start..base + range.end, range.start, paging::guest_flags(*access));
    }
    let data = Flags::PRESENT | Flags::ACCESSED | Flags::WRITABLE | Flags::DIRTY | Flags::NO_EXECUTE;
    let code = Flags::PRESENT | Flags::ACCESSED;
    let page = |n: u64| VIRTUAL + n * PAGE_SIZE..VIRTUAL + (n + 1) * PAGE_SIZE;
    tables.map(page(0), PHYSICAL, data);
    tables.map(page(1), PHYSICAL + PAGE_SIZE, code);
    tables.map(page(2), PHYSICAL + 2 * PAGE_SIZE, data);

    let mut area = vec![0; 3 * PAGE_SIZE as usize];
    let mut put = |offset: u64, bytes: &[u8]| area[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    put(GDT_OFFSET, zerocopy::IntoBytes::as_bytes(&gdt(tss_type)));
    put(TSS_OFFSET, &tss());
    put(IDT_OFFSET, zerocopy::IntoBytes::as_bytes(&idt()));
    put(PAGE_SIZE, &stubs());
    for table in tables.bytes() {
        area.extend_from_slice(table);
    }
    area
}

const _: () = {
    assert!(GDT_OFFSET as usize + GDT_ENTRIES * 8 <= TSS_OFFSET as usize);
    assert!(TSS_OFFSET as usize + TSS_SIZE + BITMAP_SIZE <= IDT_OFFSET as usize);
    assert!(IDT_OFFSET as usize + VECTORS * 16 <= PAGE_SIZE as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_opens_the_ports_of_the_abi_and_no_other() {
        let tss = tss();
        let bitmap = &tss[TSS_SIZE..];
        for port in 0..BITMAP_SIZE * 8 {
            let open = bitmap[port / 8] & 1 << (port % 8) == 0;
            let ours = (0xe0..0xe8).contains(&port);
            assert_eq!(open, ours, "port {port:#x}");
        }
        assert_eq!(bitmap.last(), Some(&0xff), "beyond the limit everything is closed");
    }

    #[test]
    fn no_gate_can_be_called_from_ring_3() {
        for gate in idt().chunks_exact(2) {
            assert_eq!(gate[0] >> 45 & 3, 0);
        }
    }
}
