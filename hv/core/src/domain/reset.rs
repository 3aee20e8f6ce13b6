//! Pooled instances: the virtual machine of a clone that is done serves the next one.
//!
//! A clone can leave traces in its memory, in its virtual CPU, in the host's end of its rings, and in
//! what the host keeps about it. All of it goes back to the snapshot here; what
//! stays is the VM itself with its page tables, whose making is most of the cost of a clone.

use super::life::State;
use super::power::Power;
use super::vcpu::VcpuHandle;
use super::{Guest, Identity};
use crate::platform::PlatformError;
use hv_abi::ring::Violation;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Why a virtual machine cannot be used again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The virtual CPU cannot be set back.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The rings of the snapshot are no rings.
    #[error("a ring of the snapshot is broken: {0}")]
    Ring(#[from] Violation),
    /// One of its devices cannot be set back.
    #[error("the guest has devices that are not reset")]
    Devices,
    /// It has been told to end.
    #[error("the guest was told to end while it answered")]
    Ordered,
}

impl Guest {
    /// Has the devices of a clone that is paused finish what they have taken on, and calls `then`, on a thread
    /// that must not block, with whether they have within this time. Returns false, and does not call it, if
    /// there are none that have to.
    pub fn settle(&self, within: Duration, then: impl FnOnce(bool) + Send + 'static) -> bool {
        let sources = self.sources();
        let count = sources.len();
        let all = Arc::new(Mutex::new((count, true, Some(then))));
        for source in sources {
            let all = all.clone();
            let tell = move |settled| {
                let (left, so_far, then) = &mut *all.lock().expect("no panic while held");
                *left -= 1;
                *so_far &= settled;
                if *left == 0
                    && let Some(then) = then.take()
                {
                    then(*so_far);
                }
            };
            self.engine.inner.reactor.pause_then(source, within, Box::new(tell));
        }
        count > 0
    }

    /// Takes a clone that is paused, and whose devices have [settled](Self::settle), back to its snapshot, and
    /// returns how many pages it had written.
    ///
    /// # Errors
    ///
    /// If the guest was told to end, or the platform, a device or a ring of the snapshot refuses: the guest is to be dropped then.
    pub fn reset(&self) -> Result<u64, ResetError> {
        let domain = &*self.domain;
        if domain.life.state() != State::Paused {
            return Err(ResetError::Ordered);
        }
        let mut cpus: Vec<_> = domain.vcpus.iter().map(VcpuHandle::cpu).collect();
        let origin = domain.origin.as_ref().expect("a clone");
        let sources = self.sources();
        let reactor = &self.engine.inner.reactor;
        // Nothing may arrive in memory that is being reset.
        cpus.iter_mut().for_each(|cpu| cpu.vcpu.halt());
        let pages = domain.memory.reset();
        if !sources.iter().all(|&source| reactor.reset(source)) {
            return Err(ResetError::Devices);
        }
        sources.iter().for_each(|&source| reactor.resume(source));
        for ((cpu, state), handle) in cpus.iter_mut().zip(&origin.cpus).zip(&domain.vcpus) {
            cpu.vcpu.reset(state)?;
            (cpu.blocked, cpu.first_entry, cpu.called) = (None, None, false);
            *handle.power.lock().expect("no panic while held") = Power::of(state);
        }
        domain.hub.set_handler(origin.places.handler(domain.memory.base()));
        domain.doorbells.lock().expect("no panic while held").reset()?;
        Ok(pages)
    }

    /// Makes a clone that is paused another guest than all before it, and lets it run from the next
    /// [`wake`](Self::wake) on.
    ///
    /// # Errors
    ///
    /// If the host gives no random numbers for its identity.
    pub fn assign_identity(&self) -> std::io::Result<()> {
        let domain = &*self.domain;
        let origin = domain.origin.as_ref().expect("a clone");
        let clock =
            Identity::fresh()?.give(&domain.memory, &domain.places, &domain.hub, domain.khz, origin.time);
        *domain.clock.lock().expect("no panic while held") = clock;
        self.set_running();
        Ok(())
    }

    /// Lets a clone that is paused, and has not run yet, run from the next [`wake`](Self::wake) on.
    pub fn set_running(&self) {
        self.domain.allow_to_run();
    }

    /// Has its own thread tell the [hook](super::Hook) of work that another thread found done.
    pub fn note_done(&self) {
        self.domain.done.store(true, Ordering::SeqCst);
        self.domain.kick_all();
    }

    /// Has it run.
    pub fn wake(&self) {
        self.domain.wake_all();
    }

    /// The ranges of its memory, tail included, that were written since it was made.
    pub(crate) fn written(&self) -> Vec<Range<u64>> {
        let memory = &self.domain.memory;
        let mut ranges = Vec::new();
        memory.for_each_private(memory.size() + memory.tail(), &mut |range| ranges.push(range));
        ranges
    }
}
