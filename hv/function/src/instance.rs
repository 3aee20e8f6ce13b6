//! A virtual machine of a function, from one request to the next.

use super::unreachable::ReachedAnswer;
use super::{CurrentRequest, Failure, Inner, Isolation, Progress, RequestUsage};
use hv_abi::device::SERVICES;
use hv_core::device::Served;
use hv_core::device::function::{Answer, FunctionDevice};
use hv_core::device::services::ServicesDevice;
use hv_core::domain::{Guest, Hook, Outcome, Restore, StartError, Stop, Usage};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// How long the devices of a guest that has answered may take to finish what it has asked of them.
const SETTLING: Duration = Duration::from_secs(1);

/// One virtual machine, with the guest that is in it at the time.
pub(super) struct Instance {
    pub(super) number: u64,
    pub(super) device: Arc<FunctionDevice>,
    /// If its guests have one.
    services: Option<Arc<ServicesDevice>>,
    inner: Weak<Inner>,
    /// `None` before it is made and after it is closed.
    guest: Mutex<Option<Arc<Guest>>>,
    /// Whether it has answered a request before: then the next guest needs a new identity.
    used: AtomicBool,
    /// The devices of a guest that has answered have settled.
    settled: AtomicBool,
    /// Pages that the last request wrote.
    pub(super) pages: AtomicU64,
    /// What its guest had used when it was taken out of service: nothing counts after that.
    used_in_all: OnceLock<Usage>,
    request: Mutex<Request>,
    /// The number of that request, for the outputs.
    current: CurrentRequest,
}

/// The request that it answers, or has answered last.
#[derive(Default)]
struct Request {
    exchange: u64,
    began: Option<Instant>,
    /// What the guest had used when the request began.
    before: RequestUsage,
    /// Why hv ends the guest.
    reason: Option<Failure>,
    /// What becomes of it.
    progress: Option<Arc<Progress>>,
}

/// A request that has begun.
#[derive(Clone)]
pub(super) struct Begun {
    pub(super) instance: Weak<Instance>,
    pub(super) exchange: u64,
    pub(super) progress: Arc<Progress>,
}

impl Begun {
    pub(super) fn instance(&self) -> Option<Arc<Instance>> {
        self.instance.upgrade()
    }

    /// What was used for it so far. The machine may be at another request by now.
    pub(super) fn usage(&self) -> Option<RequestUsage> {
        let so_far = || self.instance()?.request_usage(self.exchange);
        self.progress.usage().or_else(so_far).or_else(|| self.progress.usage())
    }
}

impl Instance {
    /// Makes a clone that waits for its first request.
    pub(super) fn start(inner: &Arc<Inner>, number: u64) -> Result<Arc<Self>, StartError> {
        let instance = Arc::new(Instance {
            number,
            device: FunctionDevice::new(),
            services: (inner.snapshot.saved().count(SERVICES) > 0)
                .then(|| ServicesDevice::new(inner.options.services.clone())),
            inner: Arc::downgrade(inner),
            guest: Mutex::default(),
            used: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            pages: AtomicU64::new(0),
            used_in_all: OnceLock::new(),
            request: Mutex::default(),
            current: CurrentRequest::default(),
        });
        let hook = InstanceHook { instance: Arc::downgrade(&instance), isolation: inner.options.isolation };
        let options = &inner.options;
        let mut restore = Restore::new(inner.snapshot.clone()).output((options.outputs)(&instance.current));
        if let Some(errors) = &options.errors {
            restore = restore.error_output(errors(&instance.current));
        }
        if inner.engine.memory_budget().is_some() {
            restore = restore.promised_memory(inner.promised_memory());
        }
        if options.share_equal_pages {
            restore = restore.share_equal_pages();
        }
        if let Some(group) = &options.group {
            restore = restore.group(group);
        }
        for disk in inner.options.disks.iter() {
            restore = restore.disk(disk.share().expect("`Function::new` has looked"));
        }
        if let Some(services) = &instance.services {
            restore = restore.services(services.clone());
        }
        let guest = restore
            .function(instance.device.clone())
            .share(inner.options.share)
            .hook(Arc::new(hook))
            .spawn(&inner.engine)?;
        // What it begins with. This thread may measure, those that begin requests may not.
        guest.usage();
        *instance.guest.lock().expect("nobody else has it yet") = Some(Arc::new(guest));
        Ok(instance)
    }

    fn guest(&self) -> Option<Arc<Guest>> {
        self.guest.lock().expect("no panic while held").clone()
    }

    fn request(&self) -> MutexGuard<'_, Request> {
        self.request.lock().expect("no panic while held")
    }

    /// Whether its machine, which is idle, can be given a request. Asked right before that.
    pub(super) fn is_undisturbed(&self) -> bool {
        let Some(inner) = self.inner.upgrade() else { return false };
        match inner.options.isolation {
            // It is paused: nobody has its virtual CPUs.
            Isolation::Request => self.guest().is_some_and(|guest| guest.is_undisturbed()),
            // It may be running.
            Isolation::Instance => true,
        }
    }

    /// Begins a request, in an instance that is idle.
    pub(super) fn begin(self: &Arc<Self>, number: u64, head: &[u8], mut answer: Box<dyn Answer>) -> Begun {
        let began = Instant::now();
        let progress = Progress::new(began);
        let begun = |exchange, progress| Begun { instance: Arc::downgrade(self), exchange, progress };
        let (Some(guest), Some(inner)) = (self.guest(), self.inner.upgrade()) else {
            answer.failed(Failure::Stopped);
            return begun(0, progress);
        };
        let exchange = {
            let mut request = self.request();
            request.began = Some(began);
            request.before = RequestUsage::read(&guest);
            request.reason = None;
            request.progress = Some(progress.clone());
            self.current.set(number);
            if inner.options.isolation == Isolation::Request && self.used.swap(true, Ordering::SeqCst) {
                if let Err(error) = guest.assign_identity() {
                    drop(request);
                    answer.failed(Failure::NoRoom(Box::new(StartError::Random(error))));
                    self.stop(Failure::Stopped);
                    return begun(0, progress);
                }
            } else {
                guest.set_running();
            }
            request.exchange = self.device.begin(head, self.with_services(answer));
            request.exchange
        };
        inner.pool_manager.watch(self, exchange);
        guest.wake();
        begun(exchange, progress)
    }

    /// The request is over: what was used for it stays known.
    fn note_used(&self, guest: &Guest) {
        let request = self.request();
        if let Some(progress) = &request.progress {
            progress.end(RequestUsage::read(guest).since(request.before));
        }
    }

    /// Opens the services to a request with this answer.
    fn with_services(&self, answer: Box<dyn Answer>) -> Box<dyn Answer> {
        match &self.services {
            Some(services) => {
                services.begin_request();
                Box::new(ReachedAnswer { answer, services: services.clone(), unreachable: None })
            }
            None => answer,
        }
    }

    /// Resumes the guest, which may wait for room.
    pub(super) fn resume(&self, exchange: u64) {
        if self.request().exchange == exchange
            && self.device.ring() == Served::Answered
            && let Some(guest) = self.guest()
        {
            guest.note_done();
        }
    }

    /// The request was cancelled: ends the guest, if it is still at this request.
    pub(super) fn abandon(&self, exchange: u64) {
        self.stop_request(exchange, Failure::Stopped);
    }

    /// What was used for this request so far.
    pub(super) fn request_usage(&self, exchange: u64) -> Option<RequestUsage> {
        let request = self.request();
        let guest = self.guest()?;
        (request.exchange == exchange).then(|| RequestUsage::read(&guest).since(request.before))
    }

    /// What all requests have used, and the time in between.
    pub(super) fn usage(&self) -> Usage {
        let so_far = || self.guest().map_or_else(Usage::default, |guest| guest.usage_unmeasured());
        self.used_in_all.get().cloned().unwrap_or_else(so_far)
    }

    /// Nothing counts from now on. Returns what all requests have used.
    pub(super) fn stop_counting(&self) -> &Usage {
        let so_far = || self.guest().map_or_else(Usage::default, |guest| guest.usage_unmeasured());
        self.used_in_all.get_or_init(so_far)
    }

    /// Ends the guest, for this reason.
    pub(super) fn stop(&self, reason: Failure) {
        self.request().reason.get_or_insert(reason);
        if let Some(guest) = self.guest() {
            guest.stop(Stop::Dropped);
        }
    }

    /// Ends the guest, for this reason, if it is still at this request.
    fn stop_request(&self, exchange: u64, reason: Failure) {
        let mut request = self.request();
        // The lock keeps the next request from beginning, and `answered` takes it after the exchange
        // has gone: an order that comes too late for this request must not end the machine for the next one.
        if request.exchange == exchange && self.device.is_busy_with(exchange) {
            request.reason.get_or_insert(reason);
            if let Some(guest) = self.guest() {
                guest.stop(Stop::Dropped);
            }
        }
    }

    /// Looks whether a request is still under way and within its limits. Returns whether to look again.
    pub(super) fn check(&self, exchange: u64) -> bool {
        let Some(inner) = self.inner.upgrade() else { return false };
        if !self.device.is_busy_with(exchange) {
            return false;
        }
        let began = self.request().began;
        self.measure();
        let over = |used: Option<Duration>, limit: Duration| used.is_some_and(|used| used > limit);
        if over(began.map(|began| began.elapsed()), inner.options.wall_time) {
            self.stop_request(exchange, Failure::WallTime);
            false
        } else if over(self.request_usage(exchange).map(|used| used.cpu_time), inner.options.cpu_time) {
            self.stop_request(exchange, Failure::CpuTime);
            false
        } else {
            true
        }
    }

    /// Drops the virtual machine.
    pub(super) fn close(&self) {
        let guest = self.guest.lock().expect("no panic while held").take();
        drop(guest);
        self.close_services();
        if let Some(left) = self.device.take() {
            left.fail(|| self.request().reason.take().unwrap_or(Failure::Stopped));
        }
    }

    /// Ends what its guest has begun with its services.
    fn close_services(&self) {
        if let Some(services) = &self.services {
            services.close();
        }
    }

    /// How often its guest left to hv, by reason.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        self.guest().map_or_else(Vec::new, |guest| guest.counters())
    }

    /// Measures its private memory, if that is due.
    pub(super) fn measure(&self) {
        if let Some(guest) = self.guest() {
            guest.usage();
        }
    }

    fn answered(self: Arc<Self>, inner: &Arc<Inner>) {
        let settled = self.settled.swap(false, Ordering::SeqCst);
        let Some(guest) = self.guest() else { return };
        if !settled {
            self.note_used(&guest);
            drop(self.device.take());
            // After that: see `stop_request`.
            let began = self.request().began;
            inner.backoff().answered();
            inner.totals.answered(began);
        }
        if inner.options.isolation == Isolation::Request {
            // Before anything of the memory is reset.
            self.close_services();
            if self.services.as_ref().is_some_and(|services| !services.is_usable()) {
                tracing::debug!(
                    "a virtual machine is not used again: calls of its guest are still under way"
                );
                inner.close(&self);
                return;
            }
            if !settled {
                inner.note_hot_pages(&guest);
                // A disk may be slow, and this thread must not wait.
                let instance = Arc::downgrade(&self);
                if guest.settle(SETTLING, move |settled| Instance::devices_settled(&instance, settled)) {
                    return;
                }
            }
            match guest.reset() {
                Ok(pages) => {
                    self.pages.store(pages, Ordering::Relaxed);
                    self.current.set(0);
                    self.request().progress.iter().for_each(|progress| progress.note_reset());
                }
                Err(error) => {
                    tracing::debug!("a virtual machine is not used again: {error}");
                    inner.close(&self);
                    return;
                }
            }
        }
        inner.put_back(self);
    }

    /// Called when the devices of the guest that has answered have settled, or have not in time.
    fn devices_settled(instance: &Weak<Instance>, settled: bool) {
        let Some(instance) = instance.upgrade() else { return };
        if settled && let Some(guest) = instance.guest() {
            instance.settled.store(true, Ordering::SeqCst);
            guest.note_done();
        } else if let Some(inner) = instance.inner.upgrade() {
            tracing::debug!("a virtual machine is not used again: its devices do not come to an end");
            inner.close(&instance);
        }
    }

    fn ended(self: Arc<Self>, inner: &Arc<Inner>, outcome: &Outcome) {
        let reason = self.request().reason.take();
        if let Some(guest) = self.guest() {
            self.note_used(&guest);
        }
        if matches!((&reason, outcome), (None, Outcome::Crashed(_))) {
            inner.backoff().crashed(Instant::now());
        }
        if let Some(left) = self.device.take() {
            left.fail(|| match (reason, outcome) {
                (Some(reason), _) => reason,
                (None, Outcome::Crashed(report)) => Failure::Crashed(report.clone()),
                (None, Outcome::Exited(code)) => Failure::Exited(*code),
                (None, Outcome::Stopped(_)) => Failure::Stopped,
            });
        }
        self.close_services();
        inner.totals.ended();
        inner.close(&self);
    }
}

/// The hook of a guest. The guest owns it; the function owns the instance.
struct InstanceHook {
    instance: Weak<Instance>,
    isolation: Isolation,
}

impl InstanceHook {
    fn both(&self) -> Option<(Arc<Instance>, Arc<Inner>)> {
        let instance = self.instance.upgrade()?;
        let inner = instance.inner.upgrade()?;
        Some((instance, inner))
    }
}

impl Hook for InstanceHook {
    fn pauses_when_done(&self) -> bool {
        self.isolation == Isolation::Request
    }

    fn done(&self) {
        if let Some((instance, inner)) = self.both() {
            instance.answered(&inner);
        }
    }

    fn ended(&self, outcome: &Outcome) {
        if let Some((instance, inner)) = self.both() {
            instance.ended(&inner, outcome);
        }
    }
}
