//! ⚠ The heap, and the memory routines that compiled code calls.
#![allow(unsafe_code, reason = "the allocator, and the memory routines of compiled code")]

use crate::start_info::start_info;
use crate::sync::RawMutex;
use core::alloc::Layout;
use core::sync::atomic::{AtomicBool, Ordering};
use talc::TalcLock;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// Gives the allocator the guest's free memory at the first allocation, so
/// that a guest that never allocates never touches it.
#[derive(Debug)]
struct StartInfoHeap {
    claimed: bool,
}

// SAFETY: `acquire` either adds a heap or fails; it is called with the
// allocator's lock held, and does not allocate.
unsafe impl Source for StartInfoHeap {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        if core::mem::replace(&mut talc.source.claimed, true) {
            SHORT.store(true, Ordering::Relaxed);
            return Err(());
        }
        let info = start_info();
        // SAFETY: the host promises that this range is mapped, writable and
        // the guest's alone (start-info); it is claimed once.
        unsafe { talc.claim(info.heap_base.0 as *mut u8, info.heap_size as usize) }.map(drop).ok_or(())
    }
}

/// Whether there was no room for an allocation.
static SHORT: AtomicBool = AtomicBool::new(false);

/// Whether this is the message of a panic for want of memory: that of `alloc`, which says how much was asked for.
pub(crate) fn is_exhaustion(message: &str) -> bool {
    SHORT.load(Ordering::Relaxed) && message.contains("memory allocation of ")
}

#[global_allocator]
static HEAP: TalcLock<RawMutex, StartInfoHeap> = TalcLock::new(StartInfoHeap { claimed: false });

// The compiler calls these by name; on this target nobody else defines them.
// `rep movsb` and `rep stosb` are the processor's own fast paths for long
// runs; short ones, where their start-up cost would dominate, are done in
// pieces of 16 and 8 bytes. Written in assembly since the compiler turns a
// copying loop back into a call of the very function.
core::arch::global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp, strlen",
    ".hidden memcpy, memmove, memset, memcmp, bcmp, strlen",
    ".type memcpy, @function",
    ".type memmove, @function",
    ".type memset, @function",
    ".type memcmp, @function",
    ".type bcmp, @function",
    ".type strlen, @function",
    // memmove(rdi = to, rsi = from, rdx = count); memcpy is the same: knowing
    // that nothing overlaps saves a comparison, which is not worth more code.
    "memcpy:",
    "memmove:",
    ".cfi_startproc",
    "mov %rdi, %rax",
    "cmp $16, %rdx",
    "jb 3f",
    "cmp $32, %rdx",
    "ja 2f",
    // 16 to 32 bytes: load both ends before storing either.
    "movups (%rsi), %xmm0",
    "movups -16(%rsi,%rdx), %xmm1",
    "movups %xmm0, (%rdi)",
    "movups %xmm1, -16(%rdi,%rdx)",
    "ret",
    "2:",
    // Backwards if the target starts inside the source.
    "mov %rdi, %rcx",
    "sub %rsi, %rcx",
    "cmp %rdx, %rcx",
    "jb 6f",
    "cmp $512, %rdx",
    "ja 5f",
    // 33 to 512 bytes forwards: the last 16 first saved, then whole steps.
    "movups -16(%rsi,%rdx), %xmm1",
    "lea -16(%rdi,%rdx), %r8",
    "4:",
    "movups (%rsi), %xmm0",
    "movups %xmm0, (%rdi)",
    "add $16, %rsi",
    "add $16, %rdi",
    "cmp %r8, %rdi",
    "jb 4b",
    "movups %xmm1, (%r8)",
    "ret",
    "5:",
    "mov %rdx, %rcx",
    "rep movsb",
    "ret",
    "6:",
    // Overlapping, backwards: the first 16 saved, then whole steps from the end.
    "movups (%rsi), %xmm1",
    "mov %rdi, %r8",
    "add %rdx, %rdi",
    "add %rdx, %rsi",
    "lea 16(%r8), %r9",
    "7:",
    "movups -16(%rsi), %xmm0",
    "movups %xmm0, -16(%rdi)",
    "sub $16, %rsi",
    "sub $16, %rdi",
    "cmp %r9, %rdi",
    "ja 7b",
    "movups %xmm1, (%r8)",
    "ret",
    "3:",
    "cmp $8, %edx",
    "jb 8f",
    "mov (%rsi), %rcx",
    "mov -8(%rsi,%rdx), %r8",
    "mov %rcx, (%rdi)",
    "mov %r8, -8(%rdi,%rdx)",
    "ret",
    "8:",
    "cmp $4, %edx",
    "jb 9f",
    "mov (%rsi), %ecx",
    "mov -4(%rsi,%rdx), %r8d",
    "mov %ecx, (%rdi)",
    "mov %r8d, -4(%rdi,%rdx)",
    "ret",
    "9:",
    "test %edx, %edx",
    "jz 10f",
    // 1 to 3 bytes: first, middle, last, which may be the same.
    "mov %rdx, %r10",
    "shr $1, %r10",
    "movzbl (%rsi), %ecx",
    "movzbl (%rsi,%r10), %r9d",
    "movzbl -1(%rsi,%rdx), %r8d",
    "mov %cl, (%rdi)",
    "mov %r9b, (%rdi,%r10)",
    "mov %r8b, -1(%rdi,%rdx)",
    "10:",
    "ret",
    ".cfi_endproc",
    // memset(rdi = to, esi = byte, rdx = count)
    "memset:",
    ".cfi_startproc",
    "mov %rdi, %r9",
    "movzbl %sil, %eax",
    "cmp $64, %rdx",
    "ja 2f",
    "mov $0x0101010101010101, %rcx",
    "imul %rcx, %rax",
    "cmp $8, %rdx",
    "jb 3f",
    "lea -8(%rdi,%rdx), %r8",
    "4:",
    "mov %rax, (%rdi)",
    "add $8, %rdi",
    "cmp %r8, %rdi",
    "jb 4b",
    "mov %rax, (%r8)",
    "mov %r9, %rax",
    "ret",
    "3:",
    "test %edx, %edx",
    "jz 5f",
    "6:",
    "mov %al, -1(%rdi,%rdx)",
    "dec %rdx",
    "jnz 6b",
    "5:",
    "mov %r9, %rax",
    "ret",
    "2:",
    "mov %rdx, %rcx",
    "rep stosb",
    "mov %r9, %rax",
    "ret",
    ".cfi_endproc",
    // memcmp(rdi, rsi, rdx = count)
    "memcmp:",
    "bcmp:",
    ".cfi_startproc",
    "2:",
    "cmp $8, %rdx",
    "jb 3f",
    "mov (%rdi), %rax",
    "mov (%rsi), %rcx",
    "cmp %rcx, %rax",
    "jne 4f",
    "add $8, %rdi",
    "add $8, %rsi",
    "sub $8, %rdx",
    "jmp 2b",
    "4:",
    // The first byte that differs decides: compare as big-endian numbers.
    "bswap %rax",
    "bswap %rcx",
    "cmp %rcx, %rax",
    "sbb %eax, %eax",
    "or $1, %eax",
    "ret",
    "3:",
    "test %rdx, %rdx",
    "jz 5f",
    "movzbl (%rdi), %eax",
    "movzbl (%rsi), %ecx",
    "sub %ecx, %eax",
    "jne 6f",
    "inc %rdi",
    "inc %rsi",
    "dec %rdx",
    "jmp 3b",
    "5:",
    "xor %eax, %eax",
    "6:",
    "ret",
    ".cfi_endproc",
    // strlen(rdi)
    "strlen:",
    ".cfi_startproc",
    "mov %rdi, %rax",
    "2:",
    "cmpb $0, (%rax)",
    "je 3f",
    "inc %rax",
    "jmp 2b",
    "3:",
    "sub %rdi, %rax",
    "ret",
    ".cfi_endproc",
    options(att_syntax)
);
