//! From rounds to results. Pure.
#![forbid(unsafe_code)]

use super::operation::{Operation, Round, Spec};
use super::result::{Comparison, Curve, CurvePoint, Figure, Latency, Measurement, RoundValues};
use hv_stats::verdict::EFFECT;
use hv_stats::{Estimate, Samples, Verdict};
use std::collections::BTreeMap;
use std::time::Duration;

/// A round of an operation, and when it was.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) round: Round,
    /// Since the first round began.
    pub(super) begin: Duration,
    pub(super) end: Duration,
    /// The host was busy with other things.
    pub(super) noisy: bool,
    /// It stands for one during which the host was busy.
    pub(super) repeated: bool,
}

/// Nanoseconds of one of so many operations.
fn each(time: Duration, operations: u64) -> f64 {
    time.as_nanos() as f64 / operations.max(1) as f64
}

/// What operations are compared by.
fn figure(spec: &Spec) -> Figure {
    if spec.bytes > 0 { Figure::Time } else { Figure::Median }
}

impl Taken {
    fn median(&self) -> f64 {
        self.round.samples.percentile(50.0)
    }

    fn figure(&self, figure: Figure) -> f64 {
        match figure {
            Figure::Median => self.median(),
            Figure::Time => each(self.round.time, self.round.operations),
        }
    }
}

/// The median latency of an operation's rounds.
pub(super) fn median(taken: &[Taken], seed: u64) -> Estimate {
    Estimate::of(taken.iter().map(Taken::median), seed)
}

fn ratios(spec: &Spec, own: &[Taken], other: &[Taken]) -> Vec<f64> {
    let figure = figure(spec);
    // A figure of 0 says that there is no more than the reading of the clock.
    let of = |taken: &Taken| taken.figure(figure).max(1e-3);
    own.iter().zip(other).map(|(own, other)| of(own) / of(other)).collect()
}

/// An operation beside another, round by round: they are neighbours in time, so that a drift of the machine affects both.
pub(super) fn ratio(spec: &Spec, own: &[Taken], other: &[Taken], seed: u64) -> Estimate {
    Estimate::of(ratios(spec, own, other), seed)
}

/// The results of all operations.
pub(super) fn measurements(
    operations: &[&dyn Operation],
    taken: &[Vec<Taken>],
    seed: u64,
) -> Vec<Measurement> {
    let specs: Vec<&Spec> = operations.iter().map(|operation| operation.spec()).collect();
    let comparison = |own: usize| {
        let name = specs[own].against.as_ref()?;
        let other = specs.iter().position(|spec| spec.name == *name)?;
        Some(compared(specs[own], name, &taken[own], &taken[other], seed))
    };
    specs.iter().enumerate().map(|(n, spec)| measurement(spec, &taken[n], comparison(n), seed)).collect()
}

fn compared(spec: &Spec, name: &str, own: &[Taken], other: &[Taken], seed: u64) -> Comparison {
    let ratios = ratios(spec, own, other);
    let ratio = Estimate::of(ratios.iter().copied(), seed);
    let apart = own.iter().zip(other).map(|(own, other)| own.end.max(other.end) - own.begin.min(other.begin));
    Comparison {
        name: name.into(),
        by: figure(spec),
        ratios,
        ratio,
        verdict: Verdict::of(&ratio, EFFECT),
        apart_ms: apart.max().unwrap_or_default().as_secs_f64() * 1e3,
    }
}

fn measurement(spec: &Spec, taken: &[Taken], against: Option<Comparison>, seed: u64) -> Measurement {
    let mut samples = Samples::default();
    taken.iter().for_each(|taken| samples.add(&taken.round.samples));
    let count: u64 = taken.iter().map(|taken| taken.round.operations).sum();
    let mut exits = BTreeMap::new();
    for (kind, &n) in taken.iter().flat_map(|taken| &taken.round.exits) {
        *exits.entry(kind.clone()).or_insert(0.0) += n as f64 / count.max(1) as f64;
    }
    let values = |taken: &Taken| RoundValues {
        at_ms: taken.begin.as_secs_f64() * 1e3,
        operations: taken.round.operations,
        median_ns: taken.median(),
        time_ns: taken.figure(Figure::Time),
        cpu_ns: each(taken.round.cpu, taken.round.operations),
        noisy: taken.noisy,
    };
    let rounds: Vec<RoundValues> = taken.iter().map(values).collect();
    let of = |value: fn(&RoundValues) -> f64| Estimate::of(rounds.iter().map(value), seed);
    let time_ns = of(|round| round.time_ns);
    Measurement {
        name: spec.name.clone(),
        group: spec.group,
        kind: spec.kind,
        what: spec.what.clone(),
        bytes: spec.bytes,
        count,
        samples: samples.len(),
        overhead_ns: taken.iter().map(|taken| taken.round.overhead).fold(0.0, f64::max),
        latency_ns: latency(&samples),
        histogram_ps: samples.buckets(),
        median_ns: of(|round| round.median_ns),
        per_second: 1e9 / time_ns.median.max(1e-3),
        time_ns,
        cpu_ns: of(|round| round.cpu_ns),
        rounds,
        exits,
        against,
    }
}

/// Percentiles that are looked for: closer and closer to 100.
const PERCENTS: [f64; 14] =
    [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999];

fn latency(samples: &Samples) -> Latency {
    let known = |percent: f64| Some((percent, samples.known_percentile(percent)?));
    Latency {
        min: samples.min(),
        max: samples.max(),
        percentiles: PERCENTS.into_iter().filter_map(known).collect(),
    }
}

/// The curves that operations are points of.
pub(super) fn curves(operations: &[&dyn Operation], measurements: &[Measurement]) -> Vec<Curve> {
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
