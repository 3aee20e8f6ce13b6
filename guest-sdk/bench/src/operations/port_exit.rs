//! A register of an emulated device that does nothing: what each access to any costs.

use crate::hardware::{TIMER, port};
use crate::operation::{Operation, Rig};

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "port-write",
    group: "exits",
    against: Some("hypercall"),
    rig: Rig::Timer,
    bytes: 0,
    curve: None,
    what: "A write to a port of an emulated device: out to hv, which finds the device, and back.",
    run: |meter| {
        meter.each(|| port::write_u32(TIMER, 0));
        Ok(())
    },
}];
