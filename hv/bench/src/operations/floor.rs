//! What leaving a guest costs any monitor: an exit from a guest of nothing but KVM calls.

use crate::floor::{Floor, FloorProgram, FloorVm};
use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::{counter_overhead, cpu_time, nanos_since};
use hv_host::clock::tsc;
use hv_stats::Samples;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

struct Exit {
    spec: Spec,
    vm: RefCell<FloorVm>,
}

pub(super) fn operations() -> Result<Vec<Box<dyn Operation>>, OperationError> {
    let floor = Floor::new()?;
    let exit = |name: &str, program, against: Option<&str>, what: &str| {
        let spec = Spec {
            name: name.into(),
            group: Group::Exits,
            kind: Kind::Floor,
            against: against.map(Into::into),
            bytes: 0,
            curve: None,
            what: what.into(),
        };
        let vm = RefCell::new(floor.start(program, None)?);
        Ok::<_, OperationError>(Box::new(Exit { spec, vm }) as Box<dyn Operation>)
    };
    Ok(vec![
        exit(
            "pio-exit",
            FloorProgram::Exits,
            None,
            "A write to an I/O port: out to the monitor and back, with bare KVM calls.",
        )?,
        exit(
            "mmio-exit",
            FloorProgram::Stores,
            Some("pio-exit"),
            "A store to an address without memory: KVM decodes it, and tells the monitor. Bare KVM calls.",
        )?,
    ])
}

impl Operation for Exit {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let vm = &mut *self.vm.borrow_mut();
        let mut samples = Samples::default();
        for _ in 0..count / 10 {
            vm.run()?;
        }
        let (begin, cpu, mut sum) = (Instant::now(), cpu_time(), 0.0);
        for _ in 0..count {
            let start = tsc();
            vm.run()?;
            let nanos = nanos_since(start);
            samples.record(nanos, 1);
            sum += nanos;
        }
        let (lasted, cpu) = (begin.elapsed(), cpu_time() - cpu);
        let (time, overhead) = (Duration::from_nanos(sum as u64), counter_overhead());
        let exits = BTreeMap::from([("kvm_run".to_owned(), count)]);
        Ok(Round { operations: count, overhead, time, lasted, cpu, exits, samples })
    }
}
