//! From an image or a snapshot to a function that takes requests.

use super::{Function, Inner, Options, Pool, PoolManager, Scale};
use hv_abi::device::{FUNCTION, SERVICES};
use hv_core::device::block::Disk;
use hv_core::device::function::FunctionDevice;
use hv_core::device::services::ServicesDevice;
use hv_core::device::stdio::Buffer;
use hv_core::domain::{Builder, CaptureError, Guest, Outcome, Restore, StartError};
use hv_core::engine::Engine;
use hv_core::snapshot::{DisksError, Snapshot};
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Why an image did not become a function.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The guest could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It ended instead of saying that it is ready.
    #[error("the guest ended before it was ready for requests: {0}")]
    Ended(String),
    /// It did not say that it is ready.
    #[error(
        "the guest was not ready for requests within {0:?}: a function calls hv_guest::function::serve (or gets more time)"
    )]
    NotReady(Duration),
    /// It could not be saved.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A snapshot of a guest without a function device.
    #[error("the guest that was saved is no function: save it with `hv snapshot --function`")]
    NoFunction,
    /// A snapshot of a guest without a services device.
    #[error(
        "the guest was saved without services, and the function is to get some; save it again with this hv snapshot --function"
    )]
    NoServices,
    /// Functions get none.
    #[error("the guest was saved with a network, and functions get none; save it without --net")]
    Network,
    /// Not the disks that the guest had.
    #[error(transparent)]
    Disks(#[from] DisksError),
    /// It was saved, but its clones do not run.
    #[error("a clone of the guest, as every request gets one, ended at once: {0}")]
    Clone(String),
    /// A disk that one guest would change under another.
    #[error("disk {}: the guests of a function share their disks; append \",ro\" or \",overlay\"", escape(.0))]
    Disk(PathBuf),
    /// No thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// Boots a guest, gives it a function device, and saves it when it is ready for its first request.
pub fn boot(engine: &Engine, guest: Builder, within: Duration) -> Result<Snapshot, DeployError> {
    let guest = guest.function(FunctionDevice::new()).pause_at_ready().spawn(engine)?;
    ready(&guest, within)?;
    Ok(guest.capture()?)
}

/// Waits until a guest that is to be held there says that it is ready.
pub(crate) fn ready(guest: &Guest, within: Duration) -> Result<(), DeployError> {
    if !guest.wait_paused(within) {
        return Err(DeployError::NotReady(within));
    }
    match guest.outcome() {
        None => Ok(()),
        Some(outcome) => Err(DeployError::Ended(end(outcome))),
    }
}

/// Lets one clone of a snapshot run until it first leaves to hv, as the first request's would, and ends it: what cannot
/// be cloned here would answer every request with an error.
pub fn try_clone(
    engine: &Engine,
    snapshot: &Arc<Snapshot>,
    disks: &[Disk],
    within: Duration,
) -> Result<(), DeployError> {
    const LOOK: Duration = Duration::from_micros(200);
    let mut clone = Restore::new(snapshot.clone()).output(Buffer::new(0));
    for disk in disks {
        clone = clone.disk(disk.share().ok_or_else(|| DeployError::Disk(disk.path().to_owned()))?);
    }
    if snapshot.saved().count(SERVICES) > 0 {
        clone = clone.services(ServicesDevice::new(None));
    }
    let clone = clone.function(FunctionDevice::new()).spawn(engine)?;
    let start = Instant::now();
    while clone.outcome().is_none() && clone.counters().iter().all(|(_, exits)| *exits == 0) {
        if start.elapsed() > within {
            return Err(DeployError::NotReady(within));
        }
        std::thread::park_timeout(LOOK);
    }
    match clone.outcome() {
        None => Ok(()),
        Some(outcome) => Err(DeployError::Clone(end(outcome))),
    }
}

/// How a guest ended, in words.
fn end(outcome: Outcome) -> String {
    match outcome {
        Outcome::Crashed(report) => format!("it crashed: {}", report.reason),
        Outcome::Exited(code) => format!("exit code {code}"),
        Outcome::Stopped(stop) => format!("stopped ({stop:?})"),
    }
}

impl Function {
    /// A function whose guests resume from this snapshot, of a guest with a
    /// function device, the disks of the options, and no other but the console.
    pub fn new(engine: &Engine, snapshot: Arc<Snapshot>, options: Options) -> Result<Function, DeployError> {
        if snapshot.saved().count(FUNCTION) != 1 {
            return Err(DeployError::NoFunction);
        }
        if options.services.is_some() && snapshot.saved().count(SERVICES) == 0 {
            return Err(DeployError::NoServices);
        }
        if snapshot.network_count() > 0 {
            return Err(DeployError::Network);
        }
        snapshot.check_disk_count(options.disks.len())?;
        if let Some(disk) = options.disks.iter().find(|disk| disk.share().is_none()) {
            return Err(DeployError::Disk(disk.path().to_owned()));
        }
        let promise = engine.promise_memory(snapshot.template().resident()).map_err(StartError::from)?;
        let (pool_manager, jobs) = PoolManager::new();
        let scale = Scale::new(options.instances, options.warm);
        let inner = Arc::new(Inner {
            engine: engine.clone(),
            snapshot,
            _promise: promise,
            options,
            scale,
            pool: Mutex::new(Pool::default()),
            pool_manager,
            totals: Default::default(),
            backoff: Mutex::default(),
            stopped: AtomicBool::new(false),
            began: std::time::Instant::now(),
        });
        let weak = Arc::downgrade(&inner);
        jail::spawn(Kind::PoolManager, "hv-pool", move || jobs.work(&weak)).map_err(DeployError::Thread)?;
        inner.pool_manager.refill();
        Ok(Function { inner })
    }
}
