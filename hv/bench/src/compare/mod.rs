//! Results of several runs beside each other: what changed, and whether that can be told from chance. Nothing is measured.
#![forbid(unsafe_code)]

mod read;
mod text;

#[cfg(test)]
mod tests;

pub use read::{ReadError, read};
pub use text::{csv, markdown, table};

use super::operation::Group;
use super::plan::Plan;
use super::result::{Comparison, Figure, Measurement, Results};
use hv_host::machine::Machine;
use hv_stats::verdict::EFFECT_BETWEEN_RUNS;
use hv_stats::{Estimate, Verdict, ratio_of_medians};
use serde::Serialize;

/// Version of the JSON.
pub const SCHEMA: u32 = 2;

/// A result, and the name of its file.
#[derive(Clone, Copy, Debug)]
pub struct Named<'a> {
    /// As it is shown.
    pub name: &'a str,
    /// What was in it.
    pub results: &'a Results,
}

/// Why results are not put beside each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// They were measured in different ways, so that they differ though nothing changed.
    #[error(
        "{first} and {other} cannot be compared: {what}; measure both alike, or use `hv bench compare --anyway`, which claims nothing"
    )]
    Settings {
        /// The first file.
        first: String,
        /// The one that differs.
        other: String,
        /// In what.
        what: String,
    },
    /// They have nothing in common.
    #[error("{first} and {other} have no operation in common; measure the same groups")]
    NothingInCommon {
        /// The first file.
        first: String,
        /// The other one.
        other: String,
    },
}

/// Runs beside each other: each column is a file, and changes are against the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The files.
    pub files: Vec<File>,
    /// What differs between the runs, or disturbed one.
    pub notes: Vec<String>,
    /// Ratios of operations to their partners, and the changes of these, with verdicts.
    pub ratios: Vec<RatioRow>,
    /// Medians of single operations, without verdicts: times depend on the load of the host.
    pub medians: Vec<MedianRow>,
    /// Names of operations that the first file has and another one has not, or the reverse, by file.
    pub missing: Vec<Missing>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// When its run began, in seconds since 1970-01-01 UTC.
    pub time: u64,
    /// The version of hv.
    pub version: String,
    /// The hash of its program.
    pub build: String,
    /// The processor.
    pub cpu: String,
    /// The kernel.
    pub kernel: String,
    /// Rounds, at least.
    pub rounds: u32,
    /// Length of a round in milliseconds.
    pub round_ms: u64,
    /// Why there are no verdicts on changes of this file against the first; `None` if there are.
    pub not_compared: Option<String>,
}

/// An operation beside the one that it is compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RatioRow {
    /// Its name.
    pub name: String,
    /// The other's.
    pub against: String,
    /// What of the two is compared.
    pub by: Figure,
    /// The ratio in each file.
    pub columns: Vec<Option<Estimate>>,
    /// How the ratio changed from the first file to each other one.
    pub changes: Vec<Option<Change>>,
}

/// A change between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The later ratio by the first: above 1 the operation is slower beside the same other one.
    pub ratio: Estimate,
    /// What may be said of it.
    pub verdict: Verdict,
}

/// An operation by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MedianRow {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// Its median latency in each file, in nanoseconds.
    pub columns: Vec<Option<Estimate>>,
    /// The later median by the first, for each other file.
    pub changes: Vec<Option<Estimate>>,
}

/// Operations that not both of two files have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The file that has them not.
    pub file: String,
    /// Their names.
    pub operations: Vec<String>,
}

impl Compared {
    /// Compares runs with the first of them; `anyway` also those that were measured in different ways.
    ///
    /// # Errors
    ///
    /// When they cannot be compared.
    pub fn of(runs: &[Named<'_>], anyway: bool) -> Result<Compared, CompareError> {
        let Some((first, others)) = runs.split_first() else { return Ok(Compared::empty()) };
        let mut notes = Vec::new();
        let mut not_compared = vec![None];
        for other in others {
            if let Some(what) = unlike(&Way::of(first.results), &Way::of(other.results)) {
                if !anyway {
                    return Err(CompareError::Settings {
                        first: first.name.into(),
                        other: other.name.into(),
                        what,
                    });
                }
                notes.push(format!("{} and {}: {what}", first.name, other.name));
                not_compared.push(Some(what));
                continue;
            }
            let hosts = host_differences(&first.results.machine, &other.results.machine);
            notes.extend(hosts.iter().map(|what| format!("{} and {}: {what}", first.name, other.name)));
            not_compared.push((!hosts.is_empty()).then(|| "the hosts differ".into()));
        }
        for other in others {
            let common = |m: &Measurement| find(other.results, &m.name).is_some();
            if !first.results.operations.iter().any(common) {
                return Err(CompareError::NothingInCommon {
                    first: first.name.into(),
                    other: other.name.into(),
                });
            }
        }
        for run in runs {
            notes.extend(
                run.results.noise.warnings.iter().map(|warning| format!("{} was noisy: {warning}", run.name)),
            );
        }
        Ok(Compared {
            schema: SCHEMA,
            files: runs
                .iter()
                .zip(&not_compared)
                .map(|(run, not_compared)| file(run, not_compared.clone()))
                .collect(),
            notes,
            ratios: ratios(runs, &not_compared),
            medians: medians(runs),
            missing: missing(runs),
        })
    }

    fn empty() -> Compared {
        let (files, notes, missing) = (Vec::new(), Vec::new(), Vec::new());
        Compared { schema: SCHEMA, files, notes, ratios: Vec::new(), medians: Vec::new(), missing }
    }

    /// Every change with a verdict.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        let all = self.ratios.iter().flat_map(|row| row.changes.iter().flatten());
        all.filter(|change| change.verdict != Verdict::NotCompared)
    }

    /// Whether an operation has become slower.
    pub fn has_slower(&self) -> bool {
        self.changes().any(|change| change.verdict == Verdict::Slower)
    }
}

fn file(run: &Named<'_>, not_compared: Option<String>) -> File {
    let results = run.results;
    File {
        name: run.name.into(),
        time: results.time,
        version: results.program.version.clone(),
        build: results.program.build.clone(),
        cpu: results.machine.cpu.clone(),
        kernel: results.machine.kernel.clone(),
        rounds: results.settings.rounds,
        round_ms: results.settings.round_ms,
        not_compared,
    }
}

fn find<'a>(results: &'a Results, name: &str) -> Option<&'a Measurement> {
    results.operations.iter().find(|m| m.name == name)
}

/// What makes results of the same program on the same host differ.
struct Way {
    optimised: bool,
    round_ms: u64,
}

impl Way {
    fn of(results: &Results) -> Way {
        Way { optimised: results.program.optimised, round_ms: results.settings.round_ms }
    }
}

fn unlike(first: &Way, other: &Way) -> Option<String> {
    let optimised = |way: &Way| if way.optimised { "optimised" } else { "not optimised" };
    if first.optimised != other.optimised {
        return Some(format!("hv was {} in the one and {} in the other", optimised(first), optimised(other)));
    }
    let (own, theirs) = (first.round_ms, other.round_ms);
    (own != theirs)
        .then(|| format!("rounds of {own} ms in the one and of {theirs} ms in the other (--quick)"))
}

/// Whether a run by this plan of operations of these names can be compared with an earlier one: that is known before it begins.
///
/// # Errors
///
/// When it cannot.
pub fn can_be_compared(old: &Named<'_>, plan: &Plan, names: &[&str]) -> Result<(), CompareError> {
    let (first, other) = (old.name.to_owned(), "this run".to_owned());
    let way = Way { optimised: !cfg!(debug_assertions), round_ms: plan.round.as_millis() as u64 };
    if let Some(what) = unlike(&Way::of(old.results), &way) {
        return Err(CompareError::Settings { first, other, what });
    }
    match names.iter().any(|name| find(old.results, name).is_some()) {
        true => Ok(()),
        false => Err(CompareError::NothingInCommon { first, other }),
    }
}

fn host_differences(first: &Machine, other: &Machine) -> Vec<String> {
    let facts = |machine: &Machine| {
        [
            ("the processor", machine.cpu.clone()),
            ("the number of processors", machine.cores.to_string()),
            ("the kernel", machine.kernel.clone()),
            ("the KVM module", machine.kvm.clone()),
            ("the clock source", machine.clock_source.clone()),
            ("frequency scaling", machine.frequency_scaling.clone()),
            (
                "mitigations",
                machine
                    .mitigations
                    .iter()
                    .map(|(name, state)| format!("{name} {state}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        ]
    };
    let pairs = facts(first).into_iter().zip(facts(other));
    pairs
        .filter(|((_, one), (_, two))| one != two)
        .map(|((what, one), (_, two))| format!("{what} differs: {one}; {two}"))
        .collect()
}

/// Names of all runs' operations, in the order of the first run that has them.
fn names(runs: &[Named<'_>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for m in runs.iter().flat_map(|run| &run.results.operations) {
        if !names.contains(&m.name) {
            names.push(m.name.clone());
        }
    }
    names
}

fn ratios(runs: &[Named<'_>], not_compared: &[Option<String>]) -> Vec<RatioRow> {
    let row = |name: String| {
        let all: Vec<Option<&Comparison>> =
            runs.iter().map(|run| find(run.results, &name)?.against.as_ref()).collect();
        // In a run that compares with something else it is another ratio.
        let (against, by) = all.iter().flatten().next().map(|first| (first.name.clone(), first.by))?;
        let all: Vec<Option<&Comparison>> = all
            .into_iter()
            .map(|comparison| {
                comparison.filter(|comparison| comparison.name == against && comparison.by == by)
            })
            .collect();
        let change = |other: Option<&Comparison>, not_compared: &Option<String>| {
            let ratio = ratio_of_medians(&other?.ratios, &all[0]?.ratios, runs[0].results.settings.seed);
            let verdict = match not_compared {
                None => Verdict::of(&ratio, EFFECT_BETWEEN_RUNS),
                Some(_) => Verdict::NotCompared,
            };
            Some(Change { ratio, verdict })
        };
        let changes =
            all.iter().zip(not_compared).skip(1).map(|(other, not_compared)| change(*other, not_compared));
        Some(RatioRow {
            changes: changes.collect(),
            columns: all.iter().map(|comparison| comparison.map(|comparison| comparison.ratio)).collect(),
            name,
            against,
            by,
        })
    };
    names(runs).into_iter().filter_map(row).collect()
}

fn medians(runs: &[Named<'_>]) -> Vec<MedianRow> {
    let row = |name: String| {
        let all: Vec<Option<&Measurement>> = runs.iter().map(|run| find(run.results, &name)).collect();
        let change = |other: Option<&Measurement>| {
            let values = |m: &Measurement| m.rounds.iter().map(|round| round.median_ns).collect::<Vec<_>>();
            Some(ratio_of_medians(&values(other?), &values(all[0]?), runs[0].results.settings.seed))
        };
        Some(MedianRow {
            group: all.iter().flatten().next()?.group,
            columns: all.iter().map(|m| m.map(|m| m.median_ns)).collect(),
            changes: all.iter().skip(1).map(|m| change(*m)).collect(),
            name,
        })
    };
    names(runs).into_iter().filter_map(row).collect()
}

fn missing(runs: &[Named<'_>]) -> Vec<Missing> {
    let names = names(runs);
    let of = |run: &Named<'_>| {
        let lacks = |name: &&String| find(run.results, name).is_none();
        Missing { file: run.name.into(), operations: names.iter().filter(lacks).cloned().collect() }
    };
    runs.iter().map(of).filter(|missing| !missing.operations.is_empty()).collect()
}
