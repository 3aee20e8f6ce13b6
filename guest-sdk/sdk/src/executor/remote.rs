//! Work that comes from other virtual CPUs: tasks that are sent to one, and tasks that any of them may poll.
#![forbid(unsafe_code)]

use crate::cpu_set::CpuSet;
use crate::event;
use crate::per_cpu::{self, PerCpu, per_cpu};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use async_task::Runnable;
use core::future::Future;
use core::sync::atomic::{AtomicBool, Ordering};

/// Begins a task on the virtual CPU that takes it.
type Begin = Box<dyn FnOnce() + Send>;

/// What was sent to a virtual CPU.
static SENT: PerCpu<Mutex<Vec<Begin>>> = per_cpu!(Mutex::new(Vec::new()));
/// Says that there is something.
static ANY_SENT: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// Tasks that can run, on whichever virtual CPU.
static RUNNABLE: Mutex<VecDeque<Runnable>> = Mutex::new(VecDeque::new());
/// Says that there may be one.
static ANY_RUNNABLE: AtomicBool = AtomicBool::new(false);

/// Virtual CPUs that wait for something to do.
static WAITING: CpuSet = CpuSet::new();

/// Most tasks of all virtual CPUs that one polls before it looks at its own.
const BATCH: usize = 16;

/// Sends a virtual CPU something to begin.
pub(crate) fn send(cpu: usize, begin: Begin) {
    SENT[cpu].lock().push(begin);
    ANY_SENT[cpu].store(true, Ordering::SeqCst);
    if cpu != per_cpu::current() {
        event::notify_cpu(cpu);
    }
}

/// A task that any virtual CPU may poll. Its result comes from the handle, which cancels the task when it is dropped.
pub(crate) fn share<F>(future: F) -> async_task::Task<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (runnable, task) = async_task::spawn(future, |runnable| {
        RUNNABLE.lock().push_back(runnable);
        ANY_RUNNABLE.store(true, Ordering::SeqCst);
        if let Some(cpu) = WAITING.take_one() {
            event::notify_cpu(cpu);
        }
    });
    runnable.schedule();
    task
}

/// Begins what was sent to this virtual CPU, and polls tasks that any may poll.
pub(super) fn run() {
    if ANY_SENT.own().load(Ordering::Relaxed) && ANY_SENT.own().swap(false, Ordering::SeqCst) {
        let sent = core::mem::take(&mut *SENT.own().lock());
        sent.into_iter().for_each(|begin| begin());
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

/// Whether [`run`] has something to do. Says that this virtual CPU waits if not.
pub(super) fn is_idle() -> bool {
    if !per_cpu::several() {
        return !any();
    }
    WAITING.insert(per_cpu::current());
    // Whoever has added something before has not seen that this virtual CPU waits.
    let idle = !any();
    if !idle {
        WAITING.remove(per_cpu::current());
    }
    idle
}

fn any() -> bool {
    ANY_SENT.own().load(Ordering::SeqCst) || ANY_RUNNABLE.load(Ordering::SeqCst)
}

/// This virtual CPU does not wait any more.
pub(super) fn woke() {
    if per_cpu::several() {
        WAITING.remove(per_cpu::current());
    }
}
