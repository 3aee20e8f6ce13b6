//! ⚠ Virtual CPUs: their number, and work for other virtual CPUs.
//!
//! A guest begins on its first virtual CPU. A program that uses only this one need not know of the others. The first
//! [`spawn_on`], [`spawn_any`] or [`start`] starts all of them: each runs an executor of its own, like the one in
//! [`block_on`](crate::block_on).
//!
//! - [`spawn`](crate::spawn) starts a task that stays on the virtual CPU of the caller, so it need not be `Send`.
//! - [`spawn_on`] starts a task on another one, where it stays.
//! - [`spawn_any`] starts a task that moves to any virtual CPU that has nothing else to do.
//!
//! Devices belong to the virtual CPU that uses them first: call `net::up`, and wait for events, from tasks of one virtual
//! CPU. Console, log, heap, random numbers, clock and timers can be used on all of them.
//!
//! A virtual CPU runs as long as the guest does. The guest ends when `main` returns, whatever the other virtual CPUs do then.
#![allow(unsafe_code, reason = "the entry point of further virtual CPUs, and their stacks")]

use crate::executor::{self, remote};
use crate::per_cpu::{self, STACK_SIZE, StackBottom};
use crate::start_info::start_info;
use crate::{event, hypercall, memory};
use alloc::alloc::alloc;
use alloc::boxed::Box;
use core::alloc::Layout;
use core::future::Future;
use core::panic::Location;
use spin::Once;

pub use crate::per_cpu::PerCpu;

/// Most virtual CPUs of a guest.
pub const MAX: usize = per_cpu::MAX;

/// A task that any virtual CPU may poll, and its result. Dropping it cancels the task; `detach` lets the task continue.
pub use async_task::Task;

/// How many virtual CPUs the guest has: at least 1.
pub fn count() -> usize {
    let count = start_info().vcpus as usize;
    // Hosts before ABI 1.4 have one.
    if start_info().vcpu_info.0 == 0 { 1 } else { count.clamp(1, MAX) }
}

/// The number of the virtual CPU that this code runs on, counted from 0. A task of [`spawn_any`] may be on another one after each `await`.
pub fn current() -> usize {
    per_cpu::current()
}

/// Starts all virtual CPUs, unless they run already. The first task for another virtual CPU does this as well.
pub fn start() {
    static STARTED: Once = Once::new();
    if count() > 1 {
        STARTED.call_once(start_all);
    }
}

/// Runs a task on this virtual CPU, where it stays. `begin` is called there and makes the task's future, which need not be `Send`.
///
/// # Panics
///
/// If there is no such virtual CPU.
#[track_caller]
pub fn spawn_on<F: Future<Output = ()> + 'static>(cpu: usize, begin: impl FnOnce() -> F + Send + 'static) {
    assert!(cpu < count(), "there is no virtual CPU {cpu}; the guest has {}", count());
    start();
    let spawned = Location::caller();
    remote::send(cpu, Box::new(move || executor::start(begin(), spawned)));
}

/// Runs a task on any virtual CPU that has nothing else to do. It may move to another one at each `await`.
pub fn spawn_any<F>(future: F) -> Task<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    start();
    remote::share(future)
}

/// Where virtual CPUs other than the first begin. RDI holds the number, RSP the top of the stack, aligned to 16: after the call it is where
/// the System V convention wants it. The frame chain and the call frame information end here.
///
/// A function, not `global_asm!`, which would bring the executor into guests that never start a virtual CPU.
#[unsafe(naked)]
unsafe extern "C" fn hv_cpu_start() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "xor %ebp, %ebp",
        "call {begin}",
        "ud2",
        ".cfi_endproc",
        begin = sym begin,
        options(att_syntax)
    )
}

extern "C" fn begin() -> ! {
    event::accept_notifications();
    event::upcall::unmask();
    executor::run()
}

fn start_all() {
    memory::prepare_arenas();
    per_cpu::set_several();
    event::accept_notifications();
    for number in 1..count() {
        let layout = Layout::from_size_align(STACK_SIZE, STACK_SIZE).expect("a power of two");
        // SAFETY: the size is not 0.
        let stack = unsafe { alloc(layout) };
        assert!(
            !stack.is_null(),
            "no room for the {STACK_SIZE} bytes of stack of virtual CPU {number}; `--memory SIZE` gives more"
        );
        // SAFETY: the block is this large and aligned, and nothing else uses it.
        unsafe { stack.cast::<StackBottom>().write(StackBottom::new(number)) };
        let top = stack as u64 + STACK_SIZE as u64;
        // SAFETY: the entry point takes the number and a stack of this size, which nothing else uses and which is never freed.
        let started = unsafe { hypercall::vcpu_start(number as u32, hv_cpu_start as *const () as u64, top) };
        if let Err(error) = started {
            panic!("virtual CPU {number} does not start: {error}");
        }
    }
}
