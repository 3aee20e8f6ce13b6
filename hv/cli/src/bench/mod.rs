//! `hv bench`: measures, and shows what came out.

mod files;
mod peers;
mod pin;
mod progress;

use super::args::{BenchArgs, BenchCommand, Format, PlatformArgs, PlatformKind};
use super::guests;
use super::platform::platform;
use files::{FromFile, ReportFile};
use hv_bench::clones::Clones;
use hv_bench::compare::{self, Compared, Named};
use hv_bench::guest::Guests;
use hv_bench::operation::{Group, Operation};
use hv_bench::plan::Plan;
use hv_bench::result::Results;
use hv_bench::table::Style;
use hv_bench::{density, operations, report, runner, table};
use hv_core::platform::kvm::KvmPlatform;
use hv_host::escape::escape;
use hv_stats::stop::Rounds;
use progress::ProgressLine;
use std::error::Error;
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
    #[error(
        "bench density: measure it alone, without other groups, --compare, --quick, --rounds, --seed and --list"
    )]
    NotAlone,
    #[error("bench: --guests is for `hv bench density`; prebuilt guests are named by --images FOLDER")]
    Guests,
    #[error("bench: --touch-memory is for `hv bench density`")]
    TouchMemory,
    #[error(
        "bench: --platform is for `hv bench density`; what guests in processes cost is the group `process`"
    )]
    Platform,
    #[error("bench: --rounds {0}: use 1 to 1000")]
    Rounds(u32),
    #[error("bench compare: use at most {0} files")]
    Files(usize),
    #[error("bench: --pin {0}: name processors as in 0,2-3")]
    Pin(String),
    #[error("bench: --pin {list}: {source}; name processors that this process may use (taskset -p $$)")]
    Pinning { list: String, source: std::io::Error },
    #[error(
        "{option} {}: cannot write it: {source}; name a file in a folder that exists and is yours",
        escape(path)
    )]
    Report { option: &'static str, path: PathBuf, source: std::io::Error },
}

/// Measures, prints, and writes the report; or works on results that are there.
pub(super) fn run(args: &BenchArgs) -> Result<u8, Box<dyn Error>> {
    match &args.command {
        Some(BenchCommand::Compare(args)) => return files::compare(args),
        Some(BenchCommand::Report(args)) => return files::report(args),
        Some(BenchCommand::Peers(args)) => return peers::run(args),
        None => {}
    }
    // Errors in the arguments are found before anything is measured.
    if let Some(rounds) = args.rounds.filter(|rounds| *rounds == 0 || *rounds > 1000) {
        return Err(BenchError::Rounds(rounds).into());
    }
    if let Some(list) = &args.pin {
        pin::to(list)?;
    }
    if args.what.iter().any(|what| what == "density") {
        return density(args);
    }
    if args.guests.is_some() {
        return Err(BenchError::Guests.into());
    }
    if args.touch_memory {
        return Err(BenchError::TouchMemory.into());
    }
    if args.platform.is_some() {
        return Err(BenchError::Platform.into());
    }
    let old = args.compare.as_deref().map(FromFile::read).transpose()?;
    let report = args.report.as_deref().map(|path| ReportFile::open("--report", path)).transpose()?;
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
    let chosen = choose(&all, &args.what, !args.list)?;
    if args.list {
        print(&list(&chosen))?;
        return Ok(0);
    }
    let plan = plan(args);
    if let Some(old) = &old {
        let names: Vec<&str> = chosen.iter().map(|operation| &*operation.spec().name).collect();
        compare::can_be_compared(&old.named(), &plan, &names)?;
    }
    let mut line = ProgressLine::new();
    let results = runner::run(&chosen, &plan, &bench, &mut line);
    line.clear();
    let results = results?;
    let named = Named { name: "this run", results: &results };
    let compared = old.as_ref().map(|old| Compared::of(&[old.named(), named], false)).transpose()?;
    if let Some(report) = report {
        report.write(&report::page(&results, compared.as_ref()))?;
    }
    show(args, &results, compared)
}

fn plan(args: &BenchArgs) -> Plan {
    let mut plan = if args.quick { Plan::quick() } else { Plan::full() };
    if let Some(rounds) = args.rounds {
        plan.rounds = Rounds { least: rounds, most: rounds };
    }
    // A number that every reader of JSON keeps exactly.
    plan.seed = args.seed.map_or_else(|| u64::from(hv_host::clock::wall_clock() as u32), u64::from);
    plan.pinned.clone_from(&args.pin);
    plan
}

/// Guests of `hv bench density` unless it says otherwise.
const GUESTS: u32 = 1000;

fn density(args: &BenchArgs) -> Result<u8, Box<dyn Error>> {
    let other = args.quick || args.list || args.rounds.is_some() || args.seed.is_some();
    if args.what.len() > 1 || args.compare.is_some() || other {
        return Err(BenchError::NotAlone.into());
    }
    let report = args.report.as_deref().map(|path| ReportFile::open("--report", path)).transpose()?;
    let function = match &args.images {
        Some(folder) => folder.join("fn-hello"),
        None => guests::resolve("fn-hello")?,
    };
    let mut line = ProgressLine::new();
    let guests = args.guests.unwrap_or(GUESTS);
    let platform = platform(PlatformArgs { platform: args.platform.unwrap_or(PlatformKind::Kvm) })?;
    let measured = density::measure(&function, platform, guests, args.touch_memory, &mut line);
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

fn show(args: &BenchArgs, results: &Results, compared: Option<Compared>) -> Result<u8, Box<dyn Error>> {
    let style = Style { colour: super::colour::on(&std::io::stdout()) };
    print(&match args.format {
        Format::Text => {
            let changes = compared.map(|compared| format!("\n{}", compare::table(&compared, style)));
            table::text(results, style) + &changes.unwrap_or_default()
        }
        Format::Json => {
            /// The result, and beside it what changed.
            #[derive(serde::Serialize)]
            struct Printed<'a> {
                #[serde(flatten)]
                results: &'a Results,
                #[serde(skip_serializing_if = "Option::is_none")]
                compared: Option<Compared>,
            }
            serde_json::to_string_pretty(&Printed { results, compared })? + "\n"
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
    let mut all = operations::all(
        guests,
        &Rc::new(Clones::new(function, Box::new(KvmPlatform::new()?), 0)?),
        bench,
        null,
    )?;
    all.extend(of_guests.into_iter().map(|operation| Box::new(operation) as Box<dyn Operation>));
    all.sort_by_key(|operation| operation.spec().group);
    Ok(all)
}

/// The operations that were asked for, by group or by name; and, if `compared`, those that they are compared with.
fn choose<'a>(
    all: &'a [Box<dyn Operation>],
    what: &[String],
    compared: bool,
) -> Result<Vec<&'a dyn Operation>, BenchError> {
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
    for _ in all.iter().filter(|_| compared) {
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
fn list(chosen: &[&dyn Operation]) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let mut specs =
            chosen.iter().map(|operation| operation.spec()).filter(|spec| spec.group == *group).peekable();
        if specs.peek().is_some() {
            text += &format!("{}\n", group.name());
        }
        for spec in specs {
            text += &format!("  {:<22}  {}\n", spec.name, spec.what);
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
