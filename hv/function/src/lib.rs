//! Functions: guests that answer requests, each in a virtual machine of its own.
//!
//! A [`Function`] is a snapshot of a guest that is ready for its first request,
//! and the virtual machines that resume from it:
//!
//! ```text
//!            call             request in the ring         answer complete
//!  idle ───────────► running ─────────────────► … ────────────────────────► reset ──► idle
//!   ▲     no instance is idle                             │ crash, time over
//!   └──── a new clone (its own thread makes it)           └──────────► closed
//! ```
#![forbid(unsafe_code)]

mod backoff;
mod call;
mod deploy;
mod instance;
mod pool_manager;
mod progress;
mod scale;
mod stats;
mod survey;
mod unreachable;
mod usage;

pub use call::Call;
pub use deploy::{DeployError, boot, try_clone};
pub use hv_core::device::function::{Answer, Failure};
pub use progress::{CurrentRequest, Progress};
pub use stats::Stats;
pub use usage::RequestUsage;

use backoff::Backoff;
use call::PendingCall;
use hv_core::device::block::Disk;
use hv_core::device::console::Output;
use hv_core::device::services::Provider;
use hv_core::domain::Usage;
use hv_core::engine::{Engine, MemoryPromise};
use hv_core::sched::{Group, Share};
use hv_core::snapshot::Snapshot;
use instance::Instance;
use pool_manager::PoolManager;
use scale::Scale;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How requests are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// A fresh guest for every request.
    Request,
    /// A guest answers one request after the other, until it has been idle for long.
    Instance,
}

/// Has others give back memory. Says whether there was any.
pub type MakeRoom = Arc<dyn Fn() -> bool + Send + Sync>;

/// Makes the place where an instance's output goes, which can tell for which request it prints.
pub type Outputs = Arc<dyn Fn(&CurrentRequest) -> Box<dyn Output> + Send + Sync>;

/// How a function is run.
#[derive(Clone)]
pub struct Options {
    /// How requests are kept apart.
    pub isolation: Isolation,
    /// Longest time of one request, from its head to the end of its answer.
    pub wall_time: Duration,
    /// Most processor time that one request may take.
    pub cpu_time: Duration,
    /// Most guests at one time, idle ones included.
    pub instances: usize,
    /// Guests (or virtual machines that are ready for one) that are to wait for requests: they are made ahead, and
    /// further ones while these answer, as long as the budget has memory that nobody else needs.
    pub warm: usize,
    /// Calls beyond `instances` wait until one is free. Otherwise they fail with [`Failure::Full`].
    pub waits: bool,
    /// Their share of the processors, each: in their group, if they have one.
    pub share: Share,
    /// The group of the engine whose share they have together.
    pub group: Option<Group>,
    /// Memory of the engine's budget that is promised to each; `None`: all that it has, if there is a budget.
    pub promised_memory: Option<u64>,
    /// Whether guests [share equal pages](hv_core::domain::GuestBuilder::share_equal_pages).
    pub share_equal_pages: bool,
    /// Called when the budget has no memory for another guest: other functions may have idle ones.
    pub make_room: Option<MakeRoom>,
    /// Where their consoles go.
    pub outputs: Outputs,
    /// Where their log records and errors go; `None`: with the rest of what they print.
    pub errors: Option<Outputs>,
    /// Carries out what guests ask of their services device, if they have one. `None`: all of that is refused.
    pub services: Option<Arc<dyn Provider>>,
    /// The disks that the snapshot's guest has; all guests share them, so no guest may
    /// change what others see.
    pub disks: Arc<[Disk]>,
}

impl Default for Options {
    /// A fresh guest for every request; 30 s, of which 10 s of processor time; 1024 guests, none of them
    /// beforehand; consoles whose output is dropped.
    fn default() -> Self {
        Options {
            isolation: Isolation::Request,
            wall_time: Duration::from_secs(30),
            cpu_time: Duration::from_secs(10),
            instances: 1024,
            warm: 0,
            waits: false,
            share: Share::default(),
            group: None,
            promised_memory: None,
            share_equal_pages: false,
            make_room: None,
            outputs: Arc::new(|_| Box::new(hv_core::device::stdio::Buffer::new(0))),
            errors: None,
            services: None,
            disks: Arc::new([]),
        }
    }
}

/// A deployed function. Dropping it ends its guests; calls under way fail.
pub struct Function {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    snapshot: Arc<Snapshot>,
    /// For the snapshot.
    _promise: MemoryPromise,
    options: Options,
    scale: Scale,
    pool: Mutex<Pool>,
    pool_manager: PoolManager,
    totals: stats::Totals,
    backoff: Mutex<Backoff>,
    stopped: AtomicBool,
    began: Instant,
}

#[derive(Default)]
struct Pool {
    /// All instances, by number; one that is `None` is being made.
    live: HashMap<u64, Option<Arc<Instance>>>,
    /// Those that wait for a request; the last one is the warmest.
    idle: Vec<(Arc<Instance>, Instant)>,
    /// Calls that wait for an instance, in their order.
    waiting: VecDeque<Arc<PendingCall>>,
    next: u64,
    /// What instances have used that are out of service.
    used: Usage,
}

impl Function {
    /// Starts to answer a request in a guest of its own, or, with [`Isolation::Instance`], in one
    /// that is idle. `head` is a request head as [`hv_abi::io::function`] has it, of 1 to
    /// [`HEAD_MAX`](hv_abi::io::function::HEAD_MAX) bytes. Does not wait for anything.
    pub fn call(&self, head: &[u8], answer: Box<dyn Answer>) -> Result<Call, Failure> {
        self.call_as(0, head, answer)
    }

    /// As [`call`](Self::call), for a request with a number, which the instance's outputs are told.
    pub fn call_as(&self, request: u64, head: &[u8], answer: Box<dyn Answer>) -> Result<Call, Failure> {
        let inner = &self.inner;
        if inner.stopped.load(Ordering::SeqCst) {
            return Err(Failure::Stopped);
        }
        inner.backoff().admit(Instant::now()).map_err(Failure::BackOff)?;
        let number = {
            let mut pool = inner.pool();
            // Nobody passes those that wait.
            if pool.waiting.is_empty()
                && let Some(instance) = pool.take_idle(&inner.pool_manager)
            {
                let lacks = pool.lacks_warm(&inner.scale);
                drop(pool);
                if lacks {
                    inner.pool_manager.refill();
                }
                inner.totals.warm();
                return Ok(Call::running(instance.begin(request, head, answer)));
            }
            if pool.live.len() >= inner.scale.most() {
                if !inner.options.waits {
                    return Err(Failure::Full);
                }
                let pending = PendingCall::starting(request, head, answer);
                pool.wait(pending.clone());
                drop(pool);
                inner.totals.warm();
                return Ok(Call::waiting(pending));
            }
            pool.reserve()
        };
        inner.totals.cold();
        let pending = PendingCall::starting(request, head, answer);
        inner.pool_manager.start(number, Some(pending.clone()));
        Ok(Call::starting(pending))
    }

    /// Ends guests that have been idle since before this moment, beyond [`Options::warm`], and makes those ahead that
    /// could not be made before.
    pub fn reap(&self, idle_since: Instant) {
        let mut pool = self.inner.pool();
        let spare = pool.idle.len().saturating_sub(self.inner.scale.warm());
        // The first ones have been idle the longest.
        let count = pool.idle.iter().take(spare).take_while(|(_, since)| *since < idle_since).count();
        let reaped: Vec<_> = pool.idle.drain(..count).collect();
        let lacks = pool.lacks_warm(&self.inner.scale);
        drop(pool);
        reaped.iter().for_each(|(instance, _)| self.inner.close(instance));
        if lacks {
            self.inner.pool_manager.refill();
        }
    }

    /// From now on it has at most so many guests, of which so many are to wait for requests: see
    /// [`Options::instances`] and [`Options::warm`]. Guests that answer are not ended for it.
    pub fn set_scale(&self, instances: usize, warm: usize) {
        self.inner.set_scale(instances, warm);
    }

    /// Since when the guest has been idle that has been so the longest.
    pub fn idle_since(&self) -> Option<Instant> {
        self.inner.pool().idle.first().map(|(_, since)| *since)
    }

    /// Ends the guest that has been idle the longest. Says whether there was one.
    pub fn reclaim(&self) -> bool {
        let Some(instance) = self.inner.take_oldest() else { return false };
        self.inner.close(&instance);
        true
    }

    /// Bytes of memory that each of its guests is promised, if there is a budget.
    pub fn promised_memory(&self) -> u64 {
        self.inner.promised_memory()
    }

    /// What it is doing and has done.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// The disks that its guests have.
    pub fn disks(&self) -> &Arc<[Disk]> {
        &self.inner.options.disks
    }

    /// The snapshot that its guests resume from.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.inner.snapshot
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        let (live, waiting): (Vec<_>, _) = {
            let mut pool = self.inner.pool();
            pool.idle.clear();
            (pool.live.values().flatten().cloned().collect(), std::mem::take(&mut pool.waiting))
        };
        waiting.iter().for_each(|call| call.fail(Failure::Stopped));
        live.iter().for_each(|instance| instance.stop(Failure::Stopped));
        live.iter().for_each(|instance| self.inner.close(instance));
        self.inner.pool_manager.stop();
    }
}

impl Inner {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect("no panic while held")
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().expect("no panic while held")
    }

    fn promised_memory(&self) -> u64 {
        self.options.promised_memory.unwrap_or_else(|| self.snapshot.template().size())
    }

    fn take_oldest(&self) -> Option<Arc<Instance>> {
        let idle = &mut self.pool().idle;
        (!idle.is_empty()).then(|| idle.remove(0).0)
    }

    /// An instance is idle again, and reset.
    fn put_back(&self, instance: Arc<Instance>) {
        if self.stopped.load(Ordering::SeqCst) {
            return;
        }
        let mut pool = self.pool();
        if pool.live.len() > self.scale.most() {
            drop(pool);
            return self.close(&instance);
        }
        pool.idle.push((instance, Instant::now()));
        let waited_for = !pool.waiting.is_empty();
        drop(pool);
        if waited_for {
            self.pool_manager.hand_over();
        }
    }

    /// Takes an instance out of service.
    fn close(&self, instance: &Arc<Instance>) {
        self.retire(instance);
        // Closing a VM takes a millisecond or more: not on the thread of a guest.
        self.pool_manager.dispose(instance.clone());
    }

    /// An instance is no longer one of the function's.
    fn retire(&self, instance: &Arc<Instance>) {
        // That takes some time: not while others wait for the pool.
        instance.stop_counting();
        let mut pool = self.pool();
        pool.remove(instance);
        let waited_for = !pool.waiting.is_empty();
        drop(pool);
        if waited_for {
            self.pool_manager.hand_over();
        }
    }
}

impl Pool {
    /// Takes the instance that waits for a request and is the warmest. Those whose machine was disturbed while it waited are taken out of service.
    fn take_idle(&mut self, pool_manager: &PoolManager) -> Option<Arc<Instance>> {
        while let Some((instance, _)) = self.idle.pop() {
            if instance.is_undisturbed() {
                return Some(instance);
            }
            tracing::debug!("a virtual machine was disturbed while it waited for a request, and is not used");
            self.remove(&instance);
            pool_manager.dispose(instance);
        }
        None
    }

    /// An instance is no longer one of the function's.
    fn remove(&mut self, instance: &Instance) {
        if self.live.remove(&instance.number).is_some() {
            self.used += instance.stop_counting();
        }
        self.idle.retain(|(idle, _)| idle.number != instance.number);
    }

    fn reserve(&mut self) -> u64 {
        self.next += 1;
        self.live.insert(self.next, None);
        self.next
    }
}

#[cfg(test)]
mod tests;
