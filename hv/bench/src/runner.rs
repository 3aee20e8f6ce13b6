//! Rounds: warm up, find out how many operations make a round, then all
//! operations in turn, round by round.
#![forbid(unsafe_code)]

use super::noise::Watch;
use super::operation::{Operation, OperationError, Round};
use super::result::{
    Comparison, Curve, CurvePoint, Latency, Measurement, ProgramInfo, Results, SCHEMA, Settings,
};
use super::stats::{Samples, Spread};
use hv_host::machine::Machine;
use std::collections::BTreeMap;
use std::time::Duration;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rounds of each operation.
    pub rounds: u32,
    /// What the operations of a round are to take together.
    pub round: Duration,
}

impl Plan {
    /// Enough for figures that are published.
    pub const FULL: Plan = Plan { rounds: 15, round: Duration::from_millis(100) };
    /// Enough to see whether something is wrong: everything within a minute.
    pub const QUICK: Plan = Plan { rounds: 7, round: Duration::from_millis(40) };
}

/// Receives the progress of a run.
pub trait RunProgress {
    /// Round `round` of `rounds` of an operation begins; round 0 is the warm-up.
    fn step(&mut self, round: u32, rounds: u32, operation: &str);
}

/// A failure, and the operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct RunError {
    operation: String,
    source: OperationError,
}

/// Most operations of a round, however fast they are.
const MAX_COUNT: u64 = 20_000_000;

/// An operation that takes as long as so many rounds is slow.
const SLOW: u32 = 10;
/// Rounds of a slow operation: enough for a median and a spread.
const SLOW_ROUNDS: u32 = 3;

/// How often an operation is done.
struct Pace {
    /// Operations of a round.
    count: u64,
    rounds: u32,
}

/// Finds out how many operations make a round; that also warms everything up.
fn calibrate(operation: &dyn Operation, plan: Plan) -> Result<Pace, OperationError> {
    let mut count = 1u64;
    // Estimates from few operations are poor; a quarter of a round is not few.
    for _ in 0..8 {
        let mut took = operation.round(count)?.lasted;
        if count == 1 && took < plan.round * SLOW {
            // A single operation may just have been interrupted.
            took = took.min(operation.round(count)?.lasted);
        }
        let took = took.max(Duration::from_nanos(1));
        let wanted = (count as f64 * plan.round.as_secs_f64() / took.as_secs_f64()).ceil() as u64;
        if took >= plan.round / 4 {
            let slow = count == 1 && took >= plan.round * SLOW;
            let rounds = if slow { plan.rounds.min(SLOW_ROUNDS) } else { plan.rounds };
            return Ok(Pace { count: wanted.clamp(1, MAX_COUNT), rounds });
        }
        count = wanted.clamp(count + 1, count.saturating_mul(64)).min(MAX_COUNT);
    }
    Ok(Pace { count, rounds: plan.rounds })
}

/// Measures the operations.
///
/// # Errors
///
/// When an operation fails: then there is no result.
pub fn run(
    operations: &[&dyn Operation],
    plan: Plan,
    progress: &mut dyn RunProgress,
) -> Result<Results, RunError> {
    let time = hv_host::clock::wall_clock() / 1_000_000_000;
    let named = |operation: &dyn Operation| {
        let operation = operation.spec().name.clone();
        move |source| RunError { operation, source }
    };
    let mut paces = Vec::with_capacity(operations.len());
    for &operation in operations {
        progress.step(0, plan.rounds, &operation.spec().name);
        paces.push(calibrate(operation, plan).map_err(named(operation))?);
    }
    let watch = Watch::begin();
    let mut rounds: Vec<Vec<Round>> = operations.iter().map(|_| Vec::new()).collect();
    for n in 1..=plan.rounds {
        for ((&operation, pace), rounds) in operations.iter().zip(&paces).zip(&mut rounds) {
            if n > pace.rounds {
                continue;
            }
            progress.step(n, plan.rounds, &operation.spec().name);
            rounds.push(operation.round(pace.count).map_err(named(operation))?);
        }
    }
    let noise = watch.end();
    let all: Vec<(&dyn Operation, &[Round])> =
        operations.iter().copied().zip(rounds.iter().map(Vec::as_slice)).collect();
    let measurements: Vec<_> =
        all.iter().map(|&(operation, rounds)| measurement(operation, rounds, &all)).collect();
    Ok(Results {
        schema: SCHEMA,
        program: ProgramInfo {
            name: "hv".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            optimised: !cfg!(debug_assertions),
        },
        time,
        settings: Settings { rounds: plan.rounds, round_ms: plan.round.as_millis() as u64 },
        machine: Machine::of_this_host(),
        noise,
        curves: curves(operations, &measurements),
        operations: measurements,
    })
}

/// Nanoseconds of one of so many operations.
fn each(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations.max(1) as f64
}

fn measurement(
    operation: &dyn Operation,
    rounds: &[Round],
    all: &[(&dyn Operation, &[Round])],
) -> Measurement {
    let spec = operation.spec();
    let mut samples = Samples::default();
    rounds.iter().for_each(|round| samples.add(&round.samples));
    let count: u64 = rounds.iter().map(|round| round.operations).sum();
    let mut exits = BTreeMap::new();
    for (kind, &n) in rounds.iter().flat_map(|round| &round.exits) {
        *exits.entry(kind.clone()).or_insert(0.0) += n as f64 / count.max(1) as f64;
    }
    let time = |round: &Round| each(round.time, round.operations);
    let time_ns = Spread::of(rounds.iter().map(time));
    let against = spec.against.as_ref().and_then(|name| {
        let (_, others) = all.iter().find(|(other, _)| other.spec().name == *name)?;
        // What moves bytes is compared by its rate, everything else by its
        // median: that holds when other programs take the processor away.
        let figure = |round: &Round| {
            if spec.bytes > 0 { time(round) } else { round.samples.percentile(50.0) }
        };
        // They are neighbours in time, so that a drift of the machine affects both.
        let ratios = rounds.iter().zip(*others).map(|(own, other)| figure(own) / figure(other).max(1e-3));
        Some(Comparison { name: name.clone(), ratio: Spread::of(ratios) })
    });
    Measurement {
        name: spec.name.clone(),
        group: spec.group,
        what: spec.what.clone(),
        bytes: spec.bytes,
        count,
        latency_ns: latency(&samples),
        median_ns: Spread::of(rounds.iter().map(|round| round.samples.percentile(50.0))),
        per_second: 1e9 / time_ns.median.max(1e-3),
        time_ns,
        cpu_ns: Spread::of(rounds.iter().map(|round| each(round.cpu, round.operations))),
        exits,
        against,
    }
}

/// Percent values of a distribution's curve: closer and closer to 100.
const CURVE: [f64; 16] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999, 100.0];

fn latency(samples: &Samples) -> Latency {
    let at = |percent| samples.percentile(percent);
    // Of a thousand samples, none is the one in ten thousand.
    let known = |percent: &f64| *percent == 100.0 || samples.len() as f64 * (100.0 - percent) >= 100.0;
    Latency {
        min: samples.min(),
        p50: at(50.0),
        p90: at(90.0),
        p99: at(99.0),
        p999: at(99.9),
        max: samples.max(),
        curve: CURVE.into_iter().filter(known).map(|percent| (percent, at(percent))).collect(),
    }
}

fn curves(operations: &[&dyn Operation], measurements: &[Measurement]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for (operation, measurement) in operations.iter().zip(measurements) {
        let Some((name, at)) = &operation.spec().curve else { continue };
        let curve = match curves.iter_mut().find(|curve| curve.name == *name) {
            Some(curve) => curve,
            None => {
                curves.push(Curve { name: name.clone(), points: Vec::new() });
                curves.last_mut().expect("just pushed")
            }
        };
        curve.points.push(CurvePoint { at: *at, time_ns: measurement.median_ns });
        curve.points.sort_by_key(|point| point.at);
    }
    curves
}
