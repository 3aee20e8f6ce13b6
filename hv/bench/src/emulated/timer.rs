//! Counters that guests ask for the time: the ACPI power-management timer (ACPI specification 6.5, section 4.8.2.1), of 32 bits and
//! 3.579545 MHz, and the main counter of a high-precision event timer (IA-PC HPET specification 1.0a).
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

/// Period of the HPET's counter in femtoseconds: 10 MHz.
const PERIOD: u64 = 100_000_000;
/// Offset of its capabilities, whose upper half is the period, and of its counter.
const CAPABILITIES: u64 = 0;
const COUNTER: u64 = 0xf0;

pub(super) struct Hpet(Instant);

impl Hpet {
    pub(super) fn new() -> Self {
        Hpet(Instant::now())
    }
}

impl RegisterAccess for Hpet {
    fn read(&mut self, offset: u64, _: u8) -> u64 {
        match offset {
            // A counter of 64 bits.
            CAPABILITIES => PERIOD << 32 | 1 << 13,
            COUNTER => self.0.elapsed().as_nanos() as u64 / (PERIOD / 1_000_000),
            _ => 0,
        }
    }

    fn write(&mut self, _: u64, _: u8, _: u64) {}
}
