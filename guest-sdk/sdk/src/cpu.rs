//! Virtual CPUs: their number, and work for other virtual CPUs.
//!
//! A guest begins on its first virtual CPU. A program that uses only this one need not know of the others. The first
//! [`spawn_on`], [`spawn_any`] or [`start`] starts the others: each runs an executor of its own, like the one in
//! [`block_on`](crate::block_on).
//!
//! - [`spawn`](crate::spawn) starts a task that stays on the virtual CPU of the caller, so it need not be `Send`.
//! - [`spawn_on`] starts a task on another one, where it stays.
//! - [`spawn_any`] starts a task that moves to any virtual CPU that has nothing else to do.
//!
//! Devices belong to the virtual CPU that uses them first: call `net::up`, and wait for events, from tasks of one virtual
//! CPU. Console, log, heap, random numbers, clock and timers can be used on all of them.
//!
//! # The number changes
//!
//! The host says how many of its [`possible`] virtual CPUs the guest should use ([`count`]), and can change that at any time.
//! From the first use of the others on, the guest follows by itself:
//!
//! - When the number falls, tasks of [`spawn_any`] are not polled any more on the virtual CPUs at and above it. Tasks that live
//!   on one of those cannot move, so it continues with them. When the last one has ended, it stops, and uses no processor
//!   time. What tasks of [`spawn_any`] have waited for there, timers and events, is passed on to the first virtual CPU.
//! - When the number rises, virtual CPUs that were stopped are started again.
//! - [`spawn_on`] a virtual CPU at or above the number starts that again, until the task has ended.
//!
//! A virtual CPU does this between two tasks, so one that computes for long without awaiting does it late. The first one never stops.
//! [`count_changed`] lets a program adapt what it does.
//!
//! The guest ends when `main` returns, whatever the other virtual CPUs do then.

mod power;

use crate::executor::{self, remote};
use crate::{per_cpu, targets};
use alloc::boxed::Box;
use core::future::Future;
use core::panic::Location;

pub use crate::per_cpu::PerCpu;

/// Most virtual CPUs of a guest.
pub const MAX: usize = per_cpu::MAX;

/// A task that any virtual CPU may poll, and its result. Dropping it cancels the task; `detach` lets the task continue.
pub use async_task::Task;

/// How many virtual CPUs the guest should use now: at least 1, at most [`possible`].
pub fn count() -> usize {
    targets::vcpus()
}

/// How many virtual CPUs the guest has, and can be told to use: at least 1. This never changes.
pub fn possible() -> usize {
    per_cpu::possible()
}

/// Waits until [`count`] is no longer `from`, and returns what it is then. Any number of tasks can wait.
pub async fn count_changed(from: usize) -> usize {
    targets::vcpus_changed(from).await
}

/// The number of the virtual CPU that this code runs on, counted from 0. A task of [`spawn_any`] may be on another one after each `await`.
pub fn current() -> usize {
    per_cpu::current()
}

/// Starts the virtual CPUs that the guest should use, unless they run already. The first task for another virtual CPU does this as well.
pub fn start() {
    power::begin_to_follow();
}

/// Runs a task on this virtual CPU, where it stays. `begin` is called there and makes the task's future, which need not be `Send`.
///
/// # Panics
///
/// If there is no such virtual CPU (`cpu` is not below [`possible`]), or the heap has no room for its stack.
#[track_caller]
pub fn spawn_on<F: Future<Output = ()> + 'static>(cpu: usize, begin: impl FnOnce() -> F + Send + 'static) {
    assert!(cpu < possible(), "there is no virtual CPU {cpu}; the guest has {}", possible());
    start();
    let spawned = Location::caller();
    remote::send(cpu, Box::new(move || executor::start(begin(), spawned)));
    if let Err(error) = power::start(cpu) {
        panic!("virtual CPU {cpu}: {error}");
    }
}

/// Runs a task on any virtual CPU that has nothing else to do. It may move to another one at each `await`.
pub fn spawn_any<F>(future: F) -> Task<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    start();
    remote::share(future)
}
