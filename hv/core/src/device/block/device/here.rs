//! A block device that is driven by two threads: the I/O thread, and, for what the host's memory has, the thread that runs the guest.
//!
//! A guest that waits for one read leaves for the host anyway. What it reads is then mostly in the page cache, and a copy from there
//! takes a microsecond; waking the I/O thread and being woken by it takes ten and more. So the guest's own thread tries first. It
//! never waits for the disk: the kernel is asked for what needs no wait (`RWF_NOWAIT`), and everything else is the I/O thread's.
//!
//! Neither thread waits for the other one: who finds the device in use comes back later (the I/O thread), or rings for the I/O
//! thread. A guest's thread that loses its processor in the middle delays its own guest only.
#![forbid(unsafe_code)]

use super::BlockDevice;
use crate::device::QuickHandler;
use crate::device::block::engine::{self, Completion};
use crate::device::block::request::{Plan, validate};
use crate::reactor::{Registrar, Source};
use hv_abi::ring::Violation;
use mio::event::Event;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

/// Most requests at a time that the guest's thread works on. The I/O thread works beside the guest, which is better for many.
const FEW: u32 = 4;
/// Most bytes of these: so many take some 30 µs to copy.
const FEW_BYTES: u64 = 256 << 10;
/// When the I/O thread tries again to use a device that the guest's thread uses.
const IN_USE: Duration = Duration::from_micros(20);

/// See the [module](self). Without a device once the I/O thread has dropped it, whoever still has this.
pub(in crate::device::block) struct SharedDevice(Mutex<Option<BlockDevice>>);

impl SharedDevice {
    /// The device, and what drives it on the I/O thread.
    pub(in crate::device::block) fn new(device: BlockDevice) -> (Arc<Self>, Box<dyn Source>) {
        let shared = Arc::new(SharedDevice(Mutex::new(Some(device))));
        (shared.clone(), Box::new(IoThreadSide(shared)))
    }

    /// Works on the device, unless the other thread does, or there is none any more.
    fn try_with<T>(&self, work: impl FnOnce(&mut BlockDevice) -> T) -> Option<T> {
        match self.0.try_lock() {
            Ok(mut device) => device.as_mut().map(work),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("no panic while held"),
        }
    }

    /// The device, when the other thread has left it. For times when the guest does not run.
    fn wait(&self) -> MutexGuard<'_, Option<BlockDevice>> {
        self.0.lock().expect("no panic while held")
    }
}

impl QuickHandler for SharedDevice {
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

struct IoThreadSide(Arc<SharedDevice>);

impl Source for IoThreadSide {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        self.0.wait().as_mut().map_or(Ok(()), |device| device.start(io))
    }

    /// A signal that is not taken note of here does no harm: the next one comes all the same, and what it is about is found by `poll`.
    fn ready(&mut self, key: u32, event: &Event) {
        self.0.try_with(|device| device.ready(key, event));
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        let polled = self.0.try_with(|device| {
            device.is_settling = false;
            device.poll(now)
        });
        polled.unwrap_or(Some(now + IN_USE))
    }

    fn settle(&mut self) -> bool {
        let settled = self.0.try_with(|device| {
            device.is_settling = true;
            Source::settle(device)
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

impl Drop for IoThreadSide {
    fn drop(&mut self) {
        self.0.wait().take();
    }
}

impl BlockDevice {
    /// Answers what waits, if all of it needs no wait. Returns false if something is left for the I/O thread.
    fn serve_here(&mut self) -> Result<bool, Violation> {
        if !self.reads_now || self.dead || self.is_settling || self.in_flight() > 0 {
            return Ok(false);
        }
        // A second time for a request that came after the first look and rang no doorbell.
        for _ in 0..2 {
            if self.ring.requests.available()? > FEW {
                return Ok(false);
            }
            if self.take()? {
                let all = self.read_now();
                self.answer()?;
                if !all {
                    return Ok(false);
                }
            }
            if self.arm()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Works on what was taken, up to the first request that has to wait. Returns whether there is none.
    fn read_now(&mut self) -> bool {
        let mut bytes = 0;
        while let Some(request) = self.taken.get(self.next) {
            let result = match validate(request, &self.config, &self.memory) {
                Ok(Plan::Read(transfer)) if bytes + transfer.buffers.len() <= FEW_BYTES => {
                    if !engine::read_now(&self.disk, &transfer) {
                        return false;
                    }
                    bytes += transfer.buffers.len();
                    self.place.counters.went_in(1, transfer.buffers.len());
                    Ok(())
                }
                // The I/O thread validates it again: it is the same copy.
                Ok(_) => return false,
                Err(errno) => Err(errno),
            };
            self.done.push(Completion { token: request.id, result });
            self.next += 1;
        }
        true
    }
}
