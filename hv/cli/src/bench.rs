//! `hv bench`: measures, and shows what came out.

use super::args::{BenchArgs, Format};
use super::guests;
use hv_bench::clones::Clones;
use hv_bench::guest::Guests;
use hv_bench::operation::{Group, Operation};
use hv_bench::result::Results;
use hv_bench::runner::{self, Plan, RunProgress};
use hv_bench::table::Style;
use hv_bench::{compare, density, operations, report, table};
use hv_core::platform::kvm::KvmPlatform;
use hv_host::escape::escape;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Why `hv bench` does not start.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error(
        "bench: there is no group or operation `{name}` (groups: {groups}, all; operations: {operations})"
    )]
    Unknown { name: String, groups: String, operations: String },
    #[error("bench density: measure it alone, without other groups, --compare and --rounds")]
    NotAlone,
    #[error("bench: --guests is for `hv bench density`; prebuilt guests are named by --images FOLDER")]
    Guests,
    #[error("bench: --touch-memory is for `hv bench density`")]
    TouchMemory,
    #[error("bench: --rounds {0}: use 1 to 1000")]
    Rounds(u32),
    #[error(
        "--report {}: cannot write it: {source}; name a file in a folder that exists and is yours",
        escape(path)
    )]
    Report { path: PathBuf, source: std::io::Error },
}

/// Measures, prints, and writes the report.
pub(super) fn run(args: BenchArgs) -> Result<u8, Box<dyn Error>> {
    // Errors in the arguments are found before anything is measured.
    if args.rounds.is_some_and(|rounds| rounds == 0 || rounds > 1000) {
        return Err(BenchError::Rounds(args.rounds.unwrap_or(0)).into());
    }
    if args.what.iter().any(|what| what == "density") {
        return density(&args);
    }
    if args.guests.is_some() {
        return Err(BenchError::Guests.into());
    }
    if args.touch_memory {
        return Err(BenchError::TouchMemory.into());
    }
    let old = args.compare.as_deref().map(compare::read).transpose()?;
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let (bench, null, function) = match &args.images {
        Some(folder) => (folder.join("bench"), folder.join("bench-null"), folder.join("fn-hello")),
        None => {
            let (bench, null) = guests::bench()?;
            (bench, null, guests::resolve("fn-hello")?)
        }
    };
    let guests = Guests::new(&bench, &null, Box::new(KvmPlatform::new()?))?;
    let guests = Rc::new(guests.with_threads(Box::new(KvmPlatform::new()?))?);
    let all = all_operations(&guests, &function, &bench, &null)?;
    if args.list {
        print(&list(&all))?;
        return Ok(0);
    }
    let chosen = choose(&all, &args.what)?;
    let mut plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    plan.rounds = args.rounds.unwrap_or(plan.rounds);

    let mut line = ProgressLine::new();
    let results = runner::run(&chosen, plan, &mut line);
    line.clear();
    let results = results?;
    if let Some(report) = report {
        report.write(&report::page(&results))?;
    }
    show(&args, &results, old.as_ref())
}

/// Guests of `hv bench density` unless it says otherwise.
const GUESTS: u32 = 1000;

fn density(args: &BenchArgs) -> Result<u8, Box<dyn Error>> {
    if args.what.len() > 1 || args.compare.is_some() || args.rounds.is_some() {
        return Err(BenchError::NotAlone.into());
    }
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let function = match &args.images {
        Some(folder) => folder.join("fn-hello"),
        None => guests::resolve("fn-hello")?,
    };
    let mut line = ProgressLine::new();
    let guests = args.guests.unwrap_or(GUESTS);
    let measured = density::measure(&function, guests, args.touch_memory, &mut line);
    line.clear();
    let measured = measured?;
    if let Some(report) = report {
        report.write(&report::density_page(&measured))?;
    }
    print(&match args.format {
        Format::Text => density::text(&measured),
        Format::Json => serde_json::to_string_pretty(&measured)? + "\n",
    })?;
    Ok(0)
}

fn show(args: &BenchArgs, results: &Results, old: Option<&Results>) -> Result<u8, Box<dyn Error>> {
    let colour = super::colour::on(&std::io::stdout());
    let style = Style { colour };
    let comparison = old.map(|old| compare::Difference::of(old, results));
    print(&match args.format {
        Format::Text => {
            let table = table::text(results, style);
            table + &comparison.map(|difference| difference.text(style)).unwrap_or_default()
        }
        Format::Json => {
            /// The result, and beside it what changed.
            #[derive(serde::Serialize)]
            struct Printed<'a> {
                #[serde(flatten)]
                results: &'a Results,
                #[serde(skip_serializing_if = "Option::is_none")]
                compared: Option<compare::Difference>,
            }
            serde_json::to_string_pretty(&Printed { results, compared: comparison })? + "\n"
        }
    })?;
    Ok(0)
}

/// Every operation, in groups; in a group, floors come first.
fn all_operations(
    guests: &Rc<Guests>,
    function: &Path,
    bench: &Path,
    null: &Path,
) -> Result<Vec<Box<dyn Operation>>, Box<dyn Error>> {
    let of_guests = guests.operations()?;
    let mut all = operations::all(guests, &Rc::new(Clones::new(function, 0)?), bench, null)?;
    all.extend(of_guests.into_iter().map(|operation| Box::new(operation) as Box<dyn Operation>));
    all.sort_by_key(|operation| operation.spec().group);
    Ok(all)
}

/// The operations that were asked for, by group or by name, with those that they are compared with.
fn choose<'a>(all: &'a [Box<dyn Operation>], what: &[String]) -> Result<Vec<&'a dyn Operation>, BenchError> {
    let mut chosen = vec![what.is_empty(); all.len()];
    for name in what {
        let wanted: Vec<bool> = all
            .iter()
            .map(|operation| {
                let spec = operation.spec();
                name == "all" || *name == spec.name || *name == spec.group.name()
            })
            .collect();
        if !wanted.contains(&true) && Group::of(name).is_none() {
            return Err(BenchError::Unknown {
                name: name.clone(),
                groups: Group::ALL.iter().map(|group| group.name()).collect::<Vec<_>>().join(", "),
                operations: all.iter().map(|o| o.spec().name.as_str()).collect::<Vec<_>>().join(", "),
            });
        }
        chosen.iter_mut().zip(wanted).for_each(|(chosen, wanted)| *chosen |= wanted);
    }
    // A chain of comparisons is no longer than there are operations.
    for _ in all {
        for (index, operation) in all.iter().enumerate() {
            let against = operation.spec().against.as_ref().filter(|_| chosen[index]);
            if let Some(at) = all.iter().position(|other| Some(&other.spec().name) == against) {
                chosen[at] = true;
            }
        }
    }
    Ok(all.iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(operation, _)| &**operation).collect())
}

/// The operations with what they measure.
fn list(all: &[Box<dyn Operation>]) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        text += &format!("{}\n", group.name());
        for spec in all.iter().map(|operation| operation.spec()).filter(|spec| spec.group == *group) {
            text += &format!("  {:<18}  {}\n", spec.name, spec.what);
        }
    }
    text
}

/// Prints; a reader that went away is no error.
fn print(text: &str) -> std::io::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The file of the report, open before anything is measured. Not changed if the run fails.
struct ReportFile {
    path: PathBuf,
    file: File,
    /// The file is new: it is removed if the run fails.
    new: bool,
}

impl ReportFile {
    fn open(path: &Path) -> Result<ReportFile, BenchError> {
        let new = !path.exists();
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|source| BenchError::Report { path: path.into(), source })?;
        Ok(ReportFile { path: path.into(), file, new })
    }

    fn write(mut self, page: &str) -> Result<(), BenchError> {
        let path = self.path.clone();
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(page.as_bytes()));
        written.map_err(|source| BenchError::Report { path, source })?;
        self.new = false;
        Ok(())
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.new {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A line on standard error that says how far the run is.
struct ProgressLine {
    terminal: bool,
    /// The last round that was printed, where lines are not overwritten.
    said: Option<u32>,
}

impl ProgressLine {
    fn new() -> Self {
        ProgressLine { terminal: super::colour::can_overwrite(&std::io::stderr()), said: None }
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl density::DensityProgress for ProgressLine {
    fn touched(&mut self, bytes: u64, of: u64) {
        let (mib, all) = (bytes >> 20, of.div_ceil(1 << 20));
        // Without a terminal, the end is enough.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\x1b[Khv bench: touching memory: {mib} of {all} MiB"),
            false if bytes < of => Ok(()),
            false => writeln!(std::io::stderr(), "hv bench: {all} MiB of memory are touched"),
        };
    }

    fn live(&mut self, guests: u32, of: u32) {
        // Standard error may be closed: an error of the write is ignored.
        let _ = match self.terminal {
            true => write!(std::io::stderr(), "\r\x1b[Khv bench: {guests} of {of} guests are live"),
            false => writeln!(std::io::stderr(), "hv bench: {guests} of {of} guests are live"),
        };
    }
}

impl RunProgress for ProgressLine {
    fn step(&mut self, round: u32, rounds: u32, operation: &str) {
        let what = if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {rounds}") };
        // Standard error may be closed: an error of the write is ignored.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[Khv bench: {what}: {operation}")
        } else if self.said.replace(round) != Some(round) {
            writeln!(std::io::stderr(), "hv bench: {what}")
        } else {
            Ok(())
        };
    }
}
