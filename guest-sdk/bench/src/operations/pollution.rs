//! What an exit leaves behind: caches and translations that are gone.
#![forbid(unsafe_code)]

use crate::meter::{Meter, tsc};
use crate::operation::{Operation, Rig};
use alloc::string::String;
use alloc::vec;
use core::hint::black_box;
use hv_guest::hypercall;

const PAGE: usize = 4096;
/// More than a processor's first level of translations holds, and less than the second.
const PAGES: usize = 256;

/// Times a walk over a byte of each page, after something that is not timed.
fn walk(meter: &mut Meter, before: fn()) -> Result<(), String> {
    let memory = vec![1u8; PAGES * PAGE];
    meter.paced(|count, recorder| {
        for _ in 0..count {
            before();
            let start = tsc();
            // One line further in each page: not all of them in the same set of the cache.
            let sum: usize = (0..PAGES).map(|n| usize::from(memory[n * PAGE + n * 64 % PAGE])).sum();
            black_box(sum);
            recorder.record(tsc() - start);
        }
        Ok(())
    })
}

const fn operation(
    name: &'static str,
    against: Option<&'static str>,
    what: &'static str,
    run: fn(&mut Meter) -> Result<(), String>,
) -> Operation {
    Operation { name, group: "exits", against, rig: Rig::Plain, bytes: 0, curve: None, what, run }
}

pub(super) const OPERATIONS: &[Operation] = &[
    operation("walk", None, "Reads of a byte in each of 256 pages, again and again.", |meter| walk(meter, || ())),
    operation(
        "walk-after-exit",
        Some("walk"),
        "The same after a hypercall: what the exit has taken from caches and translations.",
        |meter| walk(meter, hypercall::nop),
    ),
];
