//! The command line: arguments in, exit code out.

mod args;
mod bench;
mod doctor;
mod guests;
mod jail;
mod platform;
mod restore;
mod run;
mod serve;
mod signals;
mod snapshot;
mod stats;

pub use args::{
    BenchArgs, BootArgs, Cli, Command, DoctorArgs, ForegroundArgs, JailArgs, NetArgs, RestoreArgs, RunArgs,
    ServeArgs, SnapshotArgs,
};

use clap::{CommandFactory, Parser};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Exit codes of `hv` beyond the guest's own; the README has the same table.
pub mod exit {
    /// `hv doctor`: guests cannot run on this host.
    pub const NO_GUESTS: u8 = 1;
    /// hv refused to start: bad arguments, image, disk, network or host.
    pub const REFUSED: u8 = 2;
    /// The guest crashed; the report is on standard error.
    pub const CRASHED: u8 = 101;
    /// `--timeout` ended the guest, as timeout(1) says it.
    pub const TIMEOUT: u8 = 124;
    /// Ctrl-C ended the guest.
    pub const INTERRUPTED: u8 = 130;
    /// The reader of standard output went away, as a shell reports SIGPIPE.
    pub const OUTPUT_CLOSED: u8 = 141;
    /// SIGTERM ended the guest.
    pub const TERMINATED: u8 = 143;
    /// A thread of hv tried a system call that its jail forbids; see [`hv::jail`](crate::jail).
    pub const JAILED: u8 = crate::jail::EXIT;
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Clap explains what is wrong, and exits with code 2.
    let cli = Cli::parse();
    log(cli.verbose);
    let result = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Snapshot(args) => snapshot::run(*args),
        Command::Restore(args) => restore::run(*args),
        Command::Bench(args) => bench::run(args),
        Command::Serve(args) => serve::run(*args),
        Command::Jail(args) => jail::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hv", &mut std::io::stdout());
            Ok(0)
        }
    };
    result.map_or_else(refuse, ExitCode::from)
}

/// Says in one line why hv does not do it.
fn refuse(error: Box<dyn std::error::Error>) -> ExitCode {
    let label = if std::io::stderr().is_terminal() { "\x1b[1;31merror\x1b[0m" } else { "error" };
    // If nobody reads standard error any more, there is nobody to tell.
    let _ = match limit_reached(&*error) {
        Some(remedy) => writeln!(std::io::stderr(), "hv: {label}: {error}; {remedy}"),
        None => writeln!(std::io::stderr(), "hv: {label}: {error}"),
    };
    ExitCode::from(exit::REFUSED)
}

/// The remedy for an error that comes from a limit of this process, wherever in hv that was
/// reached; unless the error names it itself.
fn limit_reached(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let errors = std::iter::successors(Some(error), |error| error.source());
    let mut numbers = errors.filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error());
    let remedy = numbers.find_map(|number| match number {
        libc::EMFILE | libc::ENFILE => Some("raise the limit of open files (ulimit -n)"),
        libc::EAGAIN => Some("raise the limit of processes (ulimit -u), or that of the container (pids.max)"),
        _ => None,
    })?;
    (!error.to_string().contains("ulimit")).then_some(remedy)
}

/// Sends hv's own log to standard error: warnings, and with `-v` and `-vv` more.
fn log(verbose: u8) {
    use tracing::Level;
    let level = match verbose {
        0 => Level::WARN,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_from_a_limit_has_a_remedy() {
        let from = |number| io::Error::from_raw_os_error(number);
        assert!(limit_reached(&from(libc::EMFILE)).is_some_and(|remedy| remedy.contains("ulimit -n")));
        assert!(limit_reached(&from(libc::EAGAIN)).is_some_and(|remedy| remedy.contains("ulimit -u")));
        assert_eq!(limit_reached(&from(libc::EIO)), None);
        let inner = crate::platform::PlatformError::Kvm { what: "a call", source: from(libc::EMFILE) };
        assert!(limit_reached(&inner).is_some());
        let named = io::Error::other("too many (ulimit -n)");
        assert_eq!(limit_reached(&named), None);
    }
}
