//! ⚠ Calls through the hypercall page.
//!
//! The raw calls, as `docs/abi.md` describes them. Most guests use the modules above.
#![allow(unsafe_code, reason = "calls through the hypercall page")]

use crate::per_cpu;
use crate::start_info::start_info;
use hv_abi::hypercall::{ERROR_OUTPUT_MAX, Hypercall, STUB_SIZE};
use hv_abi::{Errno, EventPort, PAGE_SIZE};

fn call(call: Hypercall, first: u64, second: u64) -> i64 {
    number(call as u32, [first, second, 0])
}

/// Makes the call with this number, which is below 128: the page has 128 stubs. Each virtual CPU has a page of its own.
fn number(number: u32, [first, second, third]: [u64; 3]) -> i64 {
    let page = start_info().hypercall_page.0 + per_cpu::current() as u64 * PAGE_SIZE;
    let stub = page + u64::from(number) * STUB_SIZE;
    let result: i64;
    // SAFETY: the host filled this address with a stub that follows the System V convention (ABI of the hypercall page);
    // `clobber_abi` declares what that may change. Memory that the host may write is either shared memory, which this
    // crate reads with atomics and volatile copies only, or a buffer whose address was passed and which the caller holds
    // exclusively. Since `nomem` is not declared, the compiler treats memory as changed.
    unsafe {
        core::arch::asm!(
            "call {stub}",
            stub = in(reg) stub,
            inlateout("rdi") first => _,
            inlateout("rsi") second => _,
            inlateout("rdx") third => _,
            lateout("rax") result,
            clobber_abi("sysv64"),
        );
    }
    result
}

fn check(result: i64) -> Result<u64, Errno> {
    match result {
        0.. => Ok(result as u64),
        _ => Errno::check(i32::try_from(result).unwrap_or(i32::MIN)).map(u64::from),
    }
}

/// Crosses the boundary and returns.
pub fn nop() {
    call(Hypercall::Nop, 0, 0);
}

/// Rings the doorbell of an event channel.
pub fn event_send(port: EventPort) {
    call(Hypercall::EventSend, u64::from(port.0), 0);
}

/// Ends the guest with this exit code. The host still writes the output that was printed.
pub fn exit(code: u8) -> ! {
    loop {
        call(Hypercall::Exit, u64::from(code), 0);
    }
}

/// Ends the guest as crashed, for this reason.
pub fn panic(message: &str) -> ! {
    loop {
        call(Hypercall::Panic, message.as_ptr() as u64, message.len() as u64);
    }
}

/// Waits until an unmasked event is pending (true) or until the guest's clock
/// reads `deadline` nanoseconds (false).
pub fn block(deadline: u64) -> bool {
    call(Hypercall::Block, deadline, 0) == 1
}

/// Rings the doorbell of an event channel, and then waits as [`block`] does.
pub fn send_and_block(port: EventPort, deadline: u64) -> bool {
    call(Hypercall::SendAndBlock, u64::from(port.0), deadline) == 1
}

/// Lets other guests use the processor.
pub fn yield_now() {
    call(Hypercall::Yield, 0, 0);
}

/// The host's wall clock, in nanoseconds since 1970-01-01 UTC.
pub fn wall_clock() -> u64 {
    call(Hypercall::WallClock, 0, 0) as u64
}

/// Fills at most 256 bytes from the host's random generator.
///
/// # Errors
///
/// [`Errno::Invalid`] for more than 256 bytes, [`Errno::Io`] if the host has no random numbers.
pub fn entropy(bytes: &mut [u8]) -> Result<(), Errno> {
    check(call(Hypercall::Entropy, bytes.as_mut_ptr() as u64, bytes.len() as u64)).map(drop)
}

/// Tells the host that the guest has finished starting and begins its work. `hv run --stats` reports how long that took,
/// and a snapshot that waits for this is made here. Clones of it return from this call.
pub fn ready() {
    call(Hypercall::Ready, 0, 0);
}

/// Writes text to the error output. Returns how many bytes were taken: at most 4096, and 0 if its reader is slow.
///
/// # Errors
///
/// [`Errno::NoSys`] if the host has no error output.
pub fn error_output(text: &[u8]) -> Result<usize, Errno> {
    let len = text.len().min(ERROR_OUTPUT_MAX as usize);
    check(call(Hypercall::ErrorOutput, text.as_ptr() as u64, len as u64))
        .map(|count| (count as usize).min(len))
}

/// Makes the host redirect the guest to the code at this address when events come; 0 ends that. `event::on_upcall` does
/// this for handlers in Rust.
pub(crate) fn set_upcall(handler: u64) -> Result<(), Errno> {
    check(call(Hypercall::SetUpcall, handler, 0)).map(drop)
}

/// Starts a stopped virtual CPU at `entry`, with its number in RDI and RSP at `stack`. `cpu` does this for code in Rust.
///
/// # Safety
///
/// The stack and memory must be as the code at `entry` requires.
///
/// # Errors
///
/// [`Errno::Invalid`] if there is no such virtual CPU, [`Errno::Busy`] if it runs, [`Errno::Fault`] if the guest cannot
/// execute the code or write the stack.
pub unsafe fn vcpu_start(vcpu: u32, entry: u64, stack: u64) -> Result<(), Errno> {
    check(number(Hypercall::VcpuStart as u32, [vcpu.into(), entry, stack])).map(drop)
}

/// Stops this virtual CPU until another one starts it again. On the last running one, it returns without stopping.
pub fn vcpu_stop() {
    call(Hypercall::VcpuStop, 0, 0);
}

/// Says that the free map has pages that the host may empty.
pub(crate) fn free_pages() {
    call(Hypercall::FreePages, 0, 0);
}

/// Makes a call with any number (modulo 128) and any arguments, for tests of the host.
#[doc(hidden)]
pub fn raw(call: u32, first: u64, second: u64) -> i64 {
    raw3(call, first, second, 0)
}

/// The same with all three arguments.
#[doc(hidden)]
pub fn raw3(call: u32, first: u64, second: u64, third: u64) -> i64 {
    number(call % 128, [first, second, third])
}
