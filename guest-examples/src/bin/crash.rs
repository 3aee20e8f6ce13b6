//! ⚠ Dies in the way that the argument says; to see what hv makes of it.
//!
//! ```text
//! hv run crash -- null           # exit code 101, and a report
//! hv run crash                   # lists the ways
//! ```
#![no_std]
#![no_main]

use core::arch::asm;
use core::hint::black_box;
use hv_guest::prelude::*;

/// A way to die: its name, what it is, and doing it.
type Way = (&'static str, &'static str, fn());

const WAYS: &[Way] = &[
    ("panic", "a panic", || panic!("asked to")),
    ("index", "an index out of bounds", || drop(black_box([0; 3])[black_box(7)..].to_vec())),
    ("null", "reads through a null pointer", || read(0)),
    ("wild", "writes to an address that nothing is at", || write(0x1234_5678_9000)),
    ("non-canonical", "reads an address that no processor has", || read(0x8000_0000_0000_0000)),
    ("kernel", "reads the upper half of the address space", || read(0xffff_8000_0000_0000)),
    ("write-code", "writes to its own code", || write(main as *const () as usize)),
    ("write-rodata", "writes to a constant", || write(WAYS.as_ptr() as usize)),
    ("exec-stack", "runs code from the stack", || call((&raw const RETURN) as usize, true)),
    ("exec-heap", "runs code from the heap", || call(Box::leak(Box::new(RETURN)).as_ptr() as usize, false)),
    ("stack-overflow", "recurses without end", recurse_without_end),
    ("heap-exhaustion", "allocates without end", exhaust),
    (
        "div0",
        "divides by zero",
        || run!("xor %ecx, %ecx", "div %ecx", out("eax") _, out("ecx") _, out("edx") _),
    ),
    ("ud2", "an undefined instruction", || run!("ud2")),
    ("cli", "turns interrupts off", || run!("cli")),
    ("hlt", "halts the processor", || run!("hlt")),
    (
        "wrmsr",
        "writes a model-specific register",
        || run!("wrmsr", in("ecx") 0xc000_0080_u32, in("eax") 0, in("edx") 0),
    ),
    ("lgdt", "loads a descriptor table", || run!("lgdt ({0})", in(reg) &raw const RETURN)),
    ("cr3", "changes the page tables", || run!("mov {0}, %cr3", in(reg) 0_u64)),
    ("int80", "a software interrupt", || run!("int $0x80")),
    (
        "syscall",
        "a system call",
        || run!("syscall", in("rax") 39, lateout("rax") _, out("rcx") _, out("r11") _),
    ),
    ("port", "writes to a port of the PC", || run!("out %al, $0x80", in("al") 0_u8)),
    ("int3", "a breakpoint", || run!("int3")),
    (
        "vmcall",
        "a hypercall of KVM's, which hv's guests do not have",
        || run!("vmcall", inlateout("rax") 999_u64 => _),
    ),
    ("exit", "ends with exit code 42", || hv_guest::exit(42)),
];

/// One privileged or harmful piece of assembly.
macro_rules! run {
    ($($part:tt)*) => {
        // SAFETY: there is nothing to keep safe: whatever this does to the
        // guest, the guest was asked to do. No memory of Rust's is touched.
        unsafe { asm!($($part)*, options(att_syntax)) }
    };
}
use run;

/// The instruction `ret`, several times.
static RETURN: [u8; 16] = [0xc3; 16];

#[hv_guest::entry]
fn main() -> u8 {
    let wanted = env::args().nth(1).unwrap_or_default();
    match WAYS.iter().find(|(name, ..)| *name == wanted) {
        Some((name, what, act)) => {
            println!("{name}: {what}");
            act();
            println!("{name}: still here");
            0
        }
        None => {
            println!("say how to die:");
            WAYS.iter().for_each(|(name, what, _)| println!("  {name:16} {what}"));
            2
        }
    }
}

fn read(address: usize) {
    // SAFETY: none; see `run`.
    black_box(unsafe { (black_box(address) as *const u8).read_volatile() });
}

fn write(address: usize) {
    // SAFETY: none; see `run`.
    unsafe { (black_box(address) as *mut u8).write_volatile(0) };
}

/// Calls an address; a copy on the stack of what is there, if so wished.
fn call(address: usize, copy_to_stack: bool) {
    let copy = black_box(RETURN);
    let address = if copy_to_stack { copy.as_ptr() as usize } else { address };
    run!("call *{0}", in(reg) black_box(address), clobber_abi("C"));
    black_box(copy);
}

fn recurse_without_end() {
    black_box(recurse(0));
}

fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    // The end would be after more frames than any memory has room for.
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + frame[(depth % 64) as usize] }
}

fn exhaust() {
    let mut all = Vec::new();
    loop {
        all.push(black_box(vec![1_u8; 64 << 10]));
    }
}
