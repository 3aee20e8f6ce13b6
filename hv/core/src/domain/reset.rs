//! Pooled instances: the virtual machine of a finished clone is used for the next clone.
//!
//! A clone can leave traces in its memory, in its virtual CPU, in the host's end of its rings, and in the host's records
//! of it. All of these are reset to the snapshot here. The VM itself stays, with its page tables: making those is most of
//! the cost of a clone.

use super::free_memory;
use super::life::State;
use super::power::Power;
use super::vcpu::VcpuHandle;
use super::{Guest, Identity};
use crate::memory::private::KEPT_PAGES;
use crate::platform::PlatformError;
use hv_abi::ring::Violation;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Why a virtual machine cannot be reused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// The virtual CPU cannot be reset.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// The rings in the snapshot are invalid.
    #[error("a ring of the snapshot is broken: {0}")]
    Ring(#[from] Violation),
    /// One of its devices cannot be reset.
    #[error("the guest has devices that are not reset")]
    Devices,
    /// It has been told to end.
    #[error("the guest was told to end while it answered")]
    Ordered,
}

impl Guest {
    /// Lets the devices of a paused clone finish the requests that they have accepted. Then calls `then`, on a thread
    /// that must not block, with whether they finished within this time. Returns false, and does not call it, if no
    /// device has to finish anything.
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

    /// Resets a clone to its snapshot. The clone is paused, and its devices have [settled](Self::settle). Returns how
    /// many pages it had written.
    ///
    /// # Errors
    ///
    /// If the guest was told to end, or the platform, a device or a ring of the snapshot refuses. The guest has to be dropped then.
    pub fn reset(&self) -> Result<u64, ResetError> {
        let domain = &*self.domain;
        if domain.life.state() != State::Paused {
            return Err(ResetError::Ordered);
        }
        let mut cpus: Vec<_> = domain.vcpus.iter().map(VcpuHandle::cpu).collect();
        let origin = domain.origin.as_ref().expect("a clone");
        let sources = self.sources();
        let reactor = &self.engine.inner.reactor;
        // Nothing may write to the memory while it is being reset.
        cpus.iter_mut().for_each(|cpu| cpu.vcpu.halt());
        domain.free_memory.settle();
        let pages = domain.memory.reset();
        if pages > KEPT_PAGES {
            domain.measure_memory();
        }
        if !sources.iter().all(|&source| reactor.reset(source)) {
            return Err(ResetError::Devices);
        }
        sources.iter().for_each(|&source| reactor.resume(source));
        for ((cpu, state), handle) in cpus.iter_mut().zip(&origin.cpus).zip(&domain.vcpus) {
            cpu.vcpu.reset(state)?;
            (cpu.blocked, cpu.first_entry, cpu.called) = (None, None, false);
            *handle.power() = Power::of(state);
        }
        domain.take_standing_targets();
        domain.hub.set_handler(origin.places.handler(domain.memory.base()));
        domain.doorbells.lock().expect("no panic while held").reset()?;
        Ok(pages)
    }

    /// Whether nothing has disturbed the virtual CPUs of a paused clone since its [reset](Self::reset). One that was disturbed can only be dropped: on
    /// the platform *process*, its process has ended or may have executed what the guest before wanted. Waits for a clone that is not paused to leave its
    /// virtual CPUs.
    pub fn is_undisturbed(&self) -> bool {
        self.domain.vcpus.iter().all(|vcpu| vcpu.cpu().vcpu.is_undisturbed())
    }

    /// Gives a paused clone an identity that no guest before it had, and lets it run from the next [`wake`](Self::wake) on.
    ///
    /// # Errors
    ///
    /// If the host gives no random numbers for its identity.
    pub fn assign_identity(&self) -> std::io::Result<()> {
        let domain = &*self.domain;
        let origin = domain.origin.as_ref().expect("a clone");
        free_memory::begin(&domain.memory, &domain.places, domain.hook.as_deref());
        let khz = domain.khz.load(Ordering::Relaxed);
        let clock = Identity::fresh()?.give(&domain.memory, &domain.places, &domain.hub, khz, origin.time);
        *domain.clock.lock().expect("no panic while held") = clock;
        self.set_running();
        Ok(())
    }

    /// Lets a paused clone that has not run yet run from the next [`wake`](Self::wake) on.
    pub fn set_running(&self) {
        self.domain.allow_to_run();
    }

    /// Makes the guest's own thread tell the [hook](super::Hook) about work that another thread found done.
    pub fn note_done(&self) {
        self.domain.done.store(true, Ordering::SeqCst);
        self.domain.kick_all();
    }

    /// Wakes it.
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
