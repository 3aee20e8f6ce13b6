//! Has the memory of a guest measured every second, for `--stats`.
#![forbid(unsafe_code)]

use hv_core::domain::Controller;
use hv_core::reactor::{Registrar, Source};
use mio::event::Event;
use std::io;
use std::time::{Duration, Instant};

/// A guest that computes without a pause is measured so often.
const PERIOD: Duration = Duration::from_secs(1);

/// Measures one guest, from the I/O thread.
pub(super) struct Sampler(pub(super) Controller);

impl Source for Sampler {
    fn start(&mut self, _: Registrar) -> io::Result<()> {
        Ok(())
    }

    fn ready(&mut self, _: u32, _: &Event) {}

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        self.0.measure();
        now.checked_add(PERIOD)
    }
}
