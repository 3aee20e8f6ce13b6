//! Asking a register what time it is: the worst case, for guests that have no other clock.

use crate::hardware::{TIMER, hpet, port};
use crate::operation::{Operation, Rig};
use core::hint::black_box;

const fn operation(
    name: &'static str,
    rig: Rig,
    what: &'static str,
    run: fn(&mut crate::meter::Meter) -> Result<(), alloc::string::String>,
) -> Operation {
    Operation { name, group: "time", against: Some("clock-page"), rig, bytes: 0, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation(
        "clock-worst-acpi",
        Rig::Timer,
        "The worst case: the counter of an emulated ACPI timer, one read of a port.",
        |meter| {
            meter.each(|| {
                black_box(port::read_u32(TIMER));
            });
            Ok(())
        },
    ),
    operation(
        "clock-worst-hpet",
        Rig::Hpet,
        "The worst case: the counter of an emulated HPET, one read of a register in memory.",
        |meter| {
            meter.each(|| {
                black_box(hpet::counter());
            });
            Ok(())
        },
    ),
];
