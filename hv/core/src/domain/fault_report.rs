//! From a dead guest to its crash report: what the fault means, in words, and the backtrace.

use super::cpu_copy::CpuCopy;
use crate::crash::{Backtrace, CrashReport};
use crate::loader::Image;
use crate::memory::{Access, GuestMemory};
use crate::platform::{Fault, Registers};
use hv_abi::GuestAddr;
use std::sync::Arc;

/// A dead guest.
pub(super) struct Body<'a> {
    pub(super) name: &'a str,
    pub(super) image: &'a Arc<Image>,
    pub(super) image_base: u64,
    pub(super) memory: &'a GuestMemory,
    /// The stack's lowest address.
    pub(super) stack: u64,
    /// The stack's bytes.
    pub(super) stack_size: u64,
}

impl Body<'_> {
    /// The report of an exception or a similar fault.
    pub(super) fn of_fault(&self, fault: &Fault, mut registers: Registers) -> FaultRecord {
        match fault {
            Fault::Shutdown => return self.remains("triple fault".into(), None),
            Fault::Port(port) => {
                let reason = format!("used port {port:#x} in another way than the hypercall page does");
                return self.remains(reason, Some(registers));
            }
            Fault::Killed => {
                let reason = "the host's kernel ended the guest's process: a broken signal stack, processor time taken out of turn, or no memory left";
                return self.remains(reason.into(), None);
            }
            Fault::Unparked => {
                let reason = "the process that waited for the guest was interrupted meanwhile, by a debugger or a freezer, and was not used any more";
                return self.remains(reason.into(), None);
            }
            Fault::Crossing => {
                let reason = "crossed to the host in another way than the hypercall page does";
                return self.remains(reason.into(), Some(registers));
            }
            Fault::Exception { .. } => {}
        }
        let &Fault::Exception { vector, error, address } = fault else { unreachable!("matched above") };
        (registers.error_code, registers.cr2) = (error, address);
        if let Some(at) = self.system_call(vector, &registers) {
            // The backtrace starts at the call's own address, so that it leads to the caller.
            registers.rip = at;
            let reason =
                "made a Linux system call: a crate took the guest for a Linux program (see docs/guests.md)";
            return self.remains(reason.into(), Some(registers));
        }
        let reason = match vector {
            14 => self.page_fault(error, address, &registers),
            13 => self.protection_fault(error, &registers),
            6 => self.invalid_opcode(&registers),
            _ => format!("{} (vector {vector})", exception(vector)),
        };
        self.remains(reason, Some(registers))
    }

    /// The crash record of a guest that ends for this reason.
    pub(super) fn remains(&self, reason: String, registers: Option<Registers>) -> FaultRecord {
        FaultRecord { guest: self.name.into(), reason, cpu: self.copy_cpu(registers) }
    }

    /// A virtual CPU with these registers, for a backtrace.
    pub(super) fn copy_cpu(&self, registers: Option<Registers>) -> CpuCopy {
        CpuCopy::new(self.image.clone(), self.image_base, self.memory, registers)
    }

    fn code<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut code = [0; N];
        self.memory.read(GuestAddr(address), &mut code).ok()?;
        Some(code)
    }

    /// The address of the `syscall` instruction that led to this exception, if
    /// one did. On hardware it is an invalid opcode. On kvm_pvm it jumps to
    /// LSTAR, which is zero, with the address behind it in RCX (Intel SDM
    /// volume 2, SYSCALL).
    fn system_call(&self, vector: u8, registers: &Registers) -> Option<u64> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let at = match vector {
            6 => registers.rip,
            14 if registers.rip == 0 => registers.rcx.checked_sub(2)?,
            _ => return None,
        };
        (self.code(at)? == SYSCALL).then_some(at)
    }

    fn page_fault(&self, error: u64, address: u64, registers: &Registers) -> String {
        // Bits of the error code: Intel SDM volume 3, section 4.7.
        const PRESENT: u64 = 1;
        const WRITE: u64 = 2;
        const FETCH: u64 = 16;
        let what = match error {
            e if e & FETCH != 0 => "execution of",
            e if e & WRITE != 0 => "write to",
            _ => "read of",
        };
        if address < 4096 {
            return format!("null pointer: {what} address {address:#x}");
        }
        let start = address.wrapping_sub(self.memory.base().0);
        let map = self.memory.map();
        if error & PRESENT != 0 || error & FETCH != 0 && start < self.memory.size() {
            let place = match map.iter().find(|(range, _)| range.contains(&start)) {
                Some((_, access)) if access.contains(Access::EXECUTE) => "the guest's code",
                Some((_, access)) if access.contains(Access::WRITE) => "memory that is not code",
                Some(_) => "read-only memory",
                None => "memory of the host",
            };
            return format!("page fault: {what} {place}, address {address:#x}");
        }
        // Slightly below the stack, and the stack pointer of the code is near there too.
        const NEAR: u64 = 64 << 10;
        let below = |value: u64| self.stack.checked_sub(value).is_some_and(|distance| distance <= NEAR);
        if below(address) && below(registers.rsp.saturating_sub(4096)) {
            return format!(
                "stack overflow: the stack of {} KiB is used up ({what} address {address:#x}, below it); \
                 `--stack SIZE` gives more",
                self.stack_size >> 10
            );
        }
        format!("page fault: {what} unmapped address {address:#x}")
    }

    fn invalid_opcode(&self, registers: &Registers) -> String {
        match self.code::<2>(registers.rip) {
            // What kvm_pvm reports for software interrupts.
            Some([0xcd, vector]) => format!("invalid opcode: `int {vector:#x}`"),
            _ => exception(6).into(),
        }
    }

    fn protection_fault(&self, error: u64, registers: &Registers) -> String {
        let why = match self.code::<2>(registers.rip) {
            // With the error code of an IDT entry: a gate that ring 3 may not use.
            Some([0xcd, vector]) if error & 2 != 0 => format!("`int {vector:#x}`"),
            Some([0xfa | 0xfb, _]) => "`cli` or `sti`: guests mask events in shared-info".into(),
            Some([0xf4, _]) => "`hlt`: guests wait with the block hypercall".into(),
            Some([0x0f, 0x30 | 0x32]) => "`wrmsr` or `rdmsr`".into(),
            Some([0x0f, 0x01]) => "a privileged instruction (`lgdt` and its like)".into(),
            Some([0xe4..=0xe7, port]) => format!("I/O port {port:#x}"),
            Some([0xec..=0xef | 0x6c..=0x6f, _]) => format!("I/O port {:#x}", registers.rdx as u16),
            _ => "a privileged instruction, or an address that is not canonical".into(),
        };
        format!("general protection fault: {why} (error code {error:#x})")
    }
}

/// Everything that a crash report is made of, copied from a guest so that nothing has to wait for the report.
pub(super) struct FaultRecord {
    guest: String,
    pub(super) reason: String,
    cpu: CpuCopy,
}

impl FaultRecord {
    /// The report, with all details that are found within the budget.
    pub(super) fn report(self) -> CrashReport {
        let backtrace = self.cpu.backtrace();
        self.with(backtrace)
    }

    /// The report without anything that needs a lookup, and the reason.
    pub(super) fn without_names(self, missing: &'static str) -> CrashReport {
        let backtrace = self.cpu.without_names(missing);
        self.with(backtrace)
    }

    fn with(self, backtrace: Backtrace) -> CrashReport {
        let Backtrace { frames, missing } = backtrace;
        let registers = self.cpu.registers;
        CrashReport { guest: self.guest, reason: self.reason, registers, backtrace: frames, missing }
    }
}

/// Names of the processor's exceptions (Intel SDM volume 3, table 6-1).
fn exception(vector: u8) -> &'static str {
    match vector {
        0 => "division error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available: the guest used AVX or other state that it does not have",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack segment fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        20 => "virtualization exception",
        21 => "control protection exception",
        _ => "unknown exception",
    }
}
