//! The guest's own memory, without leaving it: what address translation in two steps costs.
#![forbid(unsafe_code)]

use crate::operation::{Operation, Rig};
use crate::walk::{COPIED, Chase, Copied};
use core::hint::black_box;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "memory-latency",
        group: "memory",
        against: Some("host-memory-latency"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "A read of 8 MiB in a random order, each address from the read before.",
        run: |meter| {
            let mut chase = Chase::default();
            meter.runs(1000, || {
                black_box(chase.step());
            });
            Ok(())
        },
    },
    Operation {
        name: "memory-copy",
        group: "memory",
        against: Some("host-memory-copy"),
        rig: Rig::Plain,
        bytes: COPIED as u64,
        curve: None,
        what: "A copy of 1 MiB from one place of the guest's memory to another.",
        run: |meter| {
            let mut memory = Copied::default();
            meter.each(|| {
                black_box(memory.copy());
            });
            Ok(())
        },
    },
];
