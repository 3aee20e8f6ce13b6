//! `cargo xtask`: the commands that a change needs, over the workspaces of the host, of the guests and of the fuzz targets.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about = "Commands for a change of hv")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Clone, Copy, Subcommand)]
enum Task {
    /// Formats every workspace
    Fmt {
        /// Changes nothing, and fails if something is not formatted
        #[arg(long)]
        check: bool,
    },
    /// Lints every workspace; a warning is an error
    Lint,
    /// Builds the documentation of every workspace; a warning is an error
    Doc,
    /// Checks the protocol of rings under loom
    Loom,
    /// Runs all tests, and lists those that were left out
    Test,
    /// Runs the fuzz targets over their corpus
    Corpus,
    /// Builds the guests
    Guests,
    /// Everything that has to hold before a change lands, but for what .ci/run installs and emulates
    Ci,
}

/// A command that failed, as it would be typed.
struct Failed(String);

type Result = std::result::Result<(), Failed>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs cargo in a folder of the repository.
fn cargo(folder: &str, arguments: &str, variables: &[(&str, &OsStr)]) -> Result {
    let shown =
        format!("cargo {arguments}{}", if folder == "." { String::new() } else { format!(" (in {folder})") });
    println!("   {shown}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root().join(folder)).args(split(arguments)).envs(variables.iter().copied());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failed(format!("{shown}: {status}"))),
        Err(error) => Err(Failed(format!("{shown}: {error}"))),
    }
}

/// The words of a command without quotes.
fn split(arguments: &str) -> impl Iterator<Item = &str> {
    arguments.split(' ')
}

fn run(task: Task) -> Result {
    let deny = OsStr::new("--deny warnings");
    match task {
        Task::Fmt { check } => {
            let check = if check { " --check" } else { "" };
            ["--all", "--all", ""].iter().zip([".", "guest-sdk", "fuzz"]).try_for_each(|(all, folder)| {
                cargo(folder, format!("fmt {all}{check}").replace("  ", " ").trim(), &[])
            })
        }
        Task::Lint => {
            cargo(".", "clippy --workspace --all-targets --quiet -- --deny warnings", &[])?;
            // The program in the process of a guest: for a profile without unwinding.
            let stub = "clippy --package hv-stub --features program --release --bin hv-stub --quiet -- --deny warnings";
            cargo(".", stub, &[])?;
            cargo("guest-sdk", "clippy --workspace --lib --bins --quiet -- --deny warnings", &[])
        }
        Task::Doc => {
            cargo(".", "doc --workspace --no-deps --quiet", &[("RUSTDOCFLAGS", deny)])?;
            cargo("guest-sdk", "doc --workspace --no-deps --lib --quiet", &[("RUSTDOCFLAGS", deny)])
        }
        Task::Loom => {
            let variables =
                [("RUSTFLAGS", OsStr::new("--cfg loom")), ("CARGO_TARGET_DIR", OsStr::new("target/loom"))];
            cargo(".", "test --quiet --release --package hv-abi --test loom", &variables)
        }
        Task::Test => counted(&[TESTS]),
        Task::Corpus => counted(&[CORPUS]),
        Task::Guests => cargo("guest-sdk", "build --workspace --bins --profile guest", &[]),
        Task::Ci => {
            [Task::Fmt { check: true }, Task::Lint, Task::Doc, Task::Loom].into_iter().try_for_each(run)?;
            counted(&[TESTS, CORPUS])
        }
    }
}

const TESTS: &str = "test --workspace";
/// What was found once stays fixed. Looking for more takes longer than a change should wait: .ci/fuzz.
const CORPUS: &str = "test --quiet --manifest-path fuzz/Cargo.toml --target-dir target --no-default-features";

/// Runs tests, and lists those of all of them that were left out.
fn counted(commands: &[&str]) -> Result {
    let skips = root().join("target/skips.txt");
    let _ = fs::remove_file(&skips);
    let mut variables = vec![("HV_SKIPS", skips.as_os_str())];
    // Where there is KVM, nothing is left out but what tests/skip/src/lib.rs allows.
    if fs::OpenOptions::new().write(true).open("/dev/kvm").is_ok() {
        variables.push(("HV_REQUIRE", OsStr::new("1")));
    }
    commands.iter().try_for_each(|command| cargo(".", command, &variables))?;
    let text = fs::read_to_string(&skips).unwrap_or_default();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    println!("left out, wholly or in part: {}", lines.len());
    lines.iter().for_each(|line| println!("  {line}"));
    Ok(())
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(what)) => {
            eprintln!("cargo xtask: {what}");
            ExitCode::FAILURE
        }
    }
}
