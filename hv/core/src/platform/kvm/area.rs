//! The host-owned area: what the processor needs in memory to run a ring-3 guest and to report its exceptions.
//!
//! ```text
//! pages 0 to n-1   one for each virtual CPU: GDT, TSS with     supervisor, read-write
//!                  the I/O permission bitmap, IDT, and the
//!                  stack of the exception stubs
//! page n           exception stubs                             supervisor, execute
//! page n+1 …       page tables                                 not mapped
//! ```
//!
//! The area is in the tail of the guest's memory, behind the last byte that the guest's own addresses reach. It is in the
//! same memory slot (a slot of its own would cost 15 µs at each start). The guest's tables map the first pages of the
//! area for the supervisor only, at the start of the guest's window, where the guest has no pages. Ring 3 can neither
//! read nor write them.
//! Formats: Intel SDM volume 3, sections 3.4.5 (segment descriptors), 6.14
//! (64-bit IDT), 7.7 (64-bit TSS), and volume 1, 19.5.2 (I/O permission bitmap).

mod opening;

use super::{DOORBELL_PORT, EXCEPTION_PORT, HYPERCALL_PORT, paging};
use crate::memory::GuestMemory;
use crate::platform::{PlatformError, reserved};
use hv_abi::PAGE_SIZE;
use x86_64::structures::gdt::DescriptorFlags;
use x86_64::structures::paging::PageTableFlags as Flags;
use zerocopy::{FromBytes, IntoBytes};

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
/// Bytes of the I/O bitmap: ports up to the last one of the ABI, and the final byte of ones that the processor requires.
const BITMAP_SIZE: usize = (DOORBELL_PORT as usize + 4) / 8 + 1;

/// Bytes from one exception stub to the next.
const STUB_SIZE: u64 = 8;

/// Where the exception stack ends, from the start of a virtual CPU's page. The processor aligns it to 16.
const STACK_TOP: u64 = PAGE_SIZE;

/// The processor's frame of an exception, from the lowest address; it ends at the stack's top.
#[derive(FromBytes, Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct ExceptionFrame {
    /// Not on the stack for vectors without an error code.
    pub(super) error: u64,
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
    pub(super) ss: u64,
}

/// The system-descriptor type of the TSS.
///
/// Hardware requires a *busy* 64-bit TSS (type 11) in TR. QEMU's TCG uses the I/O bitmap only of an *available* one (type
/// 9); this matters where TCG emulates the virtualization below KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TssType {
    Busy,
    Available,
}

impl TssType {
    pub(super) fn of_host() -> Self {
        // The signature leaf of hypervisors: a convention of Intel and AMD.
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

/// Address and limit of a table, in the form of the registers.
pub(super) struct DescriptorTable {
    pub(super) base: u64,
    pub(super) limit: u16,
}

/// The area of one guest.
#[derive(Clone, Copy)]
pub(super) struct Area {
    /// Guest-physical address, which is its offset in the memory's mapping.
    physical: u64,
    /// Virtual address.
    base: u64,
    /// Memory of the guest.
    vcpus: usize,
}

/// The page of one virtual CPU in an [`Area`].
#[derive(Clone, Copy)]
pub(super) struct CpuPage {
    /// Guest-physical address.
    physical: u64,
    /// Virtual address.
    base: u64,
}

impl Area {
    /// The area of a guest with this memory and so many virtual CPUs.
    pub(super) fn of(memory: &GuestMemory, vcpus: usize) -> Self {
        Area { physical: memory.size(), base: memory.base().0, vcpus }
    }

    /// The page of this virtual CPU. Virtual CPUs are counted from 0.
    pub(super) fn page(self, number: usize) -> CpuPage {
        assert!(number < self.vcpus);
        let offset = number as u64 * PAGE_SIZE;
        CpuPage { physical: self.physical + offset, base: self.base + offset }
    }

    /// Bytes before the page tables. These are mapped.
    fn tables(self) -> u64 {
        reserved(self.vcpus)
    }

    /// From the start of the area.
    fn stubs(self) -> u64 {
        self.tables() - PAGE_SIZE
    }

    /// Whether code at this address is the host's own ring-0 code.
    pub(super) fn contains(self, address: u64) -> bool {
        (self.base..self.base + self.tables()).contains(&address)
    }

    /// Guest-physical address of the top page table.
    pub(super) fn top_table(self) -> u64 {
        self.physical + self.tables()
    }

    /// Fills the area, which is zeroed. Fails if the tables do not fit into the tail.
    pub(super) fn build(self, memory: &GuestMemory, tss_type: TssType) -> Result<(), PlatformError> {
        let first = self.tables();
        let mut tables = paging::Tables::new(self.top_table());
        let supervisor = Flags::PRESENT | Flags::ACCESSED;
        let data = supervisor | Flags::WRITABLE | Flags::DIRTY | Flags::NO_EXECUTE;
        let stubs = self.stubs();
        tables.map(self.base..self.base + stubs, self.physical, data);
        tables.map(self.base + stubs..self.base + first, self.physical + stubs, supervisor);
        for (range, access) in memory.map() {
            // The layout leaves the first pages of the window free for this.
            assert!(range.start >= first, "a guest page where the host's are");
            tables.map(
                self.base + range.start..self.base + range.end,
                range.start,
                paging::guest_flags(*access),
            );
        }
        if first + tables.count() as u64 * PAGE_SIZE > memory.tail() {
            return Err(PlatformError::TooLarge(memory.size()));
        }
        memory.populate(self.physical..self.physical + first + tables.count() as u64 * PAGE_SIZE);
        (0..self.vcpus).for_each(|number| self.page(number).build(memory, self.base + stubs, tss_type));
        memory.host_write(self.physical + stubs, &self::stubs());
        for (offset, entry) in tables.entries() {
            memory.host_write(self.physical + first + offset, &entry.to_le_bytes());
        }
        Ok(())
    }
}

impl CpuPage {
    pub(super) fn gdt(self) -> DescriptorTable {
        DescriptorTable { base: self.base + GDT_OFFSET, limit: (GDT_ENTRIES * 8 - 1) as u16 }
    }

    pub(super) fn idt(self) -> DescriptorTable {
        DescriptorTable { base: self.base + IDT_OFFSET, limit: (VECTORS * 16 - 1) as u16 }
    }

    pub(super) fn tss(self) -> DescriptorTable {
        DescriptorTable { base: self.base + TSS_OFFSET, limit: (TSS_SIZE + BITMAP_SIZE - 1) as u16 }
    }

    /// The frame that the processor pushed for an exception of this vector.
    pub(super) fn frame(self, memory: &GuestMemory, vector: u8) -> ExceptionFrame {
        let mut bytes = [0; size_of::<ExceptionFrame>()];
        memory.host_read(self.physical + STACK_TOP - bytes.len() as u64, &mut bytes);
        let mut frame = ExceptionFrame::read_from_bytes(&bytes).expect("the sizes are equal");
        if !has_error_code(vector) {
            frame.error = 0;
        }
        frame
    }

    fn build(self, memory: &GuestMemory, stubs: u64, tss_type: TssType) {
        let put = |offset: u64, bytes: &[u8]| memory.host_write(self.physical + offset, bytes);
        put(GDT_OFFSET, gdt(self.tss(), tss_type).as_bytes());
        put(TSS_OFFSET, &tss(self.base + STACK_TOP));
        put(IDT_OFFSET, idt(stubs).as_bytes());
    }
}

fn gdt(task: DescriptorTable, tss: TssType) -> [u64; GDT_ENTRIES] {
    let limit = u64::from(task.limit);
    let base = task.base;
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

fn tss(stack: u64) -> [u8; TSS_SIZE + BITMAP_SIZE] {
    let mut tss = [0; TSS_SIZE + BITMAP_SIZE];
    // RSP0 at 4, IST1 at 36, the bitmap's offset at 102.
    tss[4..12].copy_from_slice(&stack.to_le_bytes());
    tss[36..44].copy_from_slice(&stack.to_le_bytes());
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

fn idt(stubs: u64) -> [u64; 2 * VECTORS] {
    let mut idt = [0; 2 * VECTORS];
    for (vector, gate) in idt.chunks_exact_mut(2).enumerate() {
        let handler = stubs + vector as u64 * STUB_SIZE;
        // Present, interrupt gate (type 14), privilege 0: `int n` from ring 3
        // becomes a general-protection fault. The stack is IST1.
        let options: u64 = 0x8e01;
        gate[0] =
            handler & 0xffff | u64::from(KERNEL_CODE) << 16 | options << 32 | (handler >> 16 & 0xffff) << 48;
        gate[1] = handler >> 32;
    }
    idt
}

/// A stub reports its vector to the host by the port that it writes to, and changes no register. The host never resumes it.
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
fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

const _: () = {
    assert!(GDT_OFFSET as usize + GDT_ENTRIES * 8 <= TSS_OFFSET as usize);
    assert!(TSS_OFFSET as usize + TSS_SIZE + BITMAP_SIZE <= IDT_OFFSET as usize);
    // The rest of the page is the stack. A frame is 48 bytes, and exceptions do not nest.
    assert!(IDT_OFFSET as usize + VECTORS * 16 + 1024 <= PAGE_SIZE as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_opens_the_ports_of_the_abi_and_no_other() {
        let tss = tss(0);
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
        for gate in idt(0x1000).chunks_exact(2) {
            assert_eq!(gate[0] >> 45 & 3, 0);
        }
    }
}
