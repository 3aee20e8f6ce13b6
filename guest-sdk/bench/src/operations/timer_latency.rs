//! How late a guest wakes up: from a deadline to the guest's next instruction.
#![forbid(unsafe_code)]

use crate::meter::tsc;
use crate::operation::{Operation, Rig};
use hv_guest::{hypercall, time};

/// From one deadline to the next, in nanoseconds: the guest sleeps meanwhile.
const PERIOD: u64 = 200_000;

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "timer-latency",
    group: "events",
    against: Some("host-timer-latency"),
    rig: Rig::Plain,
    bytes: 0,
    curve: None,
    what: "From a deadline, 200 us ahead, to the guest that sleeps until then.",
    run: |meter| {
        meter.paced(|count, recorder| {
            for _ in 0..count {
                let (start, begin) = (tsc(), time::now_nanos());
                let deadline = begin + PERIOD;
                while time::now_nanos() < deadline {
                    hypercall::block(deadline);
                }
                let (now, end) = (time::now_nanos(), tsc());
                // In cycles of the counter, as all samples are.
                let late = u128::from(now - deadline) * u128::from(end - start) / u128::from(now - begin);
                recorder.record(late as u64);
            }
            Ok(())
        })
    },
}];
