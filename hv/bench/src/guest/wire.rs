//! What bench guests print, read strictly: a guest may print anything.
//!
//! The list, one operation a line, fields separated by tabs:
//!
//! ```text
//! @operations 1
//! operation NAME GROUP AGAINST|- RIG BYTES CURVE|- AT WHAT…
//! end
//! ```
//!
//! A result, in cycles of the time-stamp counter; the last one counts. The overhead is what a sample of nothing takes. Samples
//! are the middles of buckets: exact below 256, a 128th of the power of two below wide from there on.
//!
//! ```text
//! @result 2
//! operations COUNT
//! per-sample OPERATIONS
//! overhead CYCLES
//! cycles TOTAL
//! lasted CYCLES
//! samples CYCLES:COUNT CYCLES:COUNT …
//! end
//! ```
//!
//! A failure: `@error TEXT`.

use super::rig::Rig;
use crate::operation::{Group, Kind, Spec};

/// Most operations of a list.
const MAX_OPERATIONS: usize = 256;
/// Most characters of a name.
const MAX_NAME: usize = 40;
/// Most characters of a sentence.
const MAX_TEXT: usize = 200;
/// Most cycles that anything may claim to have taken: some days.
const MAX_CYCLES: u64 = 1 << 50;

/// What is wrong with what a guest printed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The heading is not there.
    #[error("no line `{0}`")]
    Missing(&'static str),
    /// A line does not have the form that it has to have.
    #[error("line {0} makes no sense")]
    Line(usize),
    /// There is more than a list may have.
    #[error("more than {MAX_OPERATIONS} operations")]
    TooMany,
    /// Two operations have the same name.
    #[error("two operations of the same name")]
    Twice,
    /// The last line is missing.
    #[error("no end")]
    NoEnd,
    /// The samples are not as many as the operations.
    #[error("samples of {samples} operations for {operations} operations")]
    Samples {
        /// Operations that the samples cover.
        samples: u64,
        /// Operations that were done.
        operations: u64,
    },
}

/// What a guest measured.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) operations: u64,
    /// Operations that a sample covers; not zero.
    pub(super) per_sample: u64,
    /// Cycles that each sample contains of the reading of the counter.
    pub(super) overhead: u64,
    /// All operations together, with as many readings of the counter as there are samples.
    pub(super) cycles: u64,
    /// From the first operation to the last.
    pub(super) lasted: u64,
    /// Cycles of a sample, and how many samples took them.
    pub(super) samples: Vec<(u64, u64)>,
}

/// The lines after the last heading, numbered from 1.
fn after<'a>(
    output: &'a str,
    heading: &'static str,
) -> Result<impl Iterator<Item = (usize, &'a str)>, WireError> {
    let lines: Vec<&str> = output.lines().collect();
    let start = lines.iter().rposition(|line| *line == heading).ok_or(WireError::Missing(heading))?;
    Ok((start + 2..).zip(lines.into_iter().skip(start + 1)))
}

/// A name: small letters, digits and hyphens.
fn name(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= MAX_NAME && text.chars().all(fits))
        .then(|| text.to_owned())
}

/// A piece of prose that a terminal and a page can show.
fn prose(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.chars().count() <= MAX_TEXT && !text.contains(char::is_control);
    // Lossy reading of other bytes leaves this.
    (fits && !text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.to_owned())
}

/// A field that may be `-`: then it is none.
fn optional<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "-" { Some(None) } else { read(text).map(Some) }
}

fn operation(line: &str) -> Option<(Spec, Rig)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let ["operation", own, group, against, rig, bytes, curve, at, what] = fields[..] else { return None };
    let at: u32 = at.parse().ok()?;
    let rig = Rig::of(rig)?;
    let spec = Spec {
        name: name(own)?,
        group: Group::of(group).filter(|group| *group != Group::Other)?,
        kind: if rig.is_emulated() { Kind::Emulated } else { Kind::Hv },
        against: optional(against, name)?,
        bytes: bytes.parse().ok()?,
        curve: optional(curve, prose)?.map(|curve| (curve, at.max(1))),
        what: prose(what)?,
    };
    Some((spec, rig))
}

/// The list of operations.
pub(super) fn operations(output: &str) -> Result<Vec<(Spec, Rig)>, WireError> {
    let mut found: Vec<(Spec, Rig)> = Vec::new();
    for (number, line) in after(output, "@operations 1")? {
        if line == "end" {
            return Ok(found);
        }
        let new = operation(line).ok_or(WireError::Line(number))?;
        if found.iter().any(|(spec, _)| spec.name == new.0.name) {
            return Err(WireError::Twice);
        }
        if found.len() == MAX_OPERATIONS {
            return Err(WireError::TooMany);
        }
        found.push(new);
    }
    Err(WireError::NoEnd)
}

/// The number after a word.
fn number(line: &str, word: &str) -> Option<u64> {
    line.strip_prefix(word)?.strip_prefix(' ')?.parse().ok().filter(|&n| n <= MAX_CYCLES)
}

fn sample(text: &str) -> Option<(u64, u64)> {
    let (cycles, count) = text.split_once(':')?;
    let (cycles, count): (u64, u64) = (cycles.parse().ok()?, count.parse().ok()?);
    (cycles <= MAX_CYCLES && (1..=u64::from(u32::MAX)).contains(&count)).then_some((cycles, count))
}

/// The result of a round.
pub(super) fn measured(output: &str) -> Result<Measured, WireError> {
    let mut lines = after(output, "@result 2")?;
    let mut field = |word| {
        let (at, line) = lines.next().ok_or(WireError::NoEnd)?;
        number(line, word).ok_or(WireError::Line(at))
    };
    let (operations, per_sample) = (field("operations")?, field("per-sample")?);
    let (overhead, cycles, lasted) = (field("overhead")?, field("cycles")?, field("lasted")?);
    let mut samples = Vec::new();
    for (at, line) in lines {
        if line == "end" {
            let covered = samples
                .iter()
                .try_fold(0u64, |sum, &(_, count)| sum.checked_add(per_sample.checked_mul(count)?));
            // An operation may leave samples out, as an event that came too early; not all of them.
            return match covered {
                Some(covered) if covered <= operations && (covered > 0) == (operations > 0) => Ok(Measured {
                    operations,
                    per_sample: per_sample.max(1),
                    overhead,
                    cycles,
                    lasted,
                    samples,
                }),
                covered => Err(WireError::Samples { samples: covered.unwrap_or(u64::MAX), operations }),
            };
        }
        let list = line.strip_prefix("samples ").ok_or(WireError::Line(at))?;
        for text in list.split(' ') {
            samples.push(sample(text).ok_or(WireError::Line(at))?);
        }
    }
    Err(WireError::NoEnd)
}

/// Why a guest says that it failed.
pub(super) fn error(output: &str) -> Option<String> {
    output.lines().rev().find_map(|line| prose(line.strip_prefix("@error ")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: &str = "boot noise\n@operations 1\n\
        operation\tread-4k\tblock\tata-read\tdisk\t4096\tbatches\t8\tReads 4 KiB.\n\
        operation\tnop\texits\t-\tplain\t0\t-\t0\tNothing.\nend\n";
    const RESULT: &str = "....\n@result 2\noperations 30\nper-sample 10\noverhead 25\ncycles 999\nlasted 1000\n\
        samples 300:1 333:1\nsamples 366:1\nend\n";

    #[test]
    fn a_list_is_read() {
        let list = operations(LIST).unwrap();
        assert_eq!(list.len(), 2);
        let (spec, rig) = &list[0];
        assert_eq!((spec.name.as_str(), spec.group, spec.bytes), ("read-4k", Group::Block, 4096));
        assert_eq!(spec.against.as_deref(), Some("ata-read"));
        assert_eq!(spec.curve, Some(("batches".into(), 8)));
        assert_eq!(*rig, Rig::Disk);
        assert_eq!((list[1].0.against.as_ref(), list[1].0.curve.as_ref()), (None, None));
    }

    #[test]
    fn a_result_is_read_and_the_last_counts() {
        let measured = measured(&format!("{}{RESULT}", RESULT.replace("999", "1"))).unwrap();
        assert_eq!((measured.operations, measured.per_sample, measured.cycles), (30, 10, 999));
        assert_eq!((measured.overhead, measured.lasted), (25, 1000));
        assert_eq!(measured.samples, [(300, 1), (333, 1), (366, 1)]);
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        let spoilt = |from: &str, to: &str| operations(&LIST.replace(from, to)).unwrap_err();
        assert_eq!(spoilt("@operations 1", "@operations 2"), WireError::Missing("@operations 1"));
        for (from, to) in [
            ("\tblock\t", "\tblocks\t"),
            ("read-4k", "Read"),
            ("read-4k", "../x"),
            ("read-4k", ""),
            ("\tdisk\t", "\tfloppy\t"),
            ("4096", "-1"),
            ("Reads 4 KiB.", "\x1b[2J"),
            ("Reads 4 KiB.", ""),
            ("Nothing.", "No\tthing."),
        ] {
            assert!(matches!(spoilt(from, to), WireError::Line(_)), "{to:?}");
        }
        assert_eq!(spoilt("nop", "read-4k"), WireError::Twice);
        assert_eq!(spoilt("\nend", ""), WireError::NoEnd);
        let many: String =
            (0..=MAX_OPERATIONS).map(|n| format!("operation\to{n}\texits\t-\tplain\t0\t-\t0\tX\n")).collect();
        assert_eq!(operations(&format!("@operations 1\n{many}end\n")).unwrap_err(), WireError::TooMany);
    }

    #[test]
    fn results_that_make_no_sense_are_refused() {
        let spoilt = |from: &str, to: &str| measured(&RESULT.replace(from, to)).unwrap_err();
        for (from, to) in [
            ("operations 30", "operations -30"),
            ("operations 30", "operations 99999999999999999999"),
            ("cycles 999", "cycles 0x1"),
            ("cycles 999\n", ""),
            ("lasted 1000\n", ""),
            ("overhead 25\n", ""),
            ("overhead 25", "overhead -1"),
            ("300:1", "300"),
            ("300:1", "300:0"),
            ("300:1", "300:99999999999"),
            ("300:1", "99999999999999999:1"),
            ("samples 366", "sample 366"),
        ] {
            assert!(matches!(spoilt(from, to), WireError::Line(_)), "{to:?}");
        }
        assert!(matches!(spoilt("366:1", "366:9"), WireError::Samples { samples: 110, operations: 30 }));
        assert!(matches!(spoilt("per-sample 10", "per-sample 0"), WireError::Samples { .. }));
        assert_eq!(spoilt("end\n", ""), WireError::NoEnd);
    }

    proptest! {
        #[test]
        fn nothing_that_a_guest_prints_is_a_panic(noise in ".{0,200}", at in 0usize..200, cut in 0usize..300) {
            for whole in [LIST, RESULT] {
                let mut text: Vec<char> = whole.chars().collect();
                let at = at.min(text.len());
                text.splice(at..(at + cut).min(text.len()), noise.chars());
                let text: String = text.into_iter().collect();
                let _ = (operations(&text), measured(&text), error(&text));
            }
        }
    }
}
