//! Options of `hv bench`.

use super::{Format, PlatformKind};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

/// Options of `hv bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Besides",
    disable_help_subcommand = true,
    after_help = "Examples:
  hv bench                                  everything, some minutes
  hv bench exits --quick                    one group, some seconds
  hv bench clock-page hypercall             two operations, and what they are compared with
  hv bench --list block                     the operations of a group, and what each measures
  hv bench all --format json > old.json
  hv bench all --compare old.json --report bench.html
  hv bench compare old.json new.json        what changed
  hv bench density --guests 2000            what the 2000th guest costs

Exit code 2 if it is refused. docs/measuring.md says how it is measured, and what the figures mean."
)]
pub struct BenchArgs {
    /// Results that are there.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Groups (exits, console, block, files, net, time, events, memory, smp, boot, clone, process), names of operations, `all`, or
    /// `density`: start, answers and memory of guests up to --guests.
    pub what: Vec<String>,
    /// Measure less: everything within a minute and a half.
    #[arg(long)]
    pub quick: bool,
    /// Exactly so many rounds of each operation (else 20 to 40, with --quick 7 to 20, as the intervals need).
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Repeat the order of another run, and its intervals: its result says the number.
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Confine hv and its guests to these processors (0,2-3). The result says which.
    #[arg(long, value_name = "LIST")]
    pub pin: Option<String>,
    /// Say what changed since a result that `--format json` wrote, by the rules of `hv bench compare`.
    #[arg(long, value_name = "OLD.json", value_hint = ValueHint::FilePath)]
    pub compare: Option<PathBuf>,
    /// Write a page with plots: one file that needs nothing else.
    #[arg(long, value_name = "FILE.html", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Name the operations, or those of WHAT, and what each measures, and measure nothing.
    #[arg(long)]
    pub list: bool,
    /// A folder with the guests that are measured (`bench`, `bench-null`, `fn-hello`), which are built otherwise.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub images: Option<PathBuf>,
    /// Guests of `hv bench density`.
    #[arg(long, value_name = "N")]
    pub guests: Option<u32>,
    /// Have `hv bench density` touch the host's free memory first: where the host is a virtual machine itself, the
    /// first touch takes the time of the one below. What it says of memory is rough then.
    #[arg(long)]
    pub touch_memory: bool,
    /// What the guests of `hv bench density` run on (kvm).
    #[arg(long, value_enum)]
    pub platform: Option<PlatformKind>,
    /// How the result is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What is done with results that are there.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Put results beside each other, and say what changed since the first.
    Compare(CompareArgs),
    /// Write a result as a page with plots.
    Report(ReportArgs),
    /// Start other systems that are installed beside hv, each with a program that says hello.
    Peers(PeersArgs),
}

/// Options of `hv bench peers`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv bench peers
  hv bench peers --peer runsc=/opt/gvisor/runsc --rounds 40 --format json

Peers: crun, runc, runsc, qemu-microvm. Each is measured if it is installed, in turn with hv and with a program of the host; one that is missing
or fails is named, and the others go on. docs/measuring.md says what to read from it.")]
pub struct PeersArgs {
    /// The program of a peer that the PATH does not have, or has another one of. Repeatable.
    #[arg(long = "peer", value_name = "NAME=FILE", value_parser = peer)]
    pub peers: Vec<(String, PathBuf)>,
    /// A folder with the guest that says hello (`hello`), which is built otherwise.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub images: Option<PathBuf>,
    /// Rounds; in each, every peer is started once.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Repeat the order of another run.
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// How the result is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `NAME=FILE` of a known peer.
fn peer(text: &str) -> Result<(String, PathBuf), String> {
    const KNOWN: [&str; 4] = ["crun", "runc", "runsc", "qemu-microvm"];
    match text.split_once('=') {
        Some((name, file)) if KNOWN.contains(&name) && !file.is_empty() => Ok((name.into(), file.into())),
        _ => Err(format!("write NAME=FILE, where NAME is one of {}", KNOWN.join(", "))),
    }
}

/// How a comparison is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs: one object.
    Json,
    /// For spreadsheets: a line for each figure.
    Csv,
    /// For documents.
    Markdown,
}

/// Options of `hv bench compare`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv bench compare old.json new.json
  hv bench compare monday.json tuesday.json wednesday.json --format markdown
  hv bench compare new.json --format csv        one result as a table
  hv bench compare old.json new.json --check || echo slower

What is compared are ratios of operations to their partners in the same run: `faster` and `slower` need a change of 5 % and a 95 %
interval without 1. Times by themselves are shown, and not compared.
Exit code 0; 1 with --check if an operation is slower; 2 if the files are no results, or were measured in different ways.")]
pub struct CompareArgs {
    /// Results that `hv bench --format json` wrote; the first is what the others are compared with.
    #[arg(required = true, value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// End with exit code 1 if an operation is slower than in the first file.
    #[arg(long)]
    pub check: bool,
    /// Show results beside each other that were measured in different ways (--quick, without optimisation); nothing is compared then.
    #[arg(long)]
    pub anyway: bool,
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub format: TableFormat,
}

/// Options of `hv bench report`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv bench report new.json -o bench.html
  hv bench report new.json --compare old.json -o bench.html")]
pub struct ReportArgs {
    /// A result that `hv bench --format json` wrote.
    #[arg(value_name = "FILE.json", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Show what changed since this one.
    #[arg(long, value_name = "OLD.json", value_hint = ValueHint::FilePath)]
    pub compare: Option<PathBuf>,
    /// The page: one file that needs nothing else.
    #[arg(short, long, value_name = "FILE.html", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
}
