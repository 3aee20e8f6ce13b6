//! The clock of a guest that started before the frequency of the counter was known well: it is set right soon after.

use super::Domain;
use crate::reactor::{Registrar, Source};
use hv_abi::shared_info::{Clock, SharedInfo};
use hv_host::clock;
use mio::event::Event;
use std::io;
use std::mem::offset_of;
use std::sync::Weak;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;
use zerocopy::IntoBytes;

/// Sets the clock of a guest right, once.
pub(super) struct Pace {
    domain: Weak<Domain>,
    /// When; `None` once that is done.
    due: Option<Instant>,
}

impl Pace {
    pub(super) fn new(domain: Weak<Domain>, due: Instant) -> Self {
        Pace { domain, due: Some(due) }
    }
}

impl Source for Pace {
    fn start(&mut self, _: Registrar) -> io::Result<()> {
        Ok(())
    }

    fn ready(&mut self, _: u32, _: &Event) {}

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        if self.due? <= now {
            self.due = None;
            self.domain.upgrade()?.refine_clock(clock::tsc_khz());
        }
        self.due
    }

    fn reset(&mut self) -> bool {
        true
    }
}

impl Domain {
    /// Has the guest's clock go on at the pace of a counter of this frequency, in kHz.
    fn refine_clock(&self, khz: u32) {
        let mut clock = self.clock.lock().expect("no panic while held");
        let new = clock::refine(&clock, khz);
        let at = |offset: usize| self.places.shared_info + (offset_of!(SharedInfo, clock) + offset) as u64;
        const REST: usize = offset_of!(Clock, shift);
        const { assert!(offset_of!(Clock, version) == 0) };
        // The protocol of `Clock`: the guest may read at any moment. This mutex makes hv one writer.
        let version = self.memory.atomic_u32(at(0));
        version.store(new.version.wrapping_sub(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.memory.host_write(at(REST), &new.as_bytes()[REST..]);
        version.store(new.version, Ordering::Release);
        *clock = new;
        self.khz.store(khz, Ordering::Relaxed);
    }
}
