//! ⚠ Where code of the guest and of the stub meet: what must be written in assembly.
//!
//! A kick of hv may come at any instruction, and must neither be lost nor interrupt the
//! stub where it shares the page with hv. Inside of the stub it only sets `PENDING`, which
//! is looked at on each way out. A kick between that look and the first instruction
//! of the guest goes back to the look: `hv_return` and `hv_resume` have no effect up to their last instruction.
#![allow(unsafe_code, reason = "its assembly")]

use crate::handoff;
use crate::supervisor;
use core::arch::global_asm;
use hv_stub::{FIRST_DOORBELL, PAGE, field, kind};

/// Bytes of the stack on which the stub runs when it has to have one of its own.
const OWN_STACK: usize = 32 << 10;

global_asm!(
    ".bss",
    ".balign 64",
    // What `hv_resume` restores: an XSAVE area; the registers in the order of the pops; a frame for `iretq`.
    ".globl hv_xsave", "hv_xsave: .skip {max_xsave}",
    ".globl hv_frame", "hv_frame: .skip 20 * 8",
    ".globl hv_xsave_size", "hv_xsave_size: .skip 8",
    ".globl hv_pending", "hv_pending: .skip 8",
    ".balign 16",
    "hv_own_stack: .skip {own_stack}",
    "hv_own_stack_end:",
    ".text",

    ".globl hv_start",
    "hv_start:",
    "mov rdi, rsp",
    "lea rsp, [hv_own_stack_end]",
    "xor ebp, ebp",
    "call {supervisor}",

    // From the hypercall page: arguments in RDI, RSI, RDX, the number in ECX.
    ".globl hv_hypercall",
    "hv_hypercall:",
    "mov r8d, {hypercall}",
    ".Lcall:",
    "mov [{registers} + 8 * 1], rbx",
    "mov [{registers} + 8 * 6], rbp",
    "lea rax, [rsp + 8]",
    "mov [{registers} + 8 * 7], rax",
    "mov [{registers} + 8 * 12], r12",
    "mov [{registers} + 8 * 13], r13",
    "mov [{registers} + 8 * 14], r14",
    "mov [{registers} + 8 * 15], r15",
    "mov rax, [rsp]",
    "mov [{registers} + 8 * 16], rax",
    "fnstcw [{fpu}]",
    "stmxcsr [{fpu} + 24]",
    "mov [{arguments}], rdi",
    "mov [{arguments} + 8], rsi",
    "mov [{arguments} + 16], rdx",
    "mov [{number}], ecx",
    "mov [{kind}], r8d",
    "sub rsp, 8",
    "call {cross}",
    "add rsp, 8",
    "mov rax, [{result}]",
    "cmp dword ptr [{redirect}], 0",
    "jne 4f",
    ".globl hv_return",
    "hv_return:",
    "cmp byte ptr [hv_pending], 0",
    "jne 3f",
    "ret",
    ".globl hv_return_end",
    "hv_return_end:",

    // Kicked in a call: out of it as far as the guest sees, and then interrupted.
    "3:",
    "pop r10",
    "mov r11, rsp",
    "jmp 5f",
    // Sent elsewhere.
    "4:",
    "mov dword ptr [{redirect}], 0",
    "mov r10, [{registers} + 8 * 16]",
    "mov r11, [{registers} + 8 * 7]",
    // The guest goes on at R10 with the stack R11, as after a call.
    "5:",
    "mov [hv_frame + 8 * 0], r15",
    "mov [hv_frame + 8 * 1], r14",
    "mov [hv_frame + 8 * 2], r13",
    "mov [hv_frame + 8 * 3], r12",
    "mov [hv_frame + 8 * 10], rbp",
    "mov [hv_frame + 8 * 11], rbx",
    "mov [hv_frame + 8 * 14], rax",
    "mov [hv_frame + 8 * 15], r10",
    "mov [hv_frame + 8 * 18], r11",
    "mov qword ptr [hv_frame + 8 * 17], 0x202",
    "mov eax, -1",
    "mov edx, -1",
    "cmp qword ptr [hv_xsave_size], 0",
    "je 6f",
    "xsave64 [hv_xsave]",
    "jmp hv_resume",
    "6:",
    "fxsave64 [hv_xsave]",

    ".globl hv_resume",
    "hv_resume:",
    "cmp byte ptr [hv_pending], 0",
    "jne 9f",
    "mov eax, -1",
    "mov edx, -1",
    "cmp qword ptr [hv_xsave_size], 0",
    "je 7f",
    "xrstor64 [hv_xsave]",
    "jmp 8f",
    "7:",
    "fxrstor64 [hv_xsave]",
    "8:",
    "lea rsp, [hv_frame]",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop r11", "pop r10", "pop r9", "pop r8",
    "pop rdi", "pop rsi", "pop rbp", "pop rbx", "pop rdx", "pop rcx", "pop rax",
    "iretq",
    ".globl hv_resume_end",
    "hv_resume_end:",
    "9:",
    "lea rsp, [hv_own_stack_end]",
    "call {interrupted}",
    "jmp hv_resume",

    // From the hypercall page: the port in EDI.
    ".globl hv_event_send",
    "hv_event_send:",
    "mov eax, edi",
    "cmp eax, 1024",
    "jae 2f",
    "movzx eax, byte ptr [{doorbells} + rax]",
    "test eax, eax",
    "jz 2f",
    "lea edi, [rax + {before_doorbells}]",
    "mov esi, {one}",
    "mov edx, 8",
    "mov eax, 1",
    "syscall",
    "jmp hv_return",
    "2:",
    "mov ecx, edi",
    "mov r8d, {doorbell}",
    "jmp .Lcall",

    // Goes back to what a signal interrupted. RDI: the registers in the signal's frame, from
    // RCX on changed to a frame for `iretq`; RSI: its XSAVE area; RDX: the components that are in
    // it, 0 for an FXSAVE area. A signal that comes meanwhile puts its own frame
    // below RSP, where nothing is needed any more.
    ".globl hv_leave_signal",
    "hv_leave_signal:",
    "mov rax, rdx",
    "or rdx, rdx",
    "jz 2f",
    "shr rdx, 32",
    "xrstor64 [rsi]",
    "jmp 3f",
    "2:",
    "fxrstor64 [rsi]",
    "3:",
    "mov rsp, rdi",
    "pop r8", "pop r9", "pop r10", "pop r11", "pop r12", "pop r13", "pop r14", "pop r15",
    "pop rdi", "pop rsi", "pop rbp", "pop rbx", "pop rdx", "pop rax", "pop rcx",
    "iretq",

    // Never called: nothing returns from a signal the usual way.
    ".globl hv_no_return",
    "hv_no_return:",
    "ud2",
    ".globl hv_end",
    "hv_end:",

    max_xsave = const hv_stub::MAX_XSAVE,
    own_stack = const OWN_STACK,
    supervisor = sym supervisor::run,
    cross = sym handoff::cross,
    interrupted = sym handoff::interrupted,
    hypercall = const kind::HYPERCALL,
    doorbell = const kind::DOORBELL,
    registers = const PAGE + field::REGISTERS,
    fpu = const PAGE + field::FPU,
    arguments = const PAGE + field::ARGUMENTS,
    number = const PAGE + field::NUMBER,
    kind = const PAGE + field::KIND,
    result = const PAGE + field::RESULT,
    redirect = const PAGE + field::REDIRECT,
    doorbells = const PAGE + field::DOORBELLS,
    one = const PAGE + field::ONE,
    before_doorbells = const FIRST_DOORBELL - 1,
);

unsafe extern "C" {
    static hv_return: u8;
    static hv_return_end: u8;
    static hv_resume_end: u8;
    static __executable_start: u8;
    static etext: u8;
    fn hv_resume() -> !;
    fn hv_leave_signal(registers: *mut u64, xsave: u64, components: u64) -> !;
    fn hv_no_return() -> !;
}

/// What the stub was doing when a signal came.
#[derive(PartialEq, Eq)]
pub(crate) enum Place {
    /// The guest's code runs.
    Guest,
    /// All but the return to the guest's code is done.
    Return,
    /// The guest's registers are being restored.
    Resume,
    /// Anything else.
    Stub,
}

impl Place {
    /// The place of an instruction.
    pub(crate) fn of(rip: u64) -> Place {
        let at = |symbol: *const u8| symbol as u64;
        let (start, end) = (at(&raw const __executable_start), at(&raw const etext));
        let (back, back_end) = (at(&raw const hv_return), at(&raw const hv_return_end));
        let (resume, resume_end) = (hv_resume as *const () as u64, at(&raw const hv_resume_end));
        match rip {
            _ if (back..back_end).contains(&rip) => Place::Return,
            _ if (resume..resume_end).contains(&rip) => Place::Resume,
            _ if (start..end).contains(&rip) => Place::Stub,
            _ => Place::Guest,
        }
    }
}

/// Runs the guest from what the statics say.
pub(crate) fn resume() -> ! {
    // SAFETY: it restores the guest's own registers; this code's are not needed any more.
    unsafe { hv_resume() }
}

/// Goes back to where a signal came.
pub(crate) fn leave_signal(registers: *mut u64, xsave: u64, components: u64) -> ! {
    // SAFETY: they are of the signal's frame, which `handoff::on_signal` has prepared.
    unsafe { hv_leave_signal(registers, xsave, components) }
}

/// The handler of signals.
pub(crate) fn signal_address() -> [u64; 2] {
    [handoff::on_signal as *const () as u64, hv_no_return as *const () as u64]
}

/// `memcpy` of the C library, which the compiler calls.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
            options(nostack, preserves_flags));
    }
    to
}

/// `memset` of the C library, which the compiler calls.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") len => _,
            options(nostack, preserves_flags));
    }
    to
}
