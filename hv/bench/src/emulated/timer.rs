//! The ACPI power-management timer (ACPI specification 6.5, section 4.8.2.1):
//! a 32-bit counter of 3.579545 MHz.
#![forbid(unsafe_code)]

use super::RegisterAccess;
use std::time::Instant;

const HZ: u128 = 3_579_545;

pub(super) struct Timer(Instant);

impl Timer {
    pub(super) fn new() -> Self {
        Timer(Instant::now())
    }
}

impl RegisterAccess for Timer {
    fn read(&mut self, _: u64, _: u8) -> u64 {
        let ticks = self.0.elapsed().as_nanos() * HZ / 1_000_000_000;
        u64::from(ticks as u32)
    }

    fn write(&mut self, _: u64, _: u8, _: u64) {}
}
