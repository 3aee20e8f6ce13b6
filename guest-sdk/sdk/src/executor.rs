//! ⚠ The async executor: tasks, timers and events. Each virtual CPU has its own.
//!
//! Tasks are in embassy's run queue. This module decides when they are polled. It polls the woken tasks, then wakes the
//! wakers of events and expired timers. When there is nothing left to do, it waits once for the next event or timer: it
//! polls first, then makes the `block` hypercall (see [`event::wait`]).
#![allow(unsafe_code, reason = "tasks that wake each other by address")]

pub(crate) mod remote;

use crate::per_cpu::{self, PerCpu, STACK_SIZE, per_cpu};
use crate::tasks::{self, Listed};
use crate::{doorbell, event, hypercall, timer};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::Future;
use core::panic::Location;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use embassy_executor::raw;
use spin::{Mutex, Once};

struct Executor(raw::Executor);

// SAFETY: `raw::Executor` is not `Sync` so that it is polled by one thread. Each of these is polled by its virtual CPU
// only. Other virtual CPUs only wake its tasks, which embassy allows from anywhere.
unsafe impl Sync for Executor {}
// SAFETY: as for `Sync`.
unsafe impl Send for Executor {}

static EXECUTOR: PerCpu<Once<Executor>> = per_cpu!(Once::new());

/// The run queue of a virtual CPU is not empty.
static PENDED: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));
/// The future given to [`block_on`] was woken.
static WOKEN: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// Tasks that live on a virtual CPU: they cannot move to another one.
static LIVE: PerCpu<AtomicUsize> = per_cpu!(AtomicUsize::new(0));

/// What [`call_in_each_step`] was given.
static IN_EACH_STEP: Once<fn()> = Once::new();

/// Has a function called by each virtual CPU in each of its steps, after everything else, before it waits. The module `cpu` uses this, so that
/// guests without further virtual CPUs need not have its code.
pub(crate) fn call_in_each_step(function: fn()) {
    IN_EACH_STEP.call_once(|| function);
}

/// Whether this virtual CPU has work that no other one can do.
pub(crate) fn has_own_tasks() -> bool {
    LIVE.own().load(Ordering::SeqCst) > 0 || PENDED.own().load(Ordering::SeqCst) || remote::any_sent()
}

/// The executor of this virtual CPU. Its context is the number of the virtual CPU.
fn executor() -> &'static raw::Executor {
    let made = || Executor(raw::Executor::new(context(per_cpu::current())));
    &EXECUTOR.own().call_once(made).0
}

/// A virtual CPU's number as a pointer that is never dereferenced.
fn context(cpu: usize) -> *mut () {
    core::ptr::without_provenance_mut(cpu)
}

/// Records that there is work on the virtual CPU with this context.
fn tell(cpu: usize, flag: &PerCpu<AtomicBool>) {
    flag[cpu].store(true, Ordering::SeqCst);
    if cpu != per_cpu::current() {
        event::notify_cpu(cpu);
    }
}

// Embassy calls this when the run queue stops being empty.
#[unsafe(export_name = "__pender")]
fn pender(context: *mut ()) {
    tell(context.addr(), &PENDED);
}

/// The waker of the future given to [`block_on`]. A virtual CPU has only one such future at a time, so the waker is a flag.
fn main_waker() -> Waker {
    // One table at one address: wakers are compared by it.
    static TABLE: RawWakerVTable = RawWakerVTable::new(|cpu| RawWaker::new(cpu, &TABLE), wake, wake, |_| ());
    fn wake(cpu: *const ()) {
        tell(cpu.addr(), &WOKEN);
    }
    // SAFETY: the data pointer is never dereferenced, and every function may be called from anywhere, any number of times.
    unsafe { Waker::from_raw(RawWaker::new(context(per_cpu::current()), &TABLE)) }
}

/// Runs a future to completion, and meanwhile every [spawned](spawn) task.
///
/// # Panics
///
/// When called from async code: a task that occupies the executor would wait for tasks that the executor cannot run.
#[track_caller]
pub fn block_on<F: Future>(future: F) -> F::Output {
    assert!(!tasks::set_running(true), "block_on was called from async code; use .await there");
    let mut future = pin!(Listed::new::<F>(future, Location::caller()));
    future.as_mut().link();
    let waker = main_waker();
    let mut context = Context::from_waker(&waker);
    WOKEN.own().store(true, Ordering::Relaxed);
    loop {
        if WOKEN.own().swap(false, Ordering::SeqCst)
            && let Poll::Ready(output) = future.as_mut().poll(&mut context)
        {
            tasks::set_running(false);
            doorbell::ring();
            return output;
        }
        step();
    }
}

/// Runs tasks, including those of other virtual CPUs, as long as the guest runs. Virtual CPUs other than the first run this.
pub(crate) fn run() -> ! {
    tasks::set_running(true);
    loop {
        step();
    }
}

/// Polls tasks, dispatches events and timers, and waits if there was nothing to do.
fn step() {
    if PENDED.own().swap(false, Ordering::SeqCst) {
        // SAFETY: `set_running` keeps this from being entered twice, and the
        // pender does not poll.
        unsafe { executor().poll() };
    }
    remote::run();
    let left = doorbell::ring_but_one();
    event::dispatch();
    let next = timer::expire();
    assert!(per_cpu::stack_is_sound(), "the stack of a virtual CPU, of {STACK_SIZE} bytes, has overflowed");
    if let Some(function) = IN_EACH_STEP.get() {
        function();
    }
    // If a handler wakes a task after the check, that has to end the wait.
    let _masked = event::upcall::mask();
    let woken = || WOKEN.own().load(Ordering::SeqCst) || PENDED.own().load(Ordering::SeqCst);
    if !woken() && remote::is_idle() {
        event::ring_and_wait(left, next);
        remote::woke();
    } else {
        left.into_iter().for_each(hypercall::event_send);
    }
}

/// Starts tasks. Every async `main` can have one, and [`spawner`] makes one for a plain `main`. [`spawn`] needs none.
#[derive(Clone, Copy, Debug)]
pub struct Spawner(());

/// A [`Spawner`] for code that was not given one, for example `block_on(net::up(spawner()))` in a plain `main`.
pub fn spawner() -> Spawner {
    Spawner(())
}

impl Spawner {
    /// See [`spawn`].
    #[track_caller]
    pub fn spawn(self, future: impl Future<Output = ()> + 'static) {
        spawn(future);
    }

    /// Embassy's spawner of the same executor, for functions with `#[embassy_executor::task]`. This virtual CPU is not stopped any more,
    /// since such tasks are not counted.
    pub fn embassy(self) -> embassy_executor::Spawner {
        LIVE.own().fetch_add(1, Ordering::SeqCst);
        executor().spawner()
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;
type StorageRef = &'static raw::TaskStorage<Task>;

/// Storages whose task has ended. Embassy requires that storages live for ever, so they are reused. There are never more
/// than there were tasks at one time. Each virtual CPU has those of its own tasks.
static FREE: PerCpu<Mutex<Vec<FreeStorage>>> = per_cpu!(Mutex::new(Vec::new()));

struct FreeStorage(StorageRef);

// SAFETY: the storage is empty (its task has ended), so that nothing that is
// not `Send` is in it.
unsafe impl Send for FreeStorage {}

/// Runs a future concurrently with other tasks, until it ends or the guest does.
///
/// Tasks run while `main` is in [`block_on`] or, in an async `main`, awaits.
#[track_caller]
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    start(future, Location::caller());
}

pub(crate) fn start<F: Future<Output = ()> + 'static>(future: F, spawned: &'static Location<'static>) {
    let reused = FREE.own().lock().pop();
    let storage = reused.map_or_else(|| &*Box::leak(Box::new(raw::TaskStorage::new())), |free| free.0);
    let task = async move {
        future.await;
        // The last thing the task does: nothing runs on this virtual CPU between this and the
        // moment when embassy marks the storage as unused.
        FREE.own().lock().push(FreeStorage(storage));
        LIVE.own().fetch_sub(1, Ordering::SeqCst);
    };
    LIVE.own().fetch_add(1, Ordering::SeqCst);
    let mut task = Box::pin(Listed::new::<F>(task, spawned));
    task.as_mut().link();
    let task: Task = task;
    match storage.spawn(|| task) {
        Ok(token) => executor().spawner().spawn(token),
        Err(_) => unreachable!("a storage in the list of free ones has no task"),
    }
}

/// Lets other tasks run and events be dispatched before this one continues.
pub async fn yield_now() {
    embassy_futures::yield_now().await;
}
