//! The result of a run: the JSON of `hv bench --format json`, described in `docs/measuring.md`.
//!
//! Who reads one ignores fields that it does not know.
#![forbid(unsafe_code)]

use super::noise::Noise;
use super::operation::{Group, Kind};
use hv_host::machine::Machine;
use hv_stats::{Estimate, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the schema: a field that goes or changes its meaning makes a new one.
pub const SCHEMA: u32 = 2;

/// What [`Results::kind`] says.
pub const KIND: &str = "operations";

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`KIND`], which other results of `hv bench` have not.
    pub kind: String,
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
    /// Which program it was: the XXH3 hash of its file, in hexadecimal digits; empty if that could not be read.
    pub build: String,
    /// The same for the image of the guest that measures.
    pub guest: String,
}

/// How a run was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds of each operation, at least. Operations that take as long as ten rounds have no more than six.
    pub rounds: u32,
    /// Rounds of those whose interval is wide, at most.
    pub most_rounds: u32,
    /// After this many seconds there are no more rounds than at least.
    pub budget_s: u64,
    /// What a round of an operation was made to take, in milliseconds.
    pub round_ms: u64,
    /// The pause before each round of operations that belong together, in milliseconds.
    pub cool_down_ms: u64,
    /// The seed of the orders within rounds, and of the bootstraps.
    pub seed: u64,
    /// How often an interval is to contain what it is about.
    pub confidence: f64,
    /// What a ratio has to differ from 1 to be called a difference.
    pub effect: f64,
    /// The processors that this process was confined to (`--pin`), if it was.
    pub pinned: Option<String>,
    /// Nanoseconds that a sample of nothing takes: of the time-stamp counter in hv's process, and of its monotonic clock.
    pub timer_ns: [f64; 2],
}

/// The result of an operation. Times are in nanoseconds for one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// Who did it.
    pub kind: Kind,
    /// What was measured, in one sentence.
    pub what: String,
    /// Bytes that one operation moves; 0 if that is not what it is about.
    pub bytes: u64,
    /// Operations that were done, in all rounds.
    pub count: u64,
    /// Samples: as many as operations, or fewer where one covers several.
    pub samples: u64,
    /// What was taken off each sample for the reading of the clock.
    pub overhead_ns: f64,
    /// Latencies of single operations, over all rounds.
    pub latency_ns: Latency,
    /// The samples by buckets: beginning in picoseconds, and how many. To merge two, add those of the same beginning.
    pub histogram_ps: Vec<(u64, u64)>,
    /// The rounds, one by one.
    pub rounds: Vec<RoundValues>,
    /// The rounds' median latencies.
    pub median_ns: Estimate,
    /// The rounds' time by their operations: with several in flight, less than a latency.
    pub time_ns: Estimate,
    /// Operations per second, from the median of `time_ns`.
    pub per_second: f64,
    /// Processor time of the host's process, guest included.
    pub cpu_ns: Estimate,
    /// Exits to hv by kind, for one operation.
    pub exits: BTreeMap<String, f64>,
    /// Comparison with another operation of this run.
    pub against: Option<Comparison>,
}

/// What one round of an operation came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundValues {
    /// When it began, in milliseconds since the first round.
    pub at_ms: f64,
    /// Operations.
    pub operations: u64,
    /// Their median latency.
    pub median_ns: f64,
    /// Their time by their number.
    pub time_ns: f64,
    /// Processor time of one.
    pub cpu_ns: f64,
    /// Whether the host was busy with other things, and was so when the round was repeated.
    pub noisy: bool,
}

/// Percentiles of latencies, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Percent, and the latency that so many do not exceed: as far as there are samples enough.
    pub percentiles: Vec<(f64, f64)>,
}

/// An operation beside another of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The other's name.
    pub name: String,
    /// What is compared: `time` per operation for operations that move bytes, else `median`.
    pub by: Figure,
    /// This operation's figure by the other's, round by round.
    pub ratios: Vec<f64>,
    /// Their median: below 1 this operation is faster.
    pub ratio: Estimate,
    /// What may be said of it.
    pub verdict: Verdict,
    /// How far the two were apart at most, within a round: from the begin of the one to the end of the other, in milliseconds.
    pub apart_ms: f64,
}

/// A figure of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// The median latency: it holds when other programs take the processor away.
    Median,
    /// The time of all by their number.
    Time,
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
    /// Time of one of them in nanoseconds.
    pub time_ns: Estimate,
}

impl Latency {
    /// A percentile, if there were samples enough for it.
    pub fn at(&self, percent: f64) -> Option<f64> {
        self.percentiles.iter().find(|(known, _)| *known == percent).map(|&(_, nanos)| nanos)
    }
}

impl Measurement {
    /// Exits of all kinds, for one operation.
    pub fn exits_per_operation(&self) -> f64 {
        // An empty sum of floats is -0.
        self.exits.values().sum::<f64>().abs()
    }
}
