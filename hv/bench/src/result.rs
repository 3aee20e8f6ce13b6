//! The result of a run: the JSON of `hv bench --format json`, described in `docs/measuring.md`.
#![forbid(unsafe_code)]

use super::noise::Noise;
use super::operation::Group;
use super::stats::Spread;
use hv_host::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the schema: a field that goes or changes its meaning makes a new one.
pub const SCHEMA: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What measured.
    pub program: ProgramInfo,
    /// When the run began, in seconds since 1970-01-01 UTC.
    pub time: u64,
    /// How it was done.
    pub settings: Settings,
    /// Where.
    pub machine: Machine,
    /// How quiet the machine was.
    pub noise: Noise,
    /// The operations, in the order of the table.
    pub operations: Vec<Measurement>,
    /// Times against how many operations come at a time.
    pub curves: Vec<Curve>,
}

/// What measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramInfo {
    /// `hv`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it was built with optimisation.
    pub optimised: bool,
}

/// How a run was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds of each operation.
    pub rounds: u32,
    /// What a round of an operation was made to take, in milliseconds.
    pub round_ms: u64,
}

/// The result of an operation. Times are in nanoseconds for one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// What was measured, in one sentence.
    pub what: String,
    /// Bytes that one operation moves; 0 if that is not what it is about.
    pub bytes: u64,
    /// Operations that were done, in all rounds.
    pub count: u64,
    /// Latencies of single operations, over all rounds.
    pub latency_ns: Latency,
    /// The rounds' median latencies.
    pub median_ns: Spread,
    /// The rounds' times divided by their operations: with several under way, less than a latency.
    pub time_ns: Spread,
    /// Operations per second: from the median of `time_ns`.
    pub per_second: f64,
    /// Processor time of the host's process, guest included.
    pub cpu_ns: Spread,
    /// Exits to hv by kind, for one operation.
    pub exits: BTreeMap<String, f64>,
    /// Comparison with another operation of this run.
    pub against: Option<Comparison>,
}

/// Percentiles of latencies, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The smallest.
    pub min: f64,
    /// Half do not exceed it.
    pub p50: f64,
    /// 90 % do not exceed it.
    pub p90: f64,
    /// 99 % do not exceed it.
    pub p99: f64,
    /// 99.9 % do not exceed it.
    pub p999: f64,
    /// The largest.
    pub max: f64,
    /// Points of the distribution: percent, and the latency that so many do not exceed.
    pub curve: Vec<(f64, f64)>,
}

/// An operation beside another of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The other's name.
    pub name: String,
    /// Time of this operation by the other's, round by round: below 1 this one is faster. For
    /// operations that move bytes, of the time per operation; for others, of the medians.
    pub ratio: Spread,
}

/// Times against a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// What it shows.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<CurvePoint>,
}

/// A point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Operations at a time.
    pub at: u32,
    /// Time of one of them in nanoseconds: spread of the rounds' medians.
    pub time_ns: Spread,
}

impl Measurement {
    /// Exits of all kinds, for one operation.
    pub fn exits_per_operation(&self) -> f64 {
        // An empty sum of floats is -0.
        self.exits.values().sum::<f64>().abs()
    }
}
