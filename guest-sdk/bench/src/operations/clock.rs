//! Asking what time it is.

use crate::meter::counter;
use crate::operation::{Operation, Rig};
use core::hint::black_box;
use hv_guest::{hypercall, time};

/// Readings of a sample: a counter that takes as long as what it measures says little about one.
const RUN: u64 = 1000;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "rdtsc",
        group: "time",
        against: None,
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "The time-stamp counter, read by one instruction: cycles, not yet a time.",
        run: |meter| {
            meter.runs(RUN, || {
                black_box(counter());
            });
            Ok(())
        },
    },
    Operation {
        name: "clock-page",
        group: "time",
        against: Some("clock-kvmclock"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "Nanoseconds since the guest's start, from the counter and the clock page.",
        run: |meter| {
            meter.runs(RUN, || {
                black_box(time::now_nanos());
            });
            Ok(())
        },
    },
    Operation {
        name: "clock-hypercall",
        group: "time",
        against: Some("clock-page"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "The wall clock by a hypercall: hv asks the host's kernel.",
        run: |meter| {
            meter.each(|| {
                black_box(hypercall::wall_clock());
            });
            Ok(())
        },
    },
];
