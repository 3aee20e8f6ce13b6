//! ⚠ Handing control to hv and back, and what interrupts the guest.
#![allow(unsafe_code, reason = "its handoffs")]

use crate::entry::{self, Place};
use crate::sys;
use core::arch::x86_64::_rdtsc;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use hv_stub::{KICK, MAX_XSAVE, PAGE, field, kind, owner, register};

unsafe extern "C" {
    // In `entry`.
    static mut hv_xsave: [u8; MAX_XSAVE];
    static mut hv_frame: [u64; 20];
    static mut hv_xsave_size: u64;
    static mut hv_pending: u8;
}

fn owner() -> &'static AtomicU32 {
    // SAFETY: the page is mapped (invariant 2), aligned, and accessed atomically here.
    unsafe { &*((PAGE + field::OWNER) as *const AtomicU32) }
}

fn get(field: u64) -> u64 {
    // SAFETY: inside the page (invariant 2), aligned.
    unsafe { ptr::read_volatile((PAGE + field) as *const u64) }
}

fn put(field: u64, value: u64) {
    // SAFETY: likewise.
    unsafe { ptr::write_volatile((PAGE + field) as *mut u64, value) }
}

fn put_kind(kind: u32) {
    // SAFETY: likewise.
    unsafe { ptr::write_volatile((PAGE + field::KIND) as *mut u32, kind) }
}

/// Hands control to hv, and waits until the guest has it again.
pub(crate) extern "C" fn cross() {
    const FUTEX_WAKE: u64 = 1;
    if owner().swap(owner::HOST, Ordering::AcqRel) == owner::GUEST_HOST_SLEEPS {
        // SAFETY: the word is mapped; nothing else is passed.
        unsafe { sys::futex(PAGE + field::OWNER, FUTEX_WAKE, 1, 0) };
    }
    wait();
}

fn wait() {
    const FUTEX_WAIT: u64 = 0;
    // SAFETY: every x86-64 processor has the counter.
    let now = || unsafe { _rdtsc() };
    let start = now();
    loop {
        match owner().load(Ordering::Acquire) {
            owner::GUEST | owner::GUEST_HOST_SLEEPS => return,
            owner::HOST if now().wrapping_sub(start) < get(field::SPIN) => core::hint::spin_loop(),
            owner::HOST => {
                let (from, to) = (owner::HOST, owner::HOST_GUEST_SLEEPS);
                let _ = owner().compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
            }
            // Also for a word that makes no sense: the filter knows this value only.
            _ => {
                let sleeping = owner::HOST_GUEST_SLEEPS.into();
                // SAFETY: the word is mapped; without a timeout nothing else is read.
                unsafe { sys::futex(PAGE + field::OWNER, FUTEX_WAIT, sleeping, 0) };
            }
        }
    }
}

/// Order of the registers in `hv_frame`, as indices of the page's: R15 … R8, RDI, RSI, RBP, RBX, RDX, RCX, RAX.
const FRAME: [u64; 15] = [15, 14, 13, 12, 11, 10, 9, 8, 5, 4, 6, 1, 3, 2, 0];
/// Of the frame for `iretq`, which follows.
const FRAME_RIP: usize = 15;
const FRAME_CS: usize = 16;
const FRAME_RFLAGS: usize = 17;
const FRAME_RSP: usize = 18;
const FRAME_SS: usize = 19;

fn word(n: u64) -> u64 {
    field::REGISTERS + 8 * n
}

fn selectors() -> (u64, u64) {
    let (cs, ss): (u64, u64);
    // SAFETY: reads two registers.
    unsafe {
        core::arch::asm!("mov {0:e}, cs", "mov {1:e}, ss", out(reg) cs, out(reg) ss, options(nomem, nostack))
    };
    (cs, ss)
}

/// What `entry` restores.
fn frame() -> &'static mut [u64; 20] {
    let frame = &raw mut hv_frame;
    // SAFETY: one thread, and no signal handler touches it while code outside of `entry` does:
    // a kick that interrupts the stub sets `hv_pending` only (invariant 1).
    unsafe { &mut *frame }
}

fn xsave() -> *mut u8 {
    (&raw mut hv_xsave).cast()
}

fn set_pending(pending: bool) {
    // SAFETY: a byte, which the handler and what it interrupts write whole.
    unsafe { ptr::write_volatile(&raw mut hv_pending, pending.into()) };
}

/// Waits for the first run, and starts the guest from what the page says. `error` is that of the filter, or 0.
pub(crate) extern "C" fn begin(error: i32) -> ! {
    if error != 0 {
        put_kind(kind::UNCONFINED);
        loop {
            cross();
        }
    }
    wait();
    let frame = frame();
    for (slot, n) in frame.iter_mut().zip(FRAME) {
        *slot = get(word(n));
    }
    (frame[FRAME_CS], frame[FRAME_SS]) = selectors();
    frame[FRAME_RFLAGS] = get(word(register::RFLAGS));
    take_redirection(frame);
    const XSTATE_BV: usize = 512;
    const X87_AND_SSE: u64 = 3;
    // SAFETY: both are as long; nothing else uses them now.
    unsafe {
        ptr::copy_nonoverlapping((PAGE + field::FPU) as *const u8, xsave(), 512);
        ptr::write(xsave().add(XSTATE_BV).cast::<u64>(), X87_AND_SSE);
        hv_xsave_size = get(field::XSAVE);
    }
    entry::resume()
}

/// Takes over where the guest is to go on.
fn take_redirection(frame: &mut [u64; 20]) {
    frame[FRAME_RIP] = get(word(register::RIP));
    frame[FRAME_RSP] = get(word(register::RSP));
    // SAFETY: inside the page, aligned.
    unsafe { ptr::write_volatile((PAGE + field::REDIRECT) as *mut u32, 0) };
}

/// Hands control to hv before the guest goes on from what is in the statics.
pub(crate) extern "C" fn interrupted() {
    set_pending(false);
    show(kind::INTERRUPTED);
    cross();
    take_redirection(frame());
}

/// Shows hv the registers that are in the statics.
fn show(kind: u32) {
    let frame = frame();
    for (slot, n) in frame.iter().zip(FRAME) {
        put(word(n), *slot);
    }
    put(word(register::RIP), frame[FRAME_RIP]);
    put(word(register::RSP), frame[FRAME_RSP]);
    put(word(register::RFLAGS), frame[FRAME_RFLAGS]);
    // SAFETY: both are as long; hv reads them while it has control only.
    unsafe { ptr::copy_nonoverlapping(xsave(), (PAGE + field::FPU) as *mut u8, 512) };
    put_kind(kind);
}

// Of `struct ucontext`: the registers, and what else is needed of them.
const UC_REGISTERS: usize = 40;
const G_RSP: usize = 15;
const G_RIP: usize = 16;
/// Offset of the address that a signal has interrupted, in `struct ucontext`.
pub(crate) const INTERRUPTED_RIP: usize = UC_REGISTERS + 8 * G_RIP;
const G_RFLAGS: usize = 17;
const G_SELECTORS: usize = 18;
const G_ERROR: usize = 19;
const G_VECTOR: usize = 20;
const G_ADDRESS: usize = 22;
const G_XSAVE: usize = 23;
/// The same registers as in [`FRAME`], by their place in `struct ucontext`.
const G_FRAME: [usize; 15] = [7, 6, 5, 4, 3, 2, 1, 0, 8, 9, 10, 11, 12, 14, 13];

// Of an XSAVE area in a signal's frame (`struct _fpx_sw_bytes`, in bytes that FXSAVE leaves alone).
const FXSAVE: usize = 512;
const SW_MAGIC: usize = 464;
const SW_COMPONENTS: usize = 472;
const SW_SIZE: usize = 480;
const MAGIC: u32 = 0x4650_5853;

/// The handler of every signal.
pub(crate) extern "C" fn on_signal(signal: i32, info: *const u8, context: *mut u8) -> ! {
    // SAFETY: the kernel made the frame, and nothing else runs on this stack.
    let registers = unsafe { &mut *context.add(UC_REGISTERS).cast::<[u64; 24]>() };
    if signal == KICK {
        match Place::of(registers[G_RIP]) {
            Place::Guest => {}
            Place::Return => {
                // SAFETY: the stub was about to do the same.
                registers[G_RIP] = unsafe { ptr::read_volatile(registers[G_RSP] as *const u64) };
                registers[G_RSP] += 8;
            }
            Place::Resume => {
                set_pending(true);
                entry::resume();
            }
            Place::Reset => {
                set_pending(true);
                entry::reset_again();
            }
            Place::Stub => {
                set_pending(true);
                return_to(registers);
            }
        }
        take(registers);
        set_pending(true);
        entry::resume();
    }
    let (vector, error) = exception(signal, info, registers);
    take(registers);
    let address = if vector == 14 { registers[G_ADDRESS] } else { 0 };
    put(field::ARGUMENTS, vector);
    put(field::ARGUMENTS + 8, error);
    put(field::ARGUMENTS + 16, address);
    show(kind::FAULT);
    cross();
    // hv has made the page present that the guest needs. After any other fault, the guest never gets control again.
    take_redirection(frame());
    entry::resume()
}

/// Puts the guest's registers into the statics.
fn take(registers: &[u64; 24]) {
    let frame = frame();
    for (slot, n) in frame.iter_mut().zip(G_FRAME) {
        *slot = registers[n];
    }
    (frame[FRAME_CS], frame[FRAME_SS]) = selectors();
    frame[FRAME_RIP] = registers[G_RIP];
    frame[FRAME_RSP] = registers[G_RSP];
    frame[FRAME_RFLAGS] = registers[G_RFLAGS];
    let (_, size) = saved(registers);
    // SAFETY: the kernel made the area as long as it says; the static has room for the host's largest.
    unsafe {
        ptr::copy_nonoverlapping(registers[G_XSAVE] as *const u8, xsave(), size.clamp(FXSAVE, MAX_XSAVE))
    };
}

/// Components of the XSAVE area in a signal's frame, and its size. No components: it is an FXSAVE area.
fn saved(registers: &[u64; 24]) -> (u64, usize) {
    let area = registers[G_XSAVE] as *const u8;
    // SAFETY: the kernel's area has these fields, whatever it is.
    unsafe {
        match ptr::read_unaligned(area.add(SW_MAGIC).cast::<u32>()) {
            MAGIC => (
                ptr::read_unaligned(area.add(SW_COMPONENTS).cast::<u64>()),
                ptr::read_unaligned(area.add(SW_SIZE).cast::<u32>()) as usize,
            ),
            _ => (0, FXSAVE),
        }
    }
}

/// Goes back to where the signal came, without the kernel.
fn return_to(registers: &mut [u64; 24]) -> ! {
    let (cs, ss) = selectors();
    let (rip, rsp) = (registers[G_RIP], registers[G_RSP]);
    let (components, _) = saved(registers);
    let xsave = registers[G_XSAVE];
    registers[G_RSP] = rip;
    registers[G_RIP] = cs;
    registers[G_SELECTORS] = rsp;
    registers[G_ERROR] = ss;
    entry::leave_signal(registers.as_mut_ptr(), xsave, components)
}

/// Vector and error code of the exception that a signal stands for.
fn exception(signal: i32, info: *const u8, registers: &mut [u64; 24]) -> (u64, u64) {
    const SIGILL: i32 = 4;
    const SIGSYS: i32 = 31;
    // `si_code`; `si_arch`, and the architecture of 64-bit system calls.
    const SI_CODE: usize = 8;
    const SI_KERNEL: u32 = 0x80;
    const SI_ARCH: usize = 28;
    const X86_64: u32 = 0xc000_003e;
    // SAFETY: the kernel made it.
    let word = |offset| unsafe { ptr::read_unaligned(info.add(offset).cast::<u32>()) };
    if signal == SIGILL && word(SI_CODE) == SI_KERNEL {
        // The answer to `uretprobe`, which Linux does not ask the filter about, if not from a probe.
        registers[G_RIP] -= 2;
        return (6, 0);
    }
    if signal != SIGSYS {
        return (registers[G_VECTOR], registers[G_ERROR]);
    }
    let arch = word(SI_ARCH);
    // The instruction, not what follows it.
    registers[G_RIP] -= 2;
    // As on a processor without system calls: an invalid opcode, or a gate that is closed.
    if arch == X86_64 { (6, 0) } else { (13, 0x80 << 3 | 2) }
}
