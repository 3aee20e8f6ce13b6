//! An operation that the bench guest measures by itself.

use super::rig::Rig;
use super::{GuestError, Guests, wire};
use crate::operation::{Operation, OperationError, Round, Spec};
use crate::timer::{cpu_time, cycles_to_nanos};
use hv_stats::Samples;
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
        // So are those that came with the call that waits: one exit.
        let with_block = exits.get("send_and_block").copied().unwrap_or(0);
        exits.entry("doorbell".into()).and_modify(|all| *all = all.saturating_sub(unbound + with_block));
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
        let nanos = |cycles: f64| {
            cycles_to_nanos((cycles - measured.overhead as f64).max(0.0) / measured.per_sample as f64)
        };
        for &(cycles, count) in &measured.samples {
            let [low, high] = bucket(cycles);
            samples.record_between(nanos(low), nanos(high), count);
        }
        let exits = busy.exits.into_iter().map(|(kind, n)| {
            let without = idle.exits.get(&kind).copied().unwrap_or(0);
            (kind, n.saturating_sub(without))
        });
        let duration = |cycles: u64| Duration::from_nanos(cycles_to_nanos(cycles as f64) as u64);
        Ok(Round {
            operations: measured.operations,
            overhead: cycles_to_nanos(measured.overhead as f64),
            time: duration(measured.cycles.saturating_sub(measured.overhead * samples.len())),
            lasted: duration(measured.lasted),
            cpu: busy.cpu.saturating_sub(idle.cpu),
            exits: exits.filter(|&(_, n)| n > 0).collect(),
            samples,
        })
    }
}

/// Between which cycle counts the samples lie that a guest reports by the middle of their bucket.
fn bucket(middle: u64) -> [f64; 2] {
    // Exact below 256; from there on the eight highest bits are known.
    let width = (1u64 << middle.max(1).ilog2().saturating_sub(7)) as f64;
    [middle as f64 - width / 2.0, middle as f64 + width / 2.0]
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_are_those_of_the_guest() {
        assert_eq!(bucket(0), [-0.5, 0.5]);
        assert_eq!(bucket(255), [254.5, 255.5]);
        // 256 and 257 share one, whose middle is 257.
        assert_eq!(bucket(257), [256.0, 258.0]);
        assert_eq!(bucket(1028), [1024.0, 1032.0]);
    }
}
