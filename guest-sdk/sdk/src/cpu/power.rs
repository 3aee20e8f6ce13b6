//! ⚠ Starting and stopping virtual CPUs, as the host's target says.
//!
//! Whether a virtual CPU runs is a flag, `RUNS`. Who sets it from false to true has to start it, and is the only one; the
//! virtual CPU itself clears it before it stops. If it has got work since, either it takes the flag back, or somebody
//! else has set it, and starts it again as soon as it has stopped. So no work is left on one that is stopped.
#![allow(unsafe_code, reason = "the entry point of further virtual CPUs, and their stacks")]

use crate::executor::{self, remote};
use crate::per_cpu::{self, PerCpu, STACK_SIZE, StackBottom, per_cpu};
use crate::{event, hypercall, memory, targets, timer};
use alloc::alloc::alloc;
use alloc::boxed::Box;
use core::alloc::Layout;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hv_abi::Errno;
use spin::Once;

/// Whether a virtual CPU runs, or is being started. Not used of the first one.
static RUNS: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// The top of the stack of a virtual CPU. It is kept while that is stopped. 0: it has none yet.
static STACKS: PerCpu<AtomicU64> = per_cpu!(AtomicU64::new(0));

/// The number of the change of the target that was last carried out, counted from 1; 0: none.
static CARRIED_OUT: AtomicU32 = AtomicU32::new(0);

/// Makes the guest one with several virtual CPUs, which follows the target from now on. Called on the first one.
pub(super) fn begin_to_follow() {
    static PREPARED: Once = Once::new();
    if per_cpu::possible() > 1 {
        PREPARED.call_once(|| {
            memory::prepare_arenas();
            per_cpu::set_several();
            event::accept_notifications();
            executor::call_in_each_step(follow);
            carry_out_target();
        });
    }
}

/// There is no room in the heap for the stack of a virtual CPU.
#[derive(Debug)]
pub(super) struct NoStack;

impl fmt::Display for NoStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no room for its stack of {STACK_SIZE} bytes; `--memory SIZE` gives more")
    }
}

/// Starts a virtual CPU, unless it runs. It stops by itself when it is at or above the target and has nothing to do.
pub(super) fn start(cpu: usize) -> Result<(), NoStack> {
    if cpu == 0 || RUNS[cpu].compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Ok(());
    }
    let Some(stack) = stack_of(cpu) else {
        RUNS[cpu].store(false, Ordering::SeqCst);
        return Err(NoStack);
    };
    let (number, entry) = (cpu as u32, hv_cpu_start as *const () as u64);
    loop {
        // SAFETY: the entry point takes the number and a stack of this size. Only this virtual CPU uses it, which does not run.
        match unsafe { hypercall::vcpu_start(number, entry, stack) } {
            Ok(()) => return Ok(()),
            // It is about to stop: it has cleared the flag, and does nothing else any more.
            Err(Errno::Busy) => hypercall::yield_now(),
            Err(error) => panic!("virtual CPU {cpu} does not start: {error}"),
        }
    }
}

/// The top of the stack of a virtual CPU. Called only by who starts it.
fn stack_of(cpu: usize) -> Option<u64> {
    let known = STACKS[cpu].load(Ordering::SeqCst);
    if known != 0 {
        return Some(known);
    }
    let layout = Layout::from_size_align(STACK_SIZE, STACK_SIZE).expect("a power of two");
    // SAFETY: the size is not 0.
    let stack = unsafe { alloc(layout) };
    if stack.is_null() {
        return None;
    }
    // SAFETY: the block is this large and aligned, and nothing else uses it. It is never freed.
    unsafe { stack.cast::<StackBottom>().write(StackBottom::new(cpu)) };
    let top = stack as u64 + STACK_SIZE as u64;
    STACKS[cpu].store(top, Ordering::SeqCst);
    Some(top)
}

/// What each virtual CPU does in each of its steps.
fn follow() {
    carry_out_target();
    let me = per_cpu::current();
    if me >= targets::followed() && !executor::has_own_tasks() {
        stop(me);
    }
}

/// If the target has changed: starts the virtual CPUs below it, and has the others look whether they can stop.
fn carry_out_target() {
    let changes = event::target_changes().wrapping_add(1);
    if CARRIED_OUT.load(Ordering::SeqCst) == changes {
        return;
    }
    CARRIED_OUT.store(changes, Ordering::SeqCst);
    loop {
        let target = targets::vcpus();
        targets::follow(target);
        for cpu in 1..per_cpu::possible() {
            if cpu < target {
                // A target is a request: the lack of a stack is no reason to end.
                if let Err(error) = start(cpu) {
                    log::warn!("virtual CPU {cpu} is not used: {error}");
                    break;
                }
            } else if RUNS[cpu].load(Ordering::SeqCst) {
                event::notify_cpu(cpu);
            }
        }
        // If several do this at the same time, who was last may have had an old target.
        if targets::vcpus() == target && targets::followed() == target {
            return;
        }
    }
}

/// Stops this virtual CPU, which has no tasks of its own. It continues at its entry point. If there is work for it again, this returns.
fn stop(me: usize) {
    let _masked = event::upcall::mask();
    // Tasks that may move have registered here for events and times. The first virtual CPU looks after them from now on.
    let (events, timers) = (event::disown(), timer::disown());
    if events.iter().any(|bits| *bits != 0) || !timers.is_empty() {
        let adopt = move || {
            event::adopt(events);
            timer::adopt(timers);
        };
        remote::send(0, Box::new(adopt));
    }
    RUNS[me].store(false, Ordering::SeqCst);
    let is_needed = me < targets::followed() || executor::has_own_tasks();
    if is_needed && RUNS[me].compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        return;
    }
    event::mask_all();
    loop {
        // The first virtual CPU never stops, so this one is not the last.
        hypercall::vcpu_stop();
    }
}

/// Where virtual CPUs other than the first begin, each time that they are started. RDI holds the number, RSP the top of the stack, aligned
/// to 16: after the call it is where the System V convention wants it. The frame chain and the call frame information end here.
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
