//! ⚠ Whether tasks run, and the list of tasks that the host shows when it inspects the guest ([`hv_abi::tasks`]).
//!
//! A task's entry is a part of its own memory. So there is memory for every entry, and a poll writes only to memory that
//! it would write to anyway.
#![allow(unsafe_code, reason = "the list of tasks that the host reads")]

use crate::per_cpu::{PerCpu, per_cpu};
use core::future::Future;
use core::marker::PhantomPinned;
use core::mem::offset_of;
use core::panic::Location;
use core::pin::Pin;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use core::task::{Context, Poll};
use hv_abi::tasks::{
    TASK_RUNS, TASK_WAITS, TASK_WAITS_FOR_EVENT, TASK_WAITS_FOR_TIME, TASKS_NOTE_TYPE, TASKS_VERSION,
    TaskInfo, TasksNote,
};
use spin::Mutex;

/// The executor of a virtual CPU is running.
static RUNNING: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// The task that a virtual CPU is polling; null outside of tasks.
static CURRENT: PerCpu<AtomicPtr<TaskEntry>> = per_cpu!(AtomicPtr::new(null_mut()));

/// Held while the list is changed.
static CHANGING: Mutex<()> = Mutex::new(());

/// Sets whether the executor runs from now on. Returns whether it did before.
pub(crate) fn set_running(running: bool) -> bool {
    RUNNING.own().swap(running, Ordering::Relaxed)
}

/// Whether the executor is running.
pub(crate) fn is_running() -> bool {
    RUNNING.own().load(Ordering::Relaxed)
}

/// The head of the list, and a field that the host does not read.
#[repr(C)]
struct List {
    first: AtomicPtr<TaskEntry>,
    last: AtomicPtr<TaskEntry>,
}

const _: () = assert!(offset_of!(List, first) == 0);

// Exported under a name that debuggers find.
#[unsafe(export_name = "hv_task_list")]
static LIST: List = List { first: AtomicPtr::new(null_mut()), last: AtomicPtr::new(null_mut()) };

// The note that says where the list is. Only the linker knows the distance between the two sections.
core::arch::global_asm!(
    ".pushsection .note.hv, \"a\", @note",
    ".balign 8",
    ".long 3, {size}, {kind}",
    ".asciz \"hv\"",
    ".balign 4",
    ".long {version}, 0",
    ".quad {list} - .",
    ".popsection",
    size = const size_of::<TasksNote>(),
    kind = const TASKS_NOTE_TYPE,
    version = const TASKS_VERSION,
    list = sym LIST,
);

/// [`TaskInfo`], and fields that the host does not read.
#[repr(C)]
struct TaskEntry {
    next: AtomicPtr<TaskEntry>,
    name: *const u8,
    name_size: u32,
    state: AtomicU32,
    file: *const u8,
    file_size: u32,
    line: u32,
    deadline: AtomicU64,
    event: AtomicU32,
    reserved: u32,
    previous: AtomicPtr<TaskEntry>,
    /// Whether it is in the list.
    linked: bool,
    /// Its neighbours in the list point to it.
    _pinned: PhantomPinned,
}

const _: () = {
    assert!(offset_of!(TaskEntry, state) == offset_of!(TaskInfo, state));
    assert!(offset_of!(TaskEntry, line) == offset_of!(TaskInfo, line));
    assert!(offset_of!(TaskEntry, deadline) == offset_of!(TaskInfo, deadline));
    assert!(offset_of!(TaskEntry, event) == offset_of!(TaskInfo, event));
    assert!(offset_of!(TaskEntry, previous) == size_of::<TaskInfo>());
};

impl TaskEntry {
    fn new(name: &'static str, spawned: &'static Location<'static>) -> TaskEntry {
        TaskEntry {
            next: AtomicPtr::new(null_mut()),
            name: name.as_ptr(),
            name_size: name.len() as u32,
            state: AtomicU32::new(TASK_RUNS),
            file: spawned.file().as_ptr(),
            file_size: spawned.file().len() as u32,
            line: spawned.line(),
            deadline: AtomicU64::new(0),
            event: AtomicU32::new(0),
            reserved: 0,
            previous: AtomicPtr::new(null_mut()),
            linked: false,
            _pinned: PhantomPinned,
        }
    }

    /// Appends the entry to the list. The host may read between any two stores: whatever it can reach is complete.
    ///
    /// # Safety
    ///
    /// The entry is pinned, so that it is dropped before its memory is reused; and it is not linked.
    unsafe fn link(this: *mut TaskEntry) {
        let _changing = CHANGING.lock();
        let last = LIST.last.load(Ordering::Relaxed);
        // SAFETY: the caller guarantees it; entries in the list are pinned, too, and leave it when they are dropped.
        unsafe {
            (*this).linked = true;
            (*this).previous.store(last, Ordering::Relaxed);
            let from = if last.is_null() { &LIST.first } else { &(*last).next };
            from.store(this, Ordering::Release);
        }
        LIST.last.store(this, Ordering::Relaxed);
    }
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        if !self.linked {
            return;
        }
        let _changing = CHANGING.lock();
        let (next, previous) = (self.next.load(Ordering::Relaxed), self.previous.load(Ordering::Relaxed));
        // SAFETY: entries in the list are pinned, and this one leaves it here; the lock keeps others from changing the list meanwhile.
        unsafe {
            let from = if previous.is_null() { &LIST.first } else { &(*previous).next };
            from.store(next, Ordering::Release);
            let back = if next.is_null() { &LIST.last } else { &(*next).previous };
            back.store(previous, Ordering::Relaxed);
        }
    }
}

/// A future that is in the list from [`link`](Self::link) until it is dropped.
pub(crate) struct Listed<F> {
    future: F,
    entry: TaskEntry,
}

impl<F: Future> Listed<F> {
    /// For a task whose future is of the type `T`: `future` may be that, or wrap it.
    pub(crate) fn new<T>(future: F, spawned: &'static Location<'static>) -> Self {
        Listed { future, entry: TaskEntry::new(core::any::type_name::<T>(), spawned) }
    }

    /// To be called once.
    pub(crate) fn link(self: Pin<&mut Self>) {
        // SAFETY: nothing is moved out. The entry is pinned as a part of `self`; it is not linked before.
        unsafe { TaskEntry::link(&raw mut self.get_unchecked_mut().entry) }
    }
}

impl<F: Future> Future for Listed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: nothing is moved out: the future is pinned as a part of `self`.
        let this: *mut Self = unsafe { self.get_unchecked_mut() };
        // SAFETY: the pointer is from a reference that nothing else uses here. Neighbours in the list change only atomics of the entry.
        let (entry, future) = unsafe { (&raw mut (*this).entry, Pin::new_unchecked(&mut (*this).future)) };
        let before = CURRENT.own().load(Ordering::Relaxed);
        CURRENT.own().store(entry, Ordering::Relaxed);
        // SAFETY: as above.
        let state = unsafe { &(*entry).state };
        state.store(TASK_RUNS, Ordering::Relaxed);
        let result = future.poll(context);
        state.store(state.load(Ordering::Relaxed) | TASK_WAITS, Ordering::Relaxed);
        CURRENT.own().store(before, Ordering::Relaxed);
        result
    }
}

fn current() -> Option<&'static TaskEntry> {
    // SAFETY: the task that is being polled exists until its poll is over, and the reference is used by the two functions below only.
    unsafe { CURRENT.own().load(Ordering::Relaxed).as_ref() }
}

/// The task that is being polled waits until this time, unless something else wakes it earlier.
pub(crate) fn waits_for_time(deadline: u64) {
    if let Some(entry) = current() {
        let state = entry.state.load(Ordering::Relaxed);
        if state & TASK_WAITS_FOR_TIME == 0 || deadline < entry.deadline.load(Ordering::Relaxed) {
            entry.deadline.store(deadline, Ordering::Relaxed);
        }
        entry.state.store(state | TASK_WAITS_FOR_TIME, Ordering::Relaxed);
    }
}

/// The task that is being polled waits for an event.
pub(crate) fn waits_for_event(port: hv_abi::EventPort) {
    if let Some(entry) = current() {
        entry.event.store(port.0, Ordering::Relaxed);
        let state = entry.state.load(Ordering::Relaxed);
        entry.state.store(state | TASK_WAITS_FOR_EVENT, Ordering::Relaxed);
    }
}
