//! ⚠ The program that every guest's process starts as: hv's end inside of it.
//!
//! It begins as the *supervisor*, which forks a *zygote* when hv asks for one. The zygote keeps one process
//! that waits for a guest. That maps the guest's memory, gives up every right but
//! two system calls, and becomes the guest. What stays of the stub is what
//! the hypercall page calls into, and the handler of signals.
//!
//! The guest can overwrite the stub's data, and jump anywhere into its code. That
//! is all right: the stub may do nothing that the guest may not.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. One thread. What a signal handler shares with the code that it interrupts is
//!    said where it matters.
//! 2. The shared page is mapped from before the first run to the end.
//! 3. Nothing of this runs in hv: what goes wrong here ends one guest.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod demand;
mod entry;
mod handoff;
mod message;
mod supervisor;
mod sys;
mod zygote;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(101)
}

/// What precompiled code refers to for unwinding, which never happens here.
#[allow(unsafe_code, reason = "a name that the compiler knows")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
