//! A device that is driven by two threads: the I/O thread, and, for what the host's memory has, the thread that runs the guest.
//!
//! A guest that waits for one answer leaves for the host anyway. What it asks for is then mostly in the host's memory, and fetching it from there
//! takes a microsecond; waking the I/O thread and being woken by it takes ten and more. So the guest's own thread tries first. It
//! never waits for a disk: the kernel is asked for what needs no wait, and everything else is left to other threads.
//!
//! Neither thread waits for the other one: who finds the device in use comes back later (the I/O thread), or rings for the I/O
//! thread. A guest's thread that loses its processor in the middle delays its own guest only.
#![forbid(unsafe_code)]

use super::QuickHandler;
use crate::reactor::{Registrar, Source};
use hv_abi::ring::Violation;
use mio::event::Event;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// When the I/O thread tries again to use a device that the guest's thread uses.
const IN_USE: Duration = Duration::from_micros(20);

/// A device of the I/O thread, some of whose work the guest's own thread can do.
pub(super) trait QuickDevice: Source + Send + 'static {
    /// Answers what waits and needs no wait. Returns false if something is left for the I/O thread.
    fn serve_here(&mut self) -> Result<bool, Violation>;

    /// The guest broke the protocol.
    fn broken(&mut self, violation: Violation);

    /// From now on no further requests are to be taken, or they are again.
    fn settles(&mut self, settles: bool);
}

/// See the [module](self). Without a device once the I/O thread has dropped it, whoever still has this.
pub(super) struct SharedDevice<D>(Mutex<Option<D>>);

impl<D: QuickDevice> SharedDevice<D> {
    /// The device, and what drives it on the I/O thread.
    pub(super) fn new(device: D) -> (Arc<Self>, Box<dyn Source>) {
        let shared = Arc::new(SharedDevice(Mutex::new(Some(device))));
        (shared.clone(), Box::new(IoThreadSide(shared)))
    }

    /// Works on the device, unless the other thread does, or there is none any more.
    fn try_with<T>(&self, work: impl FnOnce(&mut D) -> T) -> Option<T> {
        match self.0.try_lock() {
            Ok(mut device) => device.as_mut().map(work),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("no panic while held"),
        }
    }

    /// The device, when the other thread has left it. For times when the guest does not run.
    fn wait(&self) -> MutexGuard<'_, Option<D>> {
        self.0.lock().expect("no panic while held")
    }
}

impl<D: QuickDevice> QuickHandler for SharedDevice<D> {
    fn try_ring(&self) -> bool {
        let served = self.try_with(|device| {
            device.serve_here().unwrap_or_else(|violation| {
                device.broken(violation);
                true
            })
        });
        served.unwrap_or(false)
    }
}

struct IoThreadSide<D: QuickDevice>(Arc<SharedDevice<D>>);

impl<D: QuickDevice> Source for IoThreadSide<D> {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        self.0.wait().as_mut().map_or(Ok(()), |device| device.start(io))
    }

    /// A signal that is not taken note of here does no harm: the next one comes all the same, and what it is about is found by `poll`.
    fn ready(&mut self, key: u32, event: &Event) {
        self.0.try_with(|device| device.ready(key, event));
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let polled = self.0.try_with(|device| {
            device.settles(false);
            device.poll(now)
        });
        polled.unwrap_or(Some(now + IN_USE))
    }

    fn settle(&mut self) -> bool {
        let settled = self.0.try_with(|device| {
            device.settles(true);
            device.settle()
        });
        settled.unwrap_or(false)
    }

    fn close(&mut self) -> bool {
        self.0.try_with(Source::close).unwrap_or(false)
    }

    fn reset(&mut self) -> bool {
        self.0.wait().as_mut().is_some_and(Source::reset)
    }
}

impl<D: QuickDevice> Drop for IoThreadSide<D> {
    fn drop(&mut self) {
        self.0.wait().take();
    }
}
