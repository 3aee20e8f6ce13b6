//! An operation that the bench guest measures by itself.

use super::rig::Rig;
use super::{GuestError, Guests, wire};
use crate::operation::{Operation, OperationError, Round, Spec};
use crate::stats::{Samples, cpu_time, cycles_to_nanos};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// An operation of the bench guest.
pub struct GuestOperation {
    guests: Rc<Guests>,
    spec: Spec,
    rig: Rig,
}

/// What a guest cost the host from its start to its end.
struct Cost {
    cpu: Duration,
    exits: BTreeMap<String, u64>,
}

/// Most operations of a warm-up: enough for caches, and for hv to bind the doorbells.
const WARM_UP: u64 = 1000;

impl GuestOperation {
    pub(super) fn new(guests: Rc<Guests>, spec: Spec, rig: Rig) -> Self {
        GuestOperation { guests, spec, rig }
    }

    /// Runs a guest that does `count` operations after `warm_up` others.
    fn run(&self, warm_up: u64, count: u64) -> Result<(wire::Measured, Cost), GuestError> {
        let (warm_up, count) = (warm_up.to_string(), count.to_string());
        let extra = self.guests.rigs.port(self.rig).to_string();
        let before = cpu_time();
        let run = self.guests.run(&["run", &self.spec.name, &warm_up, &count, &extra], self.rig)?;
        let cpu = cpu_time() - before;
        let mut exits: BTreeMap<String, u64> =
            run.guest.counters().into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect();
        // Doorbells without a back end are counted among all doorbells, too.
        let unbound = exits.get("unbound_doorbell").copied().unwrap_or(0);
        exits.entry("doorbell".into()).and_modify(|all| *all -= unbound.min(*all));
        let measured = wire::measured(&run.output)
            .map_err(|source| GuestError::Wire { what: self.spec.name.clone(), source })?;
        Ok((measured, Cost { cpu, exits }))
    }
}

impl Operation for GuestOperation {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Two guests: one that only starts, warms up and ends, and one that also
    /// does the operations. The difference is what the operations cost the host.
    fn round(&self, count: u64) -> Result<Round, OperationError> {
        // One that takes longer than a round is its own warm-up.
        let warm_up = if count == 1 { 0 } else { (count / 10).clamp(1, WARM_UP) };
        let (_, idle) = self.run(warm_up, 0)?;
        let (measured, busy) = self.run(warm_up, count)?;
        let mut samples = Samples::default();
        for &(cycles, count) in &measured.samples {
            samples.record(cycles_to_nanos(cycles as f64 / measured.per_sample as f64), count);
        }
        let exits = busy.exits.into_iter().map(|(kind, n)| {
            let without = idle.exits.get(&kind).copied().unwrap_or(0);
            (kind, n.saturating_sub(without))
        });
        let duration = |cycles: u64| Duration::from_nanos(cycles_to_nanos(cycles as f64) as u64);
        Ok(Round {
            operations: measured.operations,
            time: duration(measured.cycles),
            lasted: duration(measured.lasted),
            cpu: busy.cpu.saturating_sub(idle.cpu),
            exits: exits.filter(|&(_, n)| n > 0).collect(),
            samples,
        })
    }
}
