//! The engine: what the guests of one process share.

use crate::background::Background;
pub use crate::budget::{BudgetError, MemoryPromise};

use crate::budget::{self, Budget, Keeper};
use crate::memory::{EqualPagesError, GuestMemory};
use crate::platform::{Platform, PlatformError};
use crate::reactor::{Reactor, Registrar, Source};
use crate::sched::{Group, Scheduler, Share};
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_jail as jail;
use hv_jail::Kind;
use mio::event::Event;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// Most crash reports in the queue. Each holds a copy of a stack.
const REPORTS: usize = 16;

/// A platform, the threads that run virtual CPUs, and the thread that runs their devices. Guests keep the engine alive. A
/// clone of this handle is the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) platform: Box<dyn Platform>,
    pub(crate) scheduler: Scheduler,
    pub(crate) reactor: Reactor,
    pub(crate) budget: Arc<Budget>,
    /// Locked by the thread that runs guests, if there are no workers.
    pub(crate) driver: Mutex<()>,
    /// Writes crash reports, if there are workers: those have other guests to run.
    pub(crate) reports: Option<Background>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// An engine with this many threads that run guests. With none, guests run on the threads that wait for them.
    ///
    /// # Errors
    ///
    /// If the host refuses another thread or descriptor.
    pub fn new(platform: impl Platform + 'static, workers: usize) -> io::Result<Engine> {
        let scheduler = Scheduler::default();
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..workers)
            .map(|n| {
                let (scheduler, stop) = (scheduler.clone(), stop.clone());
                jail::spawn(Kind::Cpu, format!("hv-cpu{n}"), move || {
                    scheduler.work(&|| stop.load(Ordering::SeqCst));
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let reports = match workers {
            0 => None,
            _ => Some(Background::start(Kind::Report, "hv-report", REPORTS)?),
        };
        let reactor = Reactor::with_own_processor({
            let scheduler = scheduler.clone();
            // If there are more processors than workers, the host's scheduler finds an idle one for the I/O thread.
            let scarce =
                std::thread::available_parallelism().is_ok_and(|processors| processors.get() <= workers);
            Box::new(move |needed| scheduler.spare(needed && scarce))
        })?;
        Ok(Engine {
            inner: Arc::new(Inner {
                platform: Box::new(platform),
                scheduler,
                reactor,
                budget: Arc::default(),
                driver: Mutex::default(),
                reports,
                workers: threads,
                stop,
            }),
        })
    }

    /// Gives the I/O thread another source, which it drives as long as the engine lives.
    pub fn add_source(&self, source: Box<dyn Source>) {
        self.inner.reactor.add(source);
    }

    /// Sets how many bytes of host memory all guests of this engine may use. Each is [promised](crate::Builder::promised_memory) a part of that.
    /// Guests beyond the budget are refused with [`StartError::Budget`](crate::StartError). While guests run, what they use is compared with the
    /// budget at least twenty times a second: if it is short, those that use more than they were promised are asked for memory, and if it is
    /// exceeded for a tenth of a second, the one furthest beyond its promise is ended with [`Stop::MemoryBudget`](crate::Stop). The memory of hv itself
    /// counts as well.
    ///
    /// To be called before guests start.
    ///
    /// # Errors
    ///
    /// If the memory that this process uses cannot be read.
    pub fn set_memory_budget(&self, bytes: u64) -> io::Result<()> {
        if let Some(keeper) = self.inner.budget.limit(bytes)? {
            self.add_source(Box::new(keeper));
        }
        Ok(())
    }

    /// A new group of guests, with a share of the processors for all of them together. Guests are [put in
    /// it](crate::Builder::group) when they start; [`Group::group`] makes groups in it.
    pub fn group(&self, share: Share) -> Group {
        self.inner.scheduler.group(share)
    }

    /// Opens what a budget needs. A program that is [jailed](hv_jail) calls it before that, and [`set_memory_budget`](Self::set_memory_budget) after.
    ///
    /// # Errors
    ///
    /// If the memory that this process uses cannot be read.
    pub fn prepare_memory_budget() -> io::Result<()> {
        budget::statm().map(drop)
    }

    /// Promises memory of the budget to something else than a guest: what hv itself uses, or templates. Guests get what is left.
    ///
    /// # Errors
    ///
    /// If so much is not left.
    pub fn promise_memory(&self, bytes: u64) -> Result<MemoryPromise, BudgetError> {
        Ok(MemoryPromise(self.inner.budget.promise(bytes)?))
    }

    /// The budget for memory, and how much of it is promised, in bytes. `None` without a budget.
    pub fn memory_budget(&self) -> Option<(u64, u64)> {
        self.inner.budget.standing()
    }

    /// Whether guests of this engine can [share equal pages](crate::Builder::share_equal_pages). Whether the host's KSM runs,
    /// too, `/sys/kernel/mm/ksm/run` says.
    ///
    /// # Errors
    ///
    /// Why they cannot.
    pub fn can_share_equal_pages(&self) -> Result<(), EqualPagesError> {
        if self.inner.platform.shares_memory() {
            return Err(EqualPagesError::SharedFile);
        }
        let probe = GuestMemory::new(GuestAddr(0), PAGE_SIZE).map_err(|_| EqualPagesError::NoKsm)?;
        probe.share_equal_pages()
    }

    /// Makes this many empty virtual machines in advance, for guests that start later. It is meant for thousands of
    /// guests: the more guests there are, the longer it takes to make a virtual machine. Returns how many are ready. Each
    /// holds a descriptor.
    pub fn reserve(&self, machines: usize) -> usize {
        self.inner.platform.reserve(machines)
    }

    /// Makes in advance what the next start needs on any guest: a machine and its virtual CPU, without memory. One is
    /// kept until then. It holds two descriptors.
    ///
    /// # Errors
    ///
    /// If the host refuses it.
    pub fn prepare_machine(&self) -> Result<(), PlatformError> {
        self.inner.platform.prepare_machine()
    }

    /// Number of devices of ended guests for which the host's kernel still works, because their disks have not answered.
    /// They hold their guests' memory and some descriptors until then.
    pub fn closing_devices(&self) -> usize {
        self.inner.reactor.closing()
    }

    /// Whether guests run on workers. Otherwise they run only while a thread waits for one of them.
    pub(crate) fn has_workers(&self) -> bool {
        !self.inner.workers.is_empty()
    }
}

impl Inner {
    /// Wakes the thread that runs guests while it waits for one of them, so that it checks the state of that guest.
    pub(crate) fn notify_waiting(&self) {
        if self.workers.is_empty() {
            self.scheduler.notify();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for _ in &self.workers {
            self.scheduler.notify();
        }
        for worker in self.workers.drain(..) {
            // The last owner may be a guest's task, which runs on this same thread.
            if worker.thread().id() != std::thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl Source for Keeper {
    fn start(&mut self, _: Registrar) -> io::Result<()> {
        Ok(())
    }

    fn ready(&mut self, _: u32, _: &Event) {}

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.look(now)
    }
}
