//! What changed since another run, and whether the spread covers it.
#![forbid(unsafe_code)]

use super::result::{Measurement, Results, SCHEMA};
use super::stats::Spread;
use super::table::{Style, digits, time};
use hv_host::escape::escape;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes of a file of results; a whole run has some 100 KiB.
const MAX_SIZE: u64 = 16 << 20;

/// Why an old result cannot be compared with.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// It cannot be read.
    #[error("--compare {}: cannot read it: {source}", escape(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host's kernel said.
        source: std::io::Error,
    },
    /// It is too long to be a result.
    #[error("--compare {}: more than {} MiB are no result of hv bench", escape(path), MAX_SIZE >> 20)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not the JSON of a result.
    #[error(
        "--compare {}: no result of hv bench: {source}; make one with `hv bench --format json`",
        escape(path)
    )]
    NoResult {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It has another schema.
    #[error(
        "--compare {}: its schema is version {found}, this hv compares version {SCHEMA}; measure anew with `hv bench --format json`",
        escape(path)
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}

/// Reads a result that `hv bench --format json` wrote.
///
/// # Errors
///
/// When it is none of this version.
pub fn read(path: &Path) -> Result<Results, CompareError> {
    /// The fields that every version has.
    #[derive(Deserialize)]
    struct Versioned {
        schema: u64,
    }
    let path_of = || path.to_owned();
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text))
        .map_err(|source| CompareError::Read { path: path_of(), source })?;
    if text.len() as u64 > MAX_SIZE {
        return Err(CompareError::TooLong { path: path_of() });
    }
    let no_result = |source| CompareError::NoResult { path: path_of(), source };
    let Versioned { schema } = serde_json::from_str(&text).map_err(no_result)?;
    if schema != u64::from(SCHEMA) {
        return Err(CompareError::Version { path: path_of(), found: schema });
    }
    serde_json::from_str(&text).map_err(no_result)
}

/// The change of an operation between two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The rounds of both runs overlap: no claim can be made.
    Same,
    /// It takes less time than before.
    Faster,
    /// It takes more time than before.
    Slower,
}

/// An operation in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Median latency in nanoseconds, before.
    pub old_ns: Spread,
    /// Median latency in nanoseconds, now.
    pub new_ns: Spread,
    /// New median by old median.
    pub ratio: f64,
    /// Whether the spread covers the difference.
    pub verdict: Verdict,
}

/// Two runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Why the runs may not be comparable.
    pub warnings: Vec<String>,
    /// Operations of both, in the order of the table.
    pub changes: Vec<Change>,
    /// Operations of the old run only.
    pub gone: Vec<String>,
    /// Operations of the new run only.
    pub new: Vec<String>,
}

impl Difference {
    /// Compares two runs.
    pub fn of(old: &Results, new: &Results) -> Difference {
        let only = |these: &Results, those: &Results| {
            let has = |m: &Measurement| those.operations.iter().any(|other| other.name == m.name);
            these.operations.iter().filter(|m| !has(m)).map(|m| m.name.clone()).collect()
        };
        let changes = new.operations.iter().filter_map(|now| {
            let before = old.operations.iter().find(|before| before.name == now.name)?;
            Some(change(before, now))
        });
        Difference {
            warnings: warnings(old, new),
            changes: changes.collect(),
            gone: only(old, new),
            new: only(new, old),
        }
    }

    /// The differences as a table.
    pub fn text(&self, style: Style) -> String {
        let mut text = format!("\n{}\n", style.bold("Compared with the old result"));
        let _ = writeln!(text, "  {:<18}{:>10}{:>10}{:>8}", "median", "old", "new", "ratio");
        for change in &self.changes {
            let verdict = match change.verdict {
                Verdict::Same => "the spread covers it".to_owned(),
                Verdict::Faster => style.paint("32", "faster"),
                Verdict::Slower => style.paint("31", "slower"),
            };
            let (old, new) = (time(change.old_ns.median), time(change.new_ns.median));
            let ratio = digits(change.ratio);
            let _ = writeln!(text, "  {:<18}{old:>10}{new:>10}{ratio:>8}   {verdict}", change.name);
        }
        for (what, names) in [("only in the old result", &self.gone), ("only in this one", &self.new)] {
            if !names.is_empty() {
                let _ = writeln!(text, "  {what}: {}", names.join(", "));
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "{} {warning}", style.warning("not alike:"));
        }
        text
    }
}

fn change(before: &Measurement, now: &Measurement) -> Change {
    let (old_ns, new_ns) = (before.median_ns, now.median_ns);
    let verdict = match () {
        () if old_ns.meets(&new_ns) => Verdict::Same,
        () if new_ns.median < old_ns.median => Verdict::Faster,
        () => Verdict::Slower,
    };
    let ratio = new_ns.median / old_ns.median.max(1e-3);
    Change { name: now.name.clone(), old_ns, new_ns, ratio, verdict }
}

fn warnings(old: &Results, new: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut differ = |what: &str, old: &str, new: &str| {
        if old != new {
            warnings.push(format!("{what}: then {old}, now {new}"));
        }
    };
    let (then, now) = (&old.machine, &new.machine);
    differ("processor", &then.cpu, &now.cpu);
    differ("cores", &then.cores.to_string(), &now.cores.to_string());
    differ("kernel", &then.kernel, &now.kernel);
    differ("KVM", &then.kvm, &now.kvm);
    differ("clock source", &then.clock_source, &now.clock_source);
    differ("frequency scaling", &then.frequency_scaling, &now.frequency_scaling);
    let build = |optimised: bool| if optimised { "optimised" } else { "not optimised" };
    differ("hv", build(old.program.optimised), build(new.program.optimised));
    if then.mitigations != now.mitigations {
        warnings.push("mitigations: not the same as then".into());
    }
    warnings.extend(old.noise.warnings.iter().map(|warning| format!("noise then: {warning}")));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_spread_decides() {
        let old = sample();
        let mut new = sample();
        let scale = |spread: &mut Spread, by: f64| {
            *spread = Spread { median: spread.median * by, low: spread.low * by, high: spread.high * by };
        };
        scale(&mut new.operations[0].median_ns, 1.02);
        scale(&mut new.operations[1].median_ns, 2.0);
        let removed = new.operations.pop().unwrap().name;
        let difference = Difference::of(&old, &new);
        assert_eq!(difference.changes[0].verdict, Verdict::Same);
        assert_eq!(difference.changes[1].verdict, Verdict::Slower);
        assert!((difference.changes[1].ratio - 2.0).abs() < 1e-9);
        assert_eq!((difference.gone, difference.new.len()), (vec![removed], 0));
        let back = Difference::of(&new, &old);
        assert_eq!(back.changes[1].verdict, Verdict::Faster);
        assert_eq!(back.new.len(), 1);
    }

    #[test]
    fn machines_that_differ_are_named() {
        let (old, mut new) = (sample(), sample());
        assert_eq!(Difference::of(&old, &new).warnings, Vec::<String>::new());
        new.machine.kvm = "kvm_amd".into();
        let warnings = Difference::of(&old, &new).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("now kvm_amd"), "{warnings:?}");
    }

    #[test]
    fn a_result_survives_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), serde_json::to_string(&sample()).unwrap()).unwrap();
        let (read, written) = (read(file.path()).unwrap(), sample());
        assert_eq!((&read.machine, &read.settings), (&written.machine, &written.settings));
        // The last bit of a number may be lost on the way through text.
        let difference = Difference::of(&read, &written);
        assert_eq!(difference.changes.len(), written.operations.len());
        assert!(difference.changes.iter().all(|change| (change.ratio - 1.0).abs() < 1e-12));
        assert!(difference.warnings.is_empty() && difference.gone.is_empty() && difference.new.is_empty());
    }
}
