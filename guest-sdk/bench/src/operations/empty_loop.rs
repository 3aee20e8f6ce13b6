//! What a loop around nothing costs: the floor of every figure here.

use crate::operation::{Operation, Rig};
use core::hint::black_box;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "empty-loop",
    group: "exits",
    against: None,
    rig: Rig::Plain,
    bytes: 0,
    curve: None,
    what: "One turn of a loop that does nothing: what a guest's own instructions cost.",
    run: |meter| {
        let mut turns = 0u64;
        meter.runs(10_000, || turns = black_box(turns + 1));
        Ok(())
    },
}];
