//! Clones: from a snapshot to the first answer, in a new virtual machine, in one that was made beforehand, and
//! in one that was used before.

use crate::clones::{CloneGuest, Clones};
use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::{clock_overhead, cpu_time, since};
use hv_stats::Samples;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

fn spec(name: &str, against: &str, what: &str) -> Spec {
    let against = Some(against.to_owned());
    Spec {
        name: name.into(),
        group: Group::Clone,
        kind: Kind::Hv,
        against,
        bytes: 0,
        curve: None,
        what: what.into(),
    }
}

/// In a virtual machine that is made for it.
struct Cold {
    spec: Spec,
    clones: Rc<Clones>,
    /// The machine is made before the time begins.
    ready: bool,
}

/// In a virtual machine that another clone had before.
struct Warm {
    spec: Spec,
    clones: Rc<Clones>,
}

pub(super) fn operations(clones: &Rc<Clones>) -> Vec<Box<dyn Operation>> {
    let what = "A clone of a function that was saved when it was ready: new virtual machine, request, complete answer.";
    let cold = Cold { spec: spec("clone-cold", "boot-floor", what), clones: clones.clone(), ready: false };
    let what = "The same in a virtual machine that was made beforehand and has had no guest: memory, request, complete answer.";
    let ready = Cold { spec: spec("clone-ready", "boot-floor", what), clones: clones.clone(), ready: true };
    let what = "A pool's reset beside a restore: the same in a used instance, whose memory, registers and rings are reset.";
    let warm = Warm { spec: spec("clone-warm", "clone-cold", what), clones: clones.clone() };
    vec![Box::new(cold), Box::new(ready), Box::new(warm)]
}

/// Times each of `count` answers; what comes before one and what it leaves behind are outside of the time.
fn answers(
    count: u64,
    before: impl Fn() -> Result<(), OperationError>,
    mut answer: impl FnMut() -> Result<Option<CloneGuest>, OperationError>,
    exits: impl FnOnce(u64) -> BTreeMap<String, u64>,
) -> Result<Round, OperationError> {
    before()?;
    answer()?;
    let (mut samples, mut time, mut cpu) = (Samples::default(), Duration::ZERO, Duration::ZERO);
    let first = Instant::now();
    for _ in 0..count {
        before()?;
        let (begin, cpu_begin) = (Instant::now(), cpu_time());
        let left = answer()?;
        let took = since(begin);
        cpu += cpu_time() - cpu_begin;
        time += took;
        samples.record(took.as_nanos() as f64, 1);
        drop(left);
    }
    let (overhead, lasted) = (clock_overhead(), first.elapsed());
    Ok(Round { operations: count, overhead, time, lasted, cpu, exits: exits(count), samples })
}

impl Operation for Cold {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let mut left = 0;
        let answer = || {
            let clone = self.clones.start()?;
            clone.ask()?;
            left += clone.exits().iter().map(|(_, count)| count).sum::<u64>();
            Ok(Some(clone))
        };
        let before = || match self.ready {
            true => Ok(self.clones.prepare()?),
            false => Ok(()),
        };
        let mut round = answers(count, before, answer, |_| BTreeMap::new())?;
        // One more was made to warm up.
        round.exits.insert("exits".into(), left * count / (count + 1));
        Ok(round)
    }
}

impl Operation for Warm {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let clone = self.clones.start()?;
        clone.ask()?;
        let before: u64 = clone.exits().iter().map(|(_, count)| count).sum();
        let answer = || {
            clone.assign_identity()?;
            clone.ask()?;
            Ok(None)
        };
        let mut round = answers(count, || Ok(()), answer, |_| BTreeMap::new())?;
        let after: u64 = clone.exits().iter().map(|(_, count)| count).sum();
        round.exits.insert("exits".into(), (after - before) * count / (count + 1));
        Ok(round)
    }
}
