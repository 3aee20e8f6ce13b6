//! Crossing the boundary and coming back.

use crate::operation::{Operation, Rig};
use hv_guest::hypercall;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "hypercall",
    group: "exits",
    against: Some("pio-exit"),
    rig: Rig::Plain,
    bytes: 0,
    curve: None,
    what: "A synchronous hypercall that does nothing: out to hv and back.",
    run: |meter| {
        meter.each(hypercall::nop);
        Ok(())
    },
}];
