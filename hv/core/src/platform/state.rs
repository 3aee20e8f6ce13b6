//! The state of a virtual CPU between two exits, the same for every platform.

use super::Registers;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The state of a virtual CPU that is in its guest's code, not in a hypercall: everything that ring 3 can hold in a
/// processor without AVX.
///
/// This is a saved form: snapshots contain it unchanged.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "registers are called what the processor's manual calls them")]
pub struct CpuState {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fpu: Fpu,
}

const _: () = assert!(size_of::<CpuState>() == 18 * 8 + 512);

/// x87 and SSE state, in the layout of the 64-bit FXSAVE area (Intel SDM volume
/// 1, section 10.5.1).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "as above")]
pub struct Fpu {
    pub fcw: u16,
    pub fsw: u16,
    /// Abridged tag word: a bit for each register that is not empty.
    pub ftw: u8,
    pub reserved: u8,
    pub fop: u16,
    pub fip: u64,
    pub fdp: u64,
    pub mxcsr: u32,
    pub mxcsr_mask: u32,
    pub st: [[u8; 16]; 8],
    pub xmm: [[u8; 16]; 16],
    pub unused: [u64; 12],
}

/// The bits of RFLAGS that belong to ring 3: the arithmetic flags, and the direction flag. Interrupts are always on.
/// Stepping and alignment checks are off, since there is no handler for them.
const FLAGS: u64 = 0xcd5;
const FLAGS_ALWAYS: u64 = 1 << 9 | 1 << 1;
/// The bits of MXCSR that are not reserved.
const MXCSR: u32 = 0xffff;

impl CpuState {
    /// The state of a virtual CPU at a program's start.
    pub fn at_entry(rip: u64, rsp: u64, rdi: u64) -> Self {
        // The values after FNINIT and a reset (Intel SDM volume 3, table 9-1).
        let fpu = Fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Fpu::new_zeroed() };
        CpuState { rip, rsp, rdi, rflags: FLAGS_ALWAYS, fpu, ..CpuState::new_zeroed() }
    }

    /// The state of a virtual CPU that does not run until it is started.
    pub fn stopped() -> Self {
        CpuState::at_entry(0, 0, 0)
    }

    /// Whether this is the state of a virtual CPU that does not run: no guest has code at address 0.
    pub fn is_stopped(&self) -> bool {
        self.rip == 0
    }

    /// The part of the state that a virtual CPU may load, whatever its origin: without bits that a processor refuses, and
    /// without bits that do not belong to ring 3.
    pub fn validated(mut self) -> Self {
        self.rflags = self.rflags & FLAGS | FLAGS_ALWAYS;
        self.fpu.mxcsr &= MXCSR;
        (self.fpu.reserved, self.fpu.mxcsr_mask, self.fpu.unused) = (0, 0, [0; 12]);
        self
    }

    /// The part that crash reports contain.
    pub fn registers(&self) -> Registers {
        let &CpuState { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, .. } = self;
        let &CpuState { r12, r13, r14, r15, rip, rflags, .. } = self;
        Registers {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
            ..Registers::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_are_not_the_guests_are_dropped() {
        let mut state = CpuState::at_entry(1, 2, 3);
        assert_eq!(state.clone().validated(), state);
        state.rflags = u64::MAX;
        state.fpu.mxcsr = u32::MAX;
        let validated = state.validated();
        let (trap, iopl, nested) = (1 << 8, 3 << 12, 1 << 14);
        assert_eq!(validated.rflags & (trap | iopl | nested), 0);
        assert_eq!(validated.rflags >> 16, 0);
        assert_eq!(validated.fpu.mxcsr, 0xffff);
    }
}
