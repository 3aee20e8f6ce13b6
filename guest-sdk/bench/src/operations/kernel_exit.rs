//! Leaving the guest without hv: what its platform answers by itself, and a wait that is over before it begins.
#![forbid(unsafe_code)]

use crate::operation::{Operation, Rig};
use core::arch::x86_64::__cpuid;
use core::hint::black_box;
use hv_guest::hypercall;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "cpuid",
        group: "exits",
        against: Some("pio-exit"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "The instruction cpuid: the processor's answer, or the kernel's, but never an exit to hv.",
        run: |meter| {
            meter.each(|| {
                black_box(__cpuid(black_box(0)));
            });
            Ok(())
        },
    },
    Operation {
        name: "block-expired",
        group: "exits",
        against: Some("hypercall"),
        rig: Rig::Plain,
        bytes: 0,
        curve: None,
        what: "The hypercall that waits, with a deadline that has passed: what a wait costs without the waiting.",
        run: |meter| {
            meter.each(|| {
                black_box(hypercall::block(0));
            });
            Ok(())
        },
    },
];
