//! What the host's own programs get: the floor of what guests do without their devices.
#![forbid(unsafe_code)]

use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::{counter_overhead, cpu_time, nanos_since};
use hv_host::clock::tsc;
use hv_stats::Samples;
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::clock_gettime;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// What the guest does, too.
#[allow(unreachable_pub, reason = "the guest's crate exports it")]
#[path = "../../../../guest-sdk/bench/src/walk.rs"]
mod walk;

/// Does an operation so often, and says what each took: nanoseconds.
type Measure = Box<dyn Fn(u64) -> std::io::Result<Vec<f64>>>;

struct Host {
    spec: Spec,
    measure: Measure,
    /// Operations of one sample.
    run: u64,
}

/// An operation of a program of the host, of which a sample covers `run`.
pub(super) fn host(
    name: &str,
    group: Group,
    bytes: u64,
    run: u64,
    what: &str,
    measure: Measure,
) -> Box<dyn Operation> {
    let (name, what) = (name.into(), what.into());
    let spec = Spec { name, group, kind: Kind::Floor, against: None, bytes, curve: None, what };
    Box::new(Host { spec, measure, run })
}

pub(super) fn operations() -> Vec<Box<dyn Operation>> {
    let what = "From a deadline, 200 us ahead, to a thread of the host that sleeps until then.";
    let timer = host("host-timer-latency", Group::Events, 0, 1, what, Box::new(late));
    let what =
        "A read of 8 MiB in a random order, each address from the read before, by a program of the host.";
    let latency = host("host-memory-latency", Group::Memory, 0, RUN, what, Box::new(chase));
    let what = "A copy of 1 MiB from one place of a program's memory to another.";
    let copy = host("host-memory-copy", Group::Memory, walk::COPIED as u64, 1, what, Box::new(copy));
    vec![timer, latency, copy]
}

/// Reads of one sample: one takes no longer than the reading of the clock.
const RUN: u64 = 1000;

/// From one deadline to the next.
const PERIOD: Duration = Duration::from_micros(200);

fn late(count: u64) -> std::io::Result<Vec<f64>> {
    let now = || {
        let time = clock_gettime(rustix::time::ClockId::Monotonic);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    (0..count)
        .map(|_| {
            let deadline = now() + PERIOD;
            let time = rustix::time::Timespec {
                tv_sec: deadline.as_secs() as i64,
                tv_nsec: deadline.subsec_nanos().into(),
            };
            while now() < deadline {
                clock_nanosleep_absolute(ClockId::Monotonic, &time)?;
            }
            Ok((now() - deadline).as_nanos() as f64)
        })
        .collect()
}

/// Times calls, so many for each sample.
pub(super) fn times(count: u64, run: u64, mut operate: impl FnMut()) -> Vec<f64> {
    (0..count.div_ceil(run))
        .map(|_| {
            let start = tsc();
            (0..run).for_each(|_| operate());
            nanos_since(start) / run as f64
        })
        .collect()
}

fn chase(count: u64) -> std::io::Result<Vec<f64>> {
    let mut chase = walk::Chase::default();
    Ok(times(count, RUN, || {
        black_box(chase.step());
    }))
}

fn copy(count: u64) -> std::io::Result<Vec<f64>> {
    let mut memory = walk::Copied::default();
    Ok(times(count, 1, || {
        black_box(memory.copy());
    }))
}

impl Operation for Host {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        (self.measure)(count / 10)?;
        let (begin, cpu) = (Instant::now(), cpu_time());
        let took = (self.measure)(count)?;
        let (lasted, cpu) = (begin.elapsed(), cpu_time() - cpu);
        let mut samples = Samples::default();
        took.iter().for_each(|nanos| samples.record(*nanos, 1));
        let operations = took.len() as u64 * self.run;
        let time = Duration::from_nanos((took.iter().sum::<f64>() * self.run as f64) as u64);
        let (overhead, exits) = (counter_overhead(), BTreeMap::new());
        Ok(Round { operations, overhead, time, lasted, cpu, exits, samples })
    }
}
