//! ⚠ From the entry point to `main`, and the note that makes a program a guest.
#![allow(unsafe_code, reason = "the entry point, the note, and what the host has written before it")]

use core::sync::atomic::{AtomicPtr, Ordering};
use hv_abi::device::DeviceInfo;
use hv_abi::note::Note;
use hv_abi::start_info::StartInfo;

/// Stack that the SDK asks for, in bytes. It costs memory only as far as it is
/// used; code that is not optimised keeps several copies of large values on it.
const STACK_SIZE: u32 = 512 << 10;

// SAFETY: the section holds data that nothing but the linker interprets.
#[unsafe(link_section = ".note.hv")]
#[used]
static NOTE: Note = Note::new(STACK_SIZE, 0);

static START_INFO: AtomicPtr<StartInfo> = AtomicPtr::new(core::ptr::null_mut());

/// What the host told this guest at its start.
pub fn start_info() -> &'static StartInfo {
    // SAFETY: `start` stored the address before anything else ran. The page is
    // read-only and never written again, so a shared reference is valid for good.
    unsafe { &*START_INFO.load(Ordering::Relaxed) }
}

/// An entry of the device table, as it is now: the host writes the
/// configurations of net devices anew when it restores or clones a guest.
pub(crate) fn device(address: u64) -> DeviceInfo {
    // SAFETY: the host placed the table beside start-info, aligned and mapped
    // for good; the address is one of its entries'. The host writes it only while the guest stands still.
    unsafe { (address as *const DeviceInfo).read_volatile() }
}

// RDI holds the address of start-info, RSP the top of the stack, aligned to
// 16: after the call it is where the System V convention wants it. The frame
// chain and the call frame information end here.
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
    START_INFO.store(info, Ordering::Relaxed);
    crate::logger::install();
    let code = __hv_main();
    crate::exit(code)
}

/// The personality routine that `core`'s unwind tables name. Guests abort on
/// panic, so nothing ever calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Where the landing pads of `core` and `alloc` would go on. As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::hypercall::panic("unwinding in a guest that was built to abort")
}

/// What `main` may return.
pub trait Termination {
    /// The guest's exit code.
    fn report(self) -> u8;
}

impl Termination for () {
    fn report(self) -> u8 {
        0
    }
}

impl Termination for u8 {
    fn report(self) -> u8 {
        self
    }
}

impl<T: Termination, E: core::fmt::Display> Termination for Result<T, E> {
    fn report(self) -> u8 {
        match self {
            Ok(value) => value.report(),
            Err(error) => {
                crate::eprintln!("error: {error}");
                1
            }
        }
    }
}
