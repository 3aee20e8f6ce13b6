//! Reading kvmclock: what a Linux guest computes from the page that KVM fills in (Linux, Documentation/virt/kvm/x86/msr.rst).
#![forbid(unsafe_code)]

use crate::meter::counter;
use crate::operation::{Operation, Rig};
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const RUN: u64 = 1000;

/// The fields of the page that a reader looks at.
struct Page {
    version: AtomicU32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    multiplier: AtomicU32,
    shift: AtomicU32,
}

/// A guest in ring 3 cannot ask KVM to fill it in. Its values do not change what reading takes.
static PAGE: Page = Page {
    version: AtomicU32::new(2),
    tsc_timestamp: AtomicU64::new(1),
    system_time: AtomicU64::new(1),
    multiplier: AtomicU32::new(0xb000_0000),
    shift: AtomicU32::new(1),
};

impl Page {
    /// Nanoseconds, from the counter and the page.
    fn now(&self) -> u64 {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let delta = counter().wrapping_sub(self.tsc_timestamp.load(Ordering::Relaxed));
            let delta = delta >> self.shift.load(Ordering::Relaxed);
            let scaled = (u128::from(delta) * u128::from(self.multiplier.load(Ordering::Relaxed))) >> 32;
            let now = self.system_time.load(Ordering::Relaxed).wrapping_add(scaled as u64);
            if version & 1 == 0 && self.version.load(Ordering::Acquire) == version {
                return now;
            }
        }
    }
}

pub(super) const OPERATIONS: &[Operation] = &[Operation {
    name: "clock-kvmclock",
    group: "time",
    against: None,
    rig: Rig::Plain,
    bytes: 0,
    curve: None,
    what: "Nanoseconds by the computation of kvmclock, over a page that the guest filled in itself.",
    run: |meter| {
        meter.runs(RUN, || {
            black_box(black_box(&PAGE).now());
        });
        Ok(())
    },
}];
