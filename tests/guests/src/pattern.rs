//! ⚠ All that code can hold in a processor: patterns put there, and looked at later.

use core::arch::naked_asm;

/// Registers, flags and red zone as [`hold`] leaves them, in the order of its stores.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Held {
    xmm: [[u64; 2]; 16],
    /// RAX RBX RCX RDX RSI RDI RBP R8 … R15.
    general: [u64; 15],
    flags: u64,
    red_zone: [u64; 16],
    pi: f64,
    mxcsr: u32,
    control: u16,
}

/// The arithmetic flags and the direction flag, all set, with those that always are.
const FLAGS: u64 = 0xcd5 | 1 << 9 | 1 << 1;
/// Rounding down, all exceptions masked.
const MXCSR: u32 = 0x3f80;
/// Rounding up, double precision, all exceptions masked.
const CONTROL: u16 = 0x0a7f;

impl Held {
    /// Patterns that differ from place to place and from round to round.
    pub(crate) fn pattern(round: u64) -> Held {
        let word =
            |n: usize| (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n as u32) ^ n as u64;
        Held {
            xmm: core::array::from_fn(|n| [word(100 + 2 * n), word(101 + 2 * n)]),
            general: core::array::from_fn(word),
            flags: FLAGS,
            red_zone: core::array::from_fn(|n| word(200 + n)),
            pi: core::f64::consts::PI,
            mxcsr: MXCSR,
            control: CONTROL,
        }
    }

    /// What is not as it was in `before`.
    pub(crate) fn difference(&self, before: &Held) -> Option<&'static str> {
        // RCX has counted down.
        let mut general = before.general;
        general[2] = 0;
        [
            ("an SSE register", self.xmm != before.xmm),
            ("a general register", self.general != general),
            ("the flags", self.flags & 0xcd5 != before.flags & 0xcd5),
            ("the red zone", self.red_zone != before.red_zone),
            ("an x87 register", self.pi.to_bits() != before.pi.to_bits()),
            ("MXCSR", self.mxcsr & 0xffc0 != before.mxcsr),
            ("the x87 control word", self.control != before.control),
        ]
        .into_iter()
        .find_map(|(what, differs)| differs.then_some(what))
    }
}

/// Loads everything from `held`, counts RCX down `count` times without touching anything
/// else, and stores everything to `held`.
///
/// # Safety
///
/// `count` is not zero, and `held` can be written.
#[unsafe(naked)]
pub(crate) unsafe extern "sysv64" fn hold(held: *mut Held, count: u64) {
    naked_asm!(
        "push %rbx", "push %rbp", "push %r12", "push %r13", "push %r14", "push %r15",
        "mov %rdi, {current}(%rip)",
        "mov %rsi, %rcx",
        "fninit", "fldl {pi}(%rdi)", "fldcw {control}(%rdi)", "ldmxcsr {mxcsr}(%rdi)",
        // The red zone of this function, from its lowest word.
        "mov {red}+0(%rdi), %rax", "mov %rax, -128(%rsp)",
        "mov {red}+8(%rdi), %rax", "mov %rax, -120(%rsp)",
        "mov {red}+16(%rdi), %rax", "mov %rax, -112(%rsp)",
        "mov {red}+24(%rdi), %rax", "mov %rax, -104(%rsp)",
        "mov {red}+32(%rdi), %rax", "mov %rax, -96(%rsp)",
        "mov {red}+40(%rdi), %rax", "mov %rax, -88(%rsp)",
        "mov {red}+48(%rdi), %rax", "mov %rax, -80(%rsp)",
        "mov {red}+56(%rdi), %rax", "mov %rax, -72(%rsp)",
        "mov {red}+64(%rdi), %rax", "mov %rax, -64(%rsp)",
        "mov {red}+72(%rdi), %rax", "mov %rax, -56(%rsp)",
        "mov {red}+80(%rdi), %rax", "mov %rax, -48(%rsp)",
        "mov {red}+88(%rdi), %rax", "mov %rax, -40(%rsp)",
        "mov {red}+96(%rdi), %rax", "mov %rax, -32(%rsp)",
        "mov {red}+104(%rdi), %rax", "mov %rax, -24(%rsp)",
        "mov {red}+112(%rdi), %rax", "mov %rax, -16(%rsp)",
        "movdqu 0(%rdi), %xmm0", "movdqu 16(%rdi), %xmm1", "movdqu 32(%rdi), %xmm2", "movdqu 48(%rdi), %xmm3",
        "movdqu 64(%rdi), %xmm4", "movdqu 80(%rdi), %xmm5", "movdqu 96(%rdi), %xmm6", "movdqu 112(%rdi), %xmm7",
        "movdqu 128(%rdi), %xmm8", "movdqu 144(%rdi), %xmm9", "movdqu 160(%rdi), %xmm10",
        "movdqu 176(%rdi), %xmm11", "movdqu 192(%rdi), %xmm12", "movdqu 208(%rdi), %xmm13",
        "movdqu 224(%rdi), %xmm14", "movdqu 240(%rdi), %xmm15",
        "mov 256(%rdi), %rax", "mov 264(%rdi), %rbx", "mov 280(%rdi), %rdx", "mov 288(%rdi), %rsi",
        "mov 304(%rdi), %rbp", "mov 312(%rdi), %r8", "mov 320(%rdi), %r9", "mov 328(%rdi), %r10",
        "mov 336(%rdi), %r11", "mov 344(%rdi), %r12", "mov 352(%rdi), %r13", "mov 360(%rdi), %r14",
        "mov 368(%rdi), %r15",
        // The flags go through the highest word of the red zone, which is filled last.
        "pushq {flags}(%rdi)",
        "popfq",
        "push {red}+120(%rdi)",
        "lea 8(%rsp), %rsp",
        "mov 296(%rdi), %rdi",
        // `loop` changes no flag.
        "2: loop 2b",
        "mov %rdi, {other}(%rip)",
        "mov {current}(%rip), %rdi",
        "mov %rax, 256(%rdi)", "mov %rbx, 264(%rdi)", "mov %rcx, 272(%rdi)", "mov %rdx, 280(%rdi)",
        "mov %rsi, 288(%rdi)", "mov %rbp, 304(%rdi)", "mov %r8, 312(%rdi)", "mov %r9, 320(%rdi)",
        "mov %r10, 328(%rdi)", "mov %r11, 336(%rdi)", "mov %r12, 344(%rdi)", "mov %r13, 352(%rdi)",
        "mov %r14, 360(%rdi)", "mov %r15, 368(%rdi)",
        "mov {other}(%rip), %rax", "mov %rax, 296(%rdi)",
        "movdqu %xmm0, 0(%rdi)", "movdqu %xmm1, 16(%rdi)", "movdqu %xmm2, 32(%rdi)", "movdqu %xmm3, 48(%rdi)",
        "movdqu %xmm4, 64(%rdi)", "movdqu %xmm5, 80(%rdi)", "movdqu %xmm6, 96(%rdi)", "movdqu %xmm7, 112(%rdi)",
        "movdqu %xmm8, 128(%rdi)", "movdqu %xmm9, 144(%rdi)", "movdqu %xmm10, 160(%rdi)",
        "movdqu %xmm11, 176(%rdi)", "movdqu %xmm12, 192(%rdi)", "movdqu %xmm13, 208(%rdi)",
        "movdqu %xmm14, 224(%rdi)", "movdqu %xmm15, 240(%rdi)",
        "mov -128(%rsp), %rax", "mov %rax, {red}+0(%rdi)",
        "mov -120(%rsp), %rax", "mov %rax, {red}+8(%rdi)",
        "mov -112(%rsp), %rax", "mov %rax, {red}+16(%rdi)",
        "mov -104(%rsp), %rax", "mov %rax, {red}+24(%rdi)",
        "mov -96(%rsp), %rax", "mov %rax, {red}+32(%rdi)",
        "mov -88(%rsp), %rax", "mov %rax, {red}+40(%rdi)",
        "mov -80(%rsp), %rax", "mov %rax, {red}+48(%rdi)",
        "mov -72(%rsp), %rax", "mov %rax, {red}+56(%rdi)",
        "mov -64(%rsp), %rax", "mov %rax, {red}+64(%rdi)",
        "mov -56(%rsp), %rax", "mov %rax, {red}+72(%rdi)",
        "mov -48(%rsp), %rax", "mov %rax, {red}+80(%rdi)",
        "mov -40(%rsp), %rax", "mov %rax, {red}+88(%rdi)",
        "mov -32(%rsp), %rax", "mov %rax, {red}+96(%rdi)",
        "mov -24(%rsp), %rax", "mov %rax, {red}+104(%rdi)",
        "mov -16(%rsp), %rax", "mov %rax, {red}+112(%rdi)",
        "mov -8(%rsp), %rax", "mov %rax, {red}+120(%rdi)",
        "pushfq", "popq {flags}(%rdi)",
        "cld",
        "fstpl {pi}(%rdi)", "fnstcw {control}(%rdi)", "stmxcsr {mxcsr}(%rdi)",
        // As a function has to leave them.
        "fninit", "movl $0x1f80, -8(%rsp)", "ldmxcsr -8(%rsp)",
        "pop %r15", "pop %r14", "pop %r13", "pop %r12", "pop %rbp", "pop %rbx",
        "ret",
        current = sym CURRENT,
        other = sym OTHER,
        red = const core::mem::offset_of!(Held, red_zone),
        flags = const core::mem::offset_of!(Held, flags),
        pi = const core::mem::offset_of!(Held, pi),
        mxcsr = const core::mem::offset_of!(Held, mxcsr),
        control = const core::mem::offset_of!(Held, control),
        options(att_syntax)
    )
}

/// What [`hold`] was given, and where it puts RDI: nothing is left to address anything with.
static CURRENT: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
static OTHER: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Changes everything that a function may change.
pub(crate) fn spoil() {
    // SAFETY: every register that is written is given up, and nothing else is touched.
    unsafe {
        core::arch::asm!(
            "mov $-1, %rax",
            "mov %rax, %rcx",
            "mov %rax, %rdx",
            "mov %rax, %rsi",
            "mov %rax, %rdi",
            "mov %rax, %r8",
            "mov %rax, %r9",
            "mov %rax, %r10",
            "mov %rax, %r11",
            "pcmpeqd %xmm0, %xmm0",
            "movdqa %xmm0, %xmm1",
            "movdqa %xmm0, %xmm2",
            "movdqa %xmm0, %xmm3",
            "movdqa %xmm0, %xmm4",
            "movdqa %xmm0, %xmm5",
            "movdqa %xmm0, %xmm6",
            "movdqa %xmm0, %xmm7",
            "movdqa %xmm0, %xmm8",
            "movdqa %xmm0, %xmm9",
            "movdqa %xmm0, %xmm10",
            "movdqa %xmm0, %xmm11",
            "movdqa %xmm0, %xmm12",
            "movdqa %xmm0, %xmm13",
            "movdqa %xmm0, %xmm14",
            "movdqa %xmm0, %xmm15",
            "fld1",
            "fldz",
            "fstp %st(0)",
            "fstp %st(0)",
            "xor %eax, %eax",
            clobber_abi("sysv64"),
            options(att_syntax)
        );
    }
}
