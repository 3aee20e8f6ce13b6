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
use core::ops::Range;
use hv_stub::{FIRST_DOORBELL, MEMORY, PAGE, field, kind};

/// Bytes of the stack on which the stub runs when it has to have one of its own.
const OWN_STACK: usize = 32 << 10;

/// Bytes of the stack of signals: a frame with AVX-512 and AMX state is 11 KiB.
pub(crate) const SIGNAL_STACK: usize = 64 << 10;

global_asm!(
    // All that the stub can write once there is a guest.
    ".section .guest_data, \"aw\", @nobits",
    ".balign 4096",
    ".globl hv_data", "hv_data:",
    // What `hv_resume` restores: an XSAVE area; the registers in the order of the pops; a frame for `iretq`.
    ".globl hv_xsave", "hv_xsave: .skip {max_xsave}",
    ".globl hv_frame", "hv_frame: .skip 20 * 8",
    ".globl hv_xsave_size", "hv_xsave_size: .skip 8",
    ".globl hv_pending", "hv_pending: .skip 8",
    ".balign 16",
    "hv_own_stack: .skip {own_stack}",
    "hv_own_stack_end:",
    ".balign 64",
    ".globl hv_signal_stack", "hv_signal_stack: .skip {signal_stack}",
    "hv_signal_stack_end:",
    ".balign 4096",
    ".globl hv_data_end", "hv_data_end:",
    ".text",

    ".globl hv_start",
    "hv_start:",
    "mov rdi, rsp",
    "lea rsp, [hv_own_stack_end]",
    "xor ebp, ebp",
    "call {supervisor}",

    // Replaces the stub's data, this stack with it, by pages of the memory's file, confines the process, and
    // begins. RDI: offset in the file. What fails ends the process.
    ".globl hv_confine",
    "hv_confine:",
    "mov r9, rdi",
    "lea rdi, [hv_data]",
    "lea rsi, [hv_data_end]",
    "sub rsi, rdi",
    "mov edx, 3",    // PROT_READ | PROT_WRITE
    "mov r10d, 0x11", // MAP_SHARED | MAP_FIXED
    "mov r8d, {memory}",
    "mov eax, 9",
    "syscall",
    "cmp rax, rdi",
    "jne 2f",
    "mov edi, {memory}",
    "mov eax, 3",
    "syscall",
    "mov edi, 1",    // SECCOMP_SET_MODE_FILTER
    "xor esi, esi",
    "mov edx, {filter}",
    "mov eax, 317",
    "syscall",
    "mov edi, eax",
    "lea rsp, [hv_own_stack_end]",
    "xor ebp, ebp",
    "call {begin}",
    "2:",
    "mov edi, 1",
    "mov eax, 231",
    "syscall",
    "ud2",

    // The handler of `RESET`. It makes the last guest's registers zeros wherever they are: in the signal's frame, at the end
    // of the stack, and where the kernel leaves them. All that it reads was written by the kernel, or by hv since that guest ran.
    ".globl hv_reset",
    "hv_reset:",
    // A kick that came first interrupts the new guest.
    "mov rax, [rdx + {interrupted_rip}]",
    "lea rcx, [{on_signal}]",
    "cmp rax, rcx",
    "sete al",
    "or [hv_pending], al",
    "mov rdi, rsp",
    "1:",
    "lea rcx, [hv_signal_stack_end]",
    "sub rcx, rdi",
    "xor eax, eax",
    "rep stosb",
    "xor ebx, ebx",
    "xor edx, edx",
    "xor esi, esi",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "xor r12d, r12d",
    "xor r13d, r13d",
    "xor r14d, r14d",
    "xor r15d, r15d",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "cmp qword ptr [{bases}], 0",
    "je 2f",
    "wrfsbase rax",
    "wrgsbase rax",
    "2:",
    "lea rsp, [hv_own_stack_end]",
    // Flags that change what instructions do (AC, NT, DF).
    "push 2",
    "popfq",
    "xor edi, edi",
    ".globl hv_reset_end",
    "hv_reset_end:",
    "call {begin}",
    "ud2",

    // Begins that again, in the handler of a kick that has interrupted it: what that has saved goes as well. Functions that
    // the handler has called are done; they need less than 4096 bytes.
    ".globl hv_reset_again",
    "hv_reset_again:",
    "lea rdi, [rsp - 4096]",
    "jmp 1b",

    // From the hypercall page: arguments in RDI, RSI, RDX, the number in ECX.
    ".globl hv_hypercall",
    "hv_hypercall:",
    "mov r8d, {hypercall}",
    // The rest is done on a stack of the stub's own. The guest's may lack pages, which must not be noticed halfway.
    ".Lcall:",
    "mov rax, [rsp]",
    "mov [{registers} + 8 * 16], rax",
    "mov [{registers} + 8 * 1], rbx",
    "mov [{registers} + 8 * 6], rbp",
    "lea rax, [rsp + 8]",
    "mov [{registers} + 8 * 7], rax",
    "mov [{registers} + 8 * 12], r12",
    "mov [{registers} + 8 * 13], r13",
    "mov [{registers} + 8 * 14], r14",
    "mov [{registers} + 8 * 15], r15",
    "fnstcw [{fpu}]",
    "stmxcsr [{fpu} + 24]",
    "mov [{arguments}], rdi",
    "mov [{arguments} + 8], rsi",
    "mov [{arguments} + 16], rdx",
    "mov [{number}], ecx",
    "mov [{kind}], r8d",
    "lea rsp, [hv_own_stack_end]",
    "call {cross}",
    "mov rax, [{result}]",
    "cmp dword ptr [{redirect}], 0",
    "jne 4f",
    "mov rsp, [{registers} + 8 * 7]",
    "sub rsp, 8",
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
    signal_stack = const SIGNAL_STACK,
    memory = const MEMORY,
    filter = const PAGE + field::FILTER,
    bases = const PAGE + field::BASES,
    begin = sym handoff::begin,
    on_signal = sym handoff::on_signal,
    interrupted_rip = const handoff::INTERRUPTED_RIP,
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
    static _end: u8;
    static hv_data: u8;
    static hv_data_end: u8;
    static hv_signal_stack: u8;
    fn hv_confine(offset: u64) -> !;
    fn hv_reset() -> !;
    fn hv_reset_again() -> !;
    static hv_reset_end: u8;
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
    /// The registers of the guest before are being cleared.
    Reset,
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
        let (reset, reset_end) = (hv_reset as *const () as u64, at(&raw const hv_reset_end));
        match rip {
            _ if (reset..reset_end).contains(&rip) => Place::Reset,
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

/// Clears the registers of the guest before once more.
pub(crate) fn reset_again() -> ! {
    // SAFETY: what it interrupts has nothing that is still needed.
    unsafe { hv_reset_again() }
}

/// Goes back to where a signal came.
pub(crate) fn leave_signal(registers: *mut u64, xsave: u64, components: u64) -> ! {
    // SAFETY: they are of the signal's frame, which `handoff::on_signal` has prepared.
    unsafe { hv_leave_signal(registers, xsave, components) }
}

/// The handler of signals, and where it would return to.
pub(crate) fn signal_address() -> [u64; 2] {
    [handoff::on_signal as *const () as u64, hv_no_return as *const () as u64]
}

/// The same of [`RESET`](hv_stub::RESET).
pub(crate) fn reset_address() -> [u64; 2] {
    [hv_reset as *const () as u64, hv_no_return as *const () as u64]
}

/// Where the stack of signals starts.
pub(crate) fn signal_stack() -> u64 {
    (&raw const hv_signal_stack) as u64
}

/// Where the stub's data lie: those that it still writes when there is a guest, and, around them, the others.
pub(crate) fn data() -> [Range<u64>; 3] {
    let at = |symbol: *const u8| symbol as u64;
    let (start, end) = (at(&raw const hv_data), at(&raw const hv_data_end));
    let page = |address: u64| address.next_multiple_of(4096);
    [start..end, page(at(&raw const etext))..start, end..page(at(&raw const _end)).max(end)]
}

/// Begins as the first guest of this process: see `hv_confine`.
pub(crate) fn confine(offset: u64) -> ! {
    // SAFETY: it ends all that uses what it replaces.
    unsafe { hv_confine(offset) }
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
