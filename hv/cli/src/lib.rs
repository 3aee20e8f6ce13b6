//! The command line: arguments in, exit code out.
#![deny(unsafe_code)]

mod args;
mod bench;
mod colour;
mod control;
mod disk;
mod doctor;
mod guests;
mod jail;
mod name_servers;
mod platform;
mod restore;
mod run;
mod sampler;
mod serve;
mod signals;
mod snapshot;
mod stats;
mod values;
mod warnings;

pub use args::{
    BenchArgs, BenchCommand, BootArgs, CheckArgs, Cli, Command, CommitArgs, CompareArgs, CompareDisksArgs,
    ControlArgs, ControlOption, ConvertArgs, CreateArgs, DiskArgs, DiskCommand, DoctorArgs, ForegroundArgs,
    ImageArgs, ImageFormat, InfoArgs, InternalArgs, JailArgs, MapArgs, NetArgs, NewArgs, Packing, PeersArgs,
    RebaseArgs, RepairKind, ReportArgs, ResizeArgs, RestoreArgs, RunArgs, ServeArgs, SetArgs, Setting,
    ShowArgs, SnapshotArgs, TableFormat,
};

use clap::error::ContextValue;
use clap::{Arg, ArgAction, Args, ColorChoice, CommandFactory, FromArgMatches};
use hv_host::escape::escape;
use hv_host::limits;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// Exit codes of `hv` beyond the guest's own; the README has the same table.
pub mod exit {
    /// `hv doctor`: guests cannot run on this host.
    pub const NO_GUESTS: u8 = 1;
    /// hv refused to start: bad arguments, image, disk, network or host.
    pub const REFUSED: u8 = 2;
    /// Standard output could not be written: a full disk, a limit; a line on standard error says which. The
    /// number is that of sysexits.h.
    pub const OUTPUT_FAILED: u8 = 74;
    /// The guest crashed; the report is on standard error.
    pub const CRASHED: u8 = 101;
    /// `--timeout` ended the guest, as timeout(1) says it.
    pub const TIMEOUT: u8 = 124;
    /// SIGHUP ended the guest.
    pub const HUNG_UP: u8 = 129;
    /// Ctrl-C ended the guest.
    pub const INTERRUPTED: u8 = 130;
    /// The reader of standard output went away, as a shell reports SIGPIPE.
    pub const OUTPUT_CLOSED: u8 = 141;
    /// SIGTERM ended the guest.
    pub const TERMINATED: u8 = 143;
    /// A thread of hv tried a system call that its jail forbids; see [`hv_jail`].
    pub const JAILED: u8 = hv_jail::EXIT;
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // As early as can be: the frequency of the counter is taken from two readings, and the start is between them.
    hv_host::clock::begin();
    // Processes of hv's own, which it starts beside itself.
    let work = match std::env::args_os().next() {
        Some(name) if name == name_servers::NAME => Some(name_servers::work()),
        Some(name) if name == control::REMOVER => Some(control::remove_at_the_end()),
        _ => None,
    };
    if let Some(done) = work {
        return done.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let cli = match parse_run(std::env::args_os()) {
        Some(cli) => cli,
        None => parse(std::env::args_os()).unwrap_or_else(|error| misused(error)),
    };
    warnings::log(cli.verbose);
    // Asked here: in its jail, hv asks nothing of a terminal.
    let colour = colour::on(&std::io::stderr());
    if let Err(error) = signals::survive_file_limits() {
        return refuse(error.into(), colour);
    }
    let result = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Snapshot(args) => snapshot::run(*args),
        Command::Restore(args) => restore::run(*args),
        Command::Set(args) => control::set(&args),
        Command::Show(args) => control::show(&args),
        Command::Pause(args) => control::order(&args, control::Request::Pause {}),
        Command::Resume(args) => control::order(&args, control::Request::Resume {}),
        Command::Stop(args) => control::order(&args, control::Request::Stop {}),
        Command::Bench(args) => bench::run(&args),
        Command::Serve(args) => serve::run(*args),
        Command::Disk(args) => disk::run(*args),
        Command::Jail(args) => jail::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hv", &mut script);
            std::io::stdout().write_all(&script).map(|()| 0).map_err(Into::into)
        }
    };
    result.map_or_else(|error| refuse(error, colour), ExitCode::from)
}

/// The arguments of `hv run`, if that is what they are and nothing is wrong with them. The tables of all other commands take longer to make
/// than a guest takes to start.
fn parse_run(mut arguments: impl Iterator<Item = OsString>) -> Option<Cli> {
    arguments.next()?;
    if arguments.next()? != "run" {
        return None;
    }
    let verbose = Arg::new("verbose").short('v').long("verbose").action(ArgAction::Count);
    let command = RunArgs::augment_args(clap::Command::new("run").no_binary_name(true)).arg(verbose);
    let matches = command.try_get_matches_from(arguments).ok()?;
    let args = RunArgs::from_arg_matches(&matches).ok()?;
    Some(Cli { verbose: matches.get_count("verbose"), command: Command::Run(Box::new(args)) })
}

/// The parsed arguments; messages about them are in colour only if the user wants that.
fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let colour = if colour::is_wanted() { ColorChoice::Auto } else { ColorChoice::Never };
    Cli::from_arg_matches(&Cli::command().color(colour).try_get_matches_from(arguments)?)
}

/// Lets clap explain what is wrong, or print its help, and exits as it wants to: with 2 for what is wrong.
///
/// Its messages repeat arguments as they are. So it is asked again about the same arguments [escaped](escape): what is
/// wrong with them is the same.
fn misused(error: clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let arguments = std::env::args_os().map(|argument| escape(&argument).to_string().into());
    let mut error = parse(arguments).err().unwrap_or(error);
    // Values of environment variables are no arguments.
    let values: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(escape(text).to_string()))),
            _ => None,
        })
        .collect();
    for (kind, value) in values {
        error.insert(kind, value);
    }
    error.exit()
}

/// Prints the error in one line.
fn refuse(error: Box<dyn std::error::Error>, colour: bool) -> ExitCode {
    let label = if colour { "\x1b[1;31merror\x1b[0m" } else { "error" };
    // Standard error may be closed: an error of the write is ignored.
    // An error of a library may name something from outside, too.
    let _ = writeln!(std::io::stderr(), "hv: {label}: {}", escape(&limits::explain(&*error)));
    ExitCode::from(exit::REFUSED)
}

/// Writes lines of the log, one in each call, and escapes their control characters.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let (text, end) = match line.strip_suffix(b"\n") {
            Some(text) => (text, "\n"),
            None => (line, ""),
        };
        write!(self.0, "{}{end}", escape(OsStr::from_bytes(text)))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> impl Iterator<Item = OsString> + '_ {
        line.split(' ').map(OsString::from)
    }

    #[test]
    fn the_short_way_to_run_understands_what_the_long_one_does() {
        for line in [
            "hv run hello",
            "hv run -v hello -- Ada --help -v",
            "hv run --memory 16M..1G -vv --vcpus 1..4 --disk a,ro --disk b --platform=process hello",
            "hv run web --disk docs --publish 8080:80 --stats --format json --env A=1 --env B=x=y",
            "hv run hello --verbose --timeout 5s --cap 50 --no-jail",
        ] {
            let (short, long) = (parse_run(words(line)), parse(words(line)));
            assert_eq!(format!("{:?}", short.expect(line)), format!("{:?}", long.expect(line)));
        }
    }

    #[test]
    fn what_it_does_not_understand_is_left_to_the_long_one() {
        for line in [
            "hv",
            "hv -v run hello",
            "hv serve",
            "hv run",
            "hv run --help",
            "hv run -h",
            "hv run --version",
            "hv run hello --memory none",
            "hv run hello --unknown",
        ] {
            assert!(parse_run(words(line)).is_none(), "{line}");
        }
    }
}
