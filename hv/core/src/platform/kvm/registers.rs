//! Conversion of registers from and to KVM's structures.

use super::area::{self, Area, CpuPage};
use crate::platform::{CpuState, Fpu};
use kvm_bindings::{
    KVM_VCPUEVENT_VALID_SHADOW, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xsave,
};
use x86_64::registers::control::{Cr0Flags, Cr4Flags, EferFlags};
use zerocopy::{FromBytes, IntoBytes};

/// Words of the FXSAVE area, which is the start of the XSAVE area.
const FXSAVE_WORDS: usize = 128;
/// XSTATE_BV, behind it: the components that are not in their initial state.
const XSTATE_BV: usize = FXSAVE_WORDS;
/// x87 and SSE.
const X87_AND_SSE: u32 = 3;

/// The general registers of a state.
pub(super) fn general(state: &CpuState) -> kvm_regs {
    let &CpuState { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, .. } = state;
    let &CpuState { r12, r13, r14, r15, rip, rflags, .. } = state;
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

/// An XSAVE area that sets x87 and SSE to a state, and everything else (AVX and beyond, where a guest can use it) to the initial state.
pub(super) fn xsave(fpu: &Fpu) -> kvm_xsave {
    let mut area = kvm_xsave::default();
    area.region[..FXSAVE_WORDS].as_mut_bytes().copy_from_slice(fpu.as_bytes());
    area.region[XSTATE_BV] = X87_AND_SSE;
    area
}

/// No exception, interrupt or NMI in progress, and no interrupt shadow (`mov ss`).
pub(super) fn no_events() -> kvm_vcpu_events {
    kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..kvm_vcpu_events::default() }
}

/// A state from KVM's structures.
pub(super) fn state(regs: &kvm_regs, xsave: &kvm_xsave) -> CpuState {
    let &kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, .. } = regs;
    let &kvm_regs { r12, r13, r14, r15, rip, rflags, .. } = regs;
    let fpu = Fpu::read_from_bytes(xsave.region[..FXSAVE_WORDS].as_bytes()).expect("the sizes are equal");
    CpuState {
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
        fpu,
    }
    .validated()
}

/// Segments, tables and control registers. At every exit they are the same for a virtual CPU with this page, except for
/// the data segments, which ring 3 can load.
pub(super) fn special(area: Area, page: CpuPage, tss: area::TssType) -> kvm_sregs {
    let segment = |selector: u16, type_: u8, code: bool| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    };
    // Accessed code (11) and data (3) segments of ring 3.
    let code = segment(area::USER_CODE, 11, true);
    let data = segment(area::USER_DATA, 3, false);
    let mut sregs = kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            base: page.tss().base,
            limit: u32::from(page.tss().limit),
            selector: area::TSS,
            type_: tss.descriptor_type(),
            present: 1,
            ..kvm_segment::default()
        },
        cr0: (Cr0Flags::PROTECTED_MODE_ENABLE
            | Cr0Flags::MONITOR_COPROCESSOR
            | Cr0Flags::EXTENSION_TYPE
            | Cr0Flags::NUMERIC_ERROR
            | Cr0Flags::WRITE_PROTECT
            | Cr0Flags::PAGING)
            .bits(),
        cr3: area.top_table(),
        cr4: (Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE).bits(),
        // SYSTEM_CALL_EXTENSIONS stays off, so `syscall` is an invalid opcode.
        efer: (EferFlags::LONG_MODE_ENABLE | EferFlags::LONG_MODE_ACTIVE | EferFlags::NO_EXECUTE_ENABLE)
            .bits(),
        ..kvm_sregs::default()
    };
    sregs.ldt.unusable = 1;
    sregs.gdt.base = page.gdt().base;
    sregs.gdt.limit = page.gdt().limit;
    sregs.idt.base = page.idt().base;
    sregs.idt.limit = page.idt().limit;
    sregs
}
