//! What each further virtual CPU adds to the start of a guest.

use crate::floor::{Floor, FloorProgram};
use crate::guest::Guests;
use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::cpu_time;
use hv_stats::Samples;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// So many are added, so that what one takes stands out from what the machine takes.
const FURTHER: usize = 8;

/// The difference between a machine with [`FURTHER`] more virtual CPUs and one with one, per virtual CPU.
struct Further<F> {
    spec: Spec,
    /// Makes a machine with so many virtual CPUs, and says how long that took.
    make: F,
}

pub(super) fn operations(guests: &Rc<Guests>) -> Result<Vec<Box<dyn Operation>>, OperationError> {
    let spec = |name: &str, kind, against: Option<&str>, what: &str| Spec {
        name: name.into(),
        group: Group::Smp,
        kind,
        against: against.map(Into::into),
        bytes: 0,
        curve: None,
        what: what.into(),
    };
    let (floor, guests) = (Floor::new()?, guests.clone());
    let bare = Further {
        spec: spec(
            "vcpu-floor",
            Kind::Floor,
            None,
            "One more virtual CPU in a machine of bare KVM calls: made, with its CPUID and registers.",
        ),
        make: move |vcpus| {
            let begin = Instant::now();
            let vm = floor.start_with(FloorProgram::Exits, None, vcpus)?;
            let took = begin.elapsed();
            drop(vm);
            Ok(took)
        },
    };
    let further = Further {
        spec: spec(
            "vcpu",
            Kind::Hv,
            Some("vcpu-floor"),
            "One more virtual CPU in a machine of hv's that is made.",
        ),
        make: move |vcpus| Ok(guests.start_with(vcpus)?.phases().platform),
    };
    Ok(vec![Box::new(bare), Box::new(further)])
}

impl<F: Fn(usize) -> Result<Duration, OperationError>> Operation for Further<F> {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        (self.make)(1)?;
        let (mut samples, mut time) = (Samples::default(), Duration::ZERO);
        let (first, cpu) = (Instant::now(), cpu_time());
        // A difference of two that were disturbed can be negative: those count as nothing.
        for _ in 0..count {
            let alone = (self.make)(1)?;
            let all = (self.make)(1 + FURTHER)?;
            let one = (all.saturating_sub(alone) / FURTHER as u32).max(Duration::from_nanos(1));
            time += one;
            samples.record(one.as_nanos() as f64, 1);
        }
        let (lasted, cpu) = (first.elapsed(), cpu_time() - cpu);
        // A difference of two times contains the readings of the clock no more.
        Ok(Round { operations: count, overhead: 0.0, time, lasted, cpu, exits: BTreeMap::new(), samples })
    }
}
