//! Asking a register what time it is.

use crate::hardware::{TIMER, port};
use crate::operation::{Operation, Rig};
use core::hint::black_box;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "clock-register",
    group: "time",
    against: Some("clock-page"),
    rig: Rig::Timer,
    bytes: 0,
    curve: None,
    what: "The counter of an emulated ACPI timer: one read of a port, as guests without a paravirtual clock do.",
    run: |meter| {
        meter.each(|| {
            black_box(port::read_u32(TIMER));
        });
        Ok(())
    },
}];
