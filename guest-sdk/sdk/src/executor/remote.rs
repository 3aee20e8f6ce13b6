//! Work from other virtual CPUs: tasks that are sent to one, and tasks that any of them may poll.
#![forbid(unsafe_code)]

use crate::cpu_set::CpuSet;
use crate::event;
use crate::per_cpu::{self, PerCpu, per_cpu};
use crate::sync::Mutex;
use crate::targets;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use async_task::Runnable;
use core::future::Future;
use core::sync::atomic::{AtomicBool, Ordering};

/// Begins a task on the virtual CPU that runs this.
type Begin = Box<dyn FnOnce() + Send>;

/// Tasks that were sent to a virtual CPU.
static SENT: PerCpu<Mutex<Vec<Begin>>> = per_cpu!(Mutex::new(Vec::new()));
/// Whether there are any.
static ANY_SENT: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// Tasks that can run, on any virtual CPU.
static RUNNABLE: Mutex<VecDeque<Runnable>> = Mutex::new(VecDeque::new());
/// Whether there may be one.
static ANY_RUNNABLE: AtomicBool = AtomicBool::new(false);

/// Virtual CPUs that wait for something to do.
static WAITING: CpuSet = CpuSet::new();

/// Most shared tasks that a virtual CPU polls before it polls its own.
const BATCH: usize = 16;

/// Sends a task to a virtual CPU, which begins it.
pub(crate) fn send(cpu: usize, begin: Begin) {
    SENT[cpu].lock().push(begin);
    ANY_SENT[cpu].store(true, Ordering::SeqCst);
    if cpu != per_cpu::current() {
        event::notify_cpu(cpu);
    }
}

/// A task that any virtual CPU may poll. Its handle gives the result. Dropping the handle cancels the task.
pub(crate) fn share<F>(future: F) -> async_task::Task<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (runnable, task) = async_task::spawn(future, |runnable| {
        RUNNABLE.lock().push_back(runnable);
        ANY_RUNNABLE.store(true, Ordering::SeqCst);
        wake_one();
    });
    runnable.schedule();
    task
}

/// Wakes a virtual CPU that waits for something to do, and that the guest should use.
fn wake_one() {
    if let Some(cpu) = WAITING.take_one_below(targets::followed()) {
        event::notify_cpu(cpu);
    }
}

/// Whether this virtual CPU polls tasks that any may poll. One at or above the target does not.
fn shares() -> bool {
    !per_cpu::several() || per_cpu::current() < targets::followed()
}

/// Begins the tasks that were sent to this virtual CPU, and polls tasks that any may poll.
pub(super) fn run() {
    if ANY_SENT.own().load(Ordering::Relaxed) && ANY_SENT.own().swap(false, Ordering::SeqCst) {
        let sent = core::mem::take(&mut *SENT.own().lock());
        sent.into_iter().for_each(|begin| begin());
    }
    if !shares() {
        // It may have been woken for such a task, before the target fell.
        if ANY_RUNNABLE.load(Ordering::SeqCst) {
            wake_one();
        }
        return;
    }
    for _ in 0..BATCH {
        if !ANY_RUNNABLE.load(Ordering::Relaxed) {
            return;
        }
        let taken = {
            let mut runnable = RUNNABLE.lock();
            let taken = runnable.pop_front();
            ANY_RUNNABLE.store(!runnable.is_empty(), Ordering::SeqCst);
            taken
        };
        let Some(taken) = taken else { return };
        taken.run();
    }
}

/// Whether [`run`] has nothing to do. If so, this virtual CPU is marked as waiting.
pub(super) fn is_idle() -> bool {
    if !per_cpu::several() {
        return !any();
    }
    WAITING.insert(per_cpu::current());
    // Work that was added before this point may not have seen that this virtual CPU waits. So check again.
    let idle = !any();
    if !idle {
        WAITING.remove(per_cpu::current());
    }
    idle
}

fn any() -> bool {
    any_sent() || ANY_RUNNABLE.load(Ordering::SeqCst) && shares()
}

/// Whether tasks that were sent to this virtual CPU have not begun.
pub(super) fn any_sent() -> bool {
    ANY_SENT.own().load(Ordering::SeqCst)
}

/// This virtual CPU no longer waits.
pub(super) fn woke() {
    if per_cpu::several() {
        WAITING.remove(per_cpu::current());
    }
}
