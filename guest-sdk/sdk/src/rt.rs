//! ⚠ The path from the entry point to `main`, and the note that marks a program as a guest.
#![allow(unsafe_code, reason = "the entry point and the note")]

use crate::executor::{self, Spawner};
use crate::termination::Termination;
use crate::{hypercall, logger, start_info};
use hv_abi::note::Note;
use hv_abi::start_info::StartInfo;

/// Stack that the SDK asks for, in bytes. It costs memory only as far as it is used. Code that is not optimised keeps
/// several copies of large values on it.
const STACK_SIZE: u32 = 512 << 10;

// SAFETY: the section holds data that nothing but the linker interprets.
#[unsafe(link_section = ".note.hv")]
#[used]
static NOTE: Note = Note::new(STACK_SIZE, 0);

// RDI holds the address of start-info, RSP the top of the stack, aligned to 16. After the call RSP has the alignment of
// the System V convention. The frame chain and the call frame information end here.
core::arch::global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "xor %ebp, %ebp",
    "call {start}",
    "ud2",
    ".cfi_endproc",
    ".size _start, . - _start",
    start = sym start,
    options(att_syntax)
);

unsafe extern "Rust" {
    /// The program's `main`, made by the `entry` attribute.
    safe fn __hv_main() -> u8;
}

extern "C" fn start(info: *mut StartInfo) -> ! {
    // SAFETY: the address is from the host, and nothing has run before.
    unsafe { start_info::set(info) };
    logger::install();
    hypercall::exit(__hv_main())
}

/// Runs an async `main`: what `#[entry]` expands to.
#[track_caller]
pub fn run_main<F>(main: impl FnOnce(Spawner) -> F) -> u8
where
    F: Future<Output: Termination>,
{
    executor::block_on(main(executor::spawner())).report()
}

/// The personality routine that `core`'s unwind tables name. Guests abort on panic, so it is never called.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Where the landing pads of `core` and `alloc` would continue. Never called, as above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    hypercall::panic("unwinding in a guest that was built to abort")
}
