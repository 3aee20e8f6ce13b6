//! ⚠ Upcalls: handlers that are called when an event comes, whatever the guest is doing.
//!
//! A handler interrupts the guest's code between any two instructions, like a signal handler. So it has to be short, and it is restricted:
//!
//! - It may use atomics, make hypercalls, [take](super::take) events, wake wakers, and use what `embassy_sync`
//!   guards with a `CriticalSectionRawMutex`.
//! - It must not allocate or free, print, or use anything else that takes a lock: the code that it interrupted may hold
//!   the lock and continues only after the handler. The guest would hang.
//!
//! Code that must not be interrupted holds a [`mask`]. Another handler interrupts a handler only if that allows it ([`unmask`]).
#![allow(unsafe_code, reason = "handlers that interrupt the program")]

use super::{unmask as unmask_event, words};
use crate::hypercall;
use crate::shared_info::{mask as event_mask, pending, upcall_mask};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use hv_abi::event::PORTS;
use hv_abi::shared_info::{EVENT_WORDS, RED_ZONE};
use hv_abi::{Errno, EventPort};

/// Whether the host knows the entry point below.
static ON: AtomicBool = AtomicBool::new(false);
/// Events with a handler.
static HANDLED: [AtomicU64; EVENT_WORDS] = [const { AtomicU64::new(0) }; EVENT_WORDS];
/// Their handlers, each a `fn(EventPort)`; null if there is none.
static HANDLERS: [AtomicPtr<()>; PORTS as usize] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; PORTS as usize];

/// Calls `handler` each time this event comes. The event is taken before. From now on only the handler gets the event. It
/// replaces an earlier handler.
///
/// # Errors
///
/// [`Errno::Invalid`] if there is no such event, [`Errno::NoSys`] if the host has no upcalls.
pub fn on_upcall(port: EventPort, handler: fn(EventPort)) -> Result<(), Errno> {
    let ((index, bit), slot) = port.position().zip(HANDLERS.get(port.0 as usize)).ok_or(Errno::Invalid)?;
    let _masked = mask();
    if !ON.load(Ordering::Relaxed) {
        hypercall::set_upcall(hv_upcall as *const () as u64)?;
        ON.store(true, Ordering::SeqCst);
    }
    slot.store(handler as *mut (), Ordering::Relaxed);
    HANDLED[index].fetch_or(bit, Ordering::SeqCst);
    unmask_event(port);
    Ok(())
}

/// Events with handlers in this word of the bitmaps.
pub(super) fn handled(index: usize) -> u64 {
    HANDLED[index].load(Ordering::Relaxed)
}

/// Events of this word that are pending and have handlers.
fn due(index: usize) -> u64 {
    let handled = handled(index);
    match handled {
        0 => 0,
        _ => handled & pending()[index].load(Ordering::SeqCst) & !event_mask()[index].load(Ordering::SeqCst),
    }
}

/// Calls the handlers of pending events. Upcalls are masked.
fn handle() {
    for index in words() {
        let mut bits = due(index);
        if bits == 0 {
            continue;
        }
        // Before the handlers check what the events are about.
        pending()[index].fetch_and(!bits, Ordering::SeqCst);
        while bits != 0 {
            let port = EventPort(index as u32 * 64 + bits.trailing_zeros());
            let handler = HANDLERS[port.0 as usize].load(Ordering::Relaxed);
            // SAFETY: the bit is in `HANDLED`, which is set after its slot; and
            // slots hold nothing but null and functions of this type.
            let handler: Option<fn(EventPort)> = unsafe { core::mem::transmute(handler) };
            if let Some(handler) = handler {
                handler(port);
            }
            bits &= bits - 1;
        }
    }
}

/// Calls the handlers of pending events, unless upcalls are masked. Called after an event has been unmasked, since the
/// host checks only when an event comes or the guest exits.
pub(super) fn look() {
    if ON.load(Ordering::Relaxed)
        && words().any(|index| due(index) != 0)
        && upcall_mask().swap(1, Ordering::SeqCst) == 0
    {
        handle();
        unmask();
    }
}

/// Unmasks upcalls. Those that were held back come before this returns. For handlers that may be interrupted, by
/// themselves or others, from here on. Other code drops the value of [`mask`] instead.
pub fn unmask() {
    // The check for pending events follows the store: an event before the store is seen here, an event after it is an upcall.
    upcall_mask().store(0, Ordering::SeqCst);
    while words().any(|index| due(index) != 0) && upcall_mask().swap(1, Ordering::SeqCst) == 0 {
        handle();
        upcall_mask().store(0, Ordering::SeqCst);
    }
}

/// Masks upcalls as long as the value lives. May be nested, and may be used in guests without handlers.
///
/// To wait for something that a handler does, check whether it has happened and [wait](super::wait) under one mask. With
/// an upcall in between, the wait would miss the event. While upcalls are masked, the event still ends the wait, and the
/// handler is called when the mask is dropped.
#[must_use = "upcalls are held back as long as the value lives"]
pub fn mask() -> Masked {
    Masked { unmask: upcall_mask().swap(1, Ordering::SeqCst) == 0 }
}

/// See [`mask`].
#[derive(Debug)]
pub struct Masked {
    /// Whether upcalls were unmasked before.
    unmask: bool,
}

impl Drop for Masked {
    fn drop(&mut self) {
        if self.unmask {
            unmask();
        }
    }
}

/// Masks upcalls, if there are any. Returns whether [`leave`] has to unmask them.
pub(super) fn enter() -> bool {
    ON.load(Ordering::Relaxed) && upcall_mask().swap(1, Ordering::SeqCst) == 0
}

/// Ends what [`enter`] began.
pub(super) fn leave(unmask_them: bool) {
    if unmask_them {
        unmask();
    }
}

/// The entry point that the host calls. Upcalls are masked.
extern "C" fn upcalled() {
    handle();
    unmask();
}

unsafe extern "C" {
    fn hv_upcall();
}

// The host lowers RSP by the size of the red zone, stores the address of the interrupted instruction there, and continues
// here. All registers still have the values of the interrupted code. Those that a function of the System V convention may
// change are kept on the stack, with the flags and all of x87 and SSE. Then the flags and the x87 and SSE control state
// are set to what a function expects. The call frame information leads a backtrace to the interrupted code.
core::arch::global_asm!(
    ".pushsection .text.hv_upcall, \"ax\", @progbits",
    ".globl hv_upcall",
    ".type hv_upcall, @function",
    "hv_upcall:",
    ".cfi_startproc",
    ".cfi_signal_frame",
    ".cfi_def_cfa %rsp, {red_zone} + 8",
    ".cfi_offset %rip, -{red_zone} - 8",
    "pushfq",
    ".cfi_adjust_cfa_offset 8",
    "push %rbp",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_offset %rbp, -{red_zone} - 24",
    "mov %rsp, %rbp",
    ".cfi_def_cfa_register %rbp",
    "push %rax",
    "push %rcx",
    "push %rdx",
    "push %rsi",
    "push %rdi",
    "push %r8",
    "push %r9",
    "push %r10",
    "push %r11",
    // A slot for MXCSR, and the area of FXSAVE, which is aligned to 16.
    "sub $(16 + 512), %rsp",
    "and $-16, %rsp",
    "fxsave64 16(%rsp)",
    "cld",
    "fninit",
    "movl $0x1f80, (%rsp)",
    "ldmxcsr (%rsp)",
    "call {upcalled}",
    "fxrstor64 16(%rsp)",
    "lea -72(%rbp), %rsp",
    "pop %r11",
    "pop %r10",
    "pop %r9",
    "pop %r8",
    "pop %rdi",
    "pop %rsi",
    "pop %rdx",
    "pop %rcx",
    "pop %rax",
    "pop %rbp",
    ".cfi_def_cfa %rsp, {red_zone} + 16",
    ".cfi_same_value %rbp",
    "popfq",
    ".cfi_adjust_cfa_offset -8",
    "ret ${red_zone}",
    ".cfi_endproc",
    ".size hv_upcall, . - hv_upcall",
    ".popsection",
    red_zone = const RED_ZONE,
    upcalled = sym upcalled,
    options(att_syntax)
);
