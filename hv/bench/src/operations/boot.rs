//! Starting a guest: hv's whole way to the first hypercall, and the bare KVM calls.

use crate::floor::{Floor, FloorProgram};
use crate::guest::{Guests, Way};
use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::{clock_overhead, cpu_time, since};
use hv_stats::Samples;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

fn spec(name: &str, kind: Kind, against: Option<&str>, what: &str) -> Spec {
    let (name, what, against) = (name.into(), what.into(), against.map(Into::into));
    Spec { name, group: Group::Boot, kind, against, bytes: 0, curve: None, what }
}

/// The bare KVM calls for one guest.
struct Bare {
    spec: Spec,
    floor: Floor,
}

/// A guest of hv.
struct Start {
    spec: Spec,
    guests: Rc<Guests>,
}

/// A guest of hv with devices, which it finds in one way or another.
struct Find {
    spec: Spec,
    guests: Rc<Guests>,
    way: Way,
}

pub(super) fn operations(guests: &Rc<Guests>) -> Result<Vec<Box<dyn Operation>>, OperationError> {
    let what = "Bare KVM calls for one virtual machine of 16 MiB, up to its first exit.";
    let bare = Bare { spec: spec("boot-floor", Kind::Floor, None, what), floor: Floor::new()? };
    let what = "A guest from an image that is validated and loaded, up to its first hypercall.";
    let start = Start { spec: spec("boot", Kind::Hv, Some("boot-floor"), what), guests: guests.clone() };
    let find = |name, way, kind, against, what| -> Box<dyn Operation> {
        Box::new(Find { spec: spec(name, kind, against, what), guests: guests.clone(), way })
    };
    let what = "A guest that initialises virtio console, disk and network of a machine without anything else, from its start to its end.";
    let virtio = find("boot-virtio", Way::Virtio, Kind::Emulated, None, what);
    let what = "A guest that finds console, disk and network in start-info, from its start to its end.";
    let look = find("boot-look", Way::Look, Kind::Hv, Some("boot-virtio"), what);
    let what = "The worst case: a guest that probes a UART, an ATA disk, virtio block and virtio net, from its start to its end.";
    let probe = find("boot-worst-probe", Way::Probe, Kind::Emulated, Some("boot-look"), what);
    Ok(vec![Box::new(bare), Box::new(start), virtio, look, probe])
}

/// Times each of `count` starts; what a start leaves behind is dropped outside of the time.
pub(super) fn starts<T>(
    count: u64,
    mut start: impl FnMut() -> Result<T, OperationError>,
    mut exits: impl FnMut(&T) -> u64,
) -> Result<Round, OperationError> {
    start()?;
    let (mut samples, mut time, mut cpu) = (Samples::default(), Duration::ZERO, Duration::ZERO);
    let (mut left, first) = (0, Instant::now());
    for _ in 0..count {
        let (begin, cpu_begin) = (Instant::now(), cpu_time());
        let started = start()?;
        let took = since(begin);
        cpu += cpu_time() - cpu_begin;
        time += took;
        samples.record(took.as_nanos() as f64, 1);
        left += exits(&started);
    }
    let exits = BTreeMap::from([("all".to_owned(), left)]);
    Ok(Round {
        operations: count,
        overhead: clock_overhead(),
        time,
        lasted: first.elapsed(),
        cpu,
        exits,
        samples,
    })
}

impl Operation for Bare {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let start = || {
            let mut vm = self.floor.start(FloorProgram::Exits, None)?;
            vm.run()?;
            Ok(vm)
        };
        starts(count, start, |_| 1)
    }
}

impl Operation for Start {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let start = || Ok(self.guests.start_null()?);
        starts(count, start, |guest| guest.counters().iter().map(|(_, count)| count).sum())
    }
}

impl Operation for Find {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let start = || Ok(self.guests.start_and_find(self.way)?);
        starts(count, start, |guest| guest.counters().iter().map(|(_, count)| count).sum())
    }
}
