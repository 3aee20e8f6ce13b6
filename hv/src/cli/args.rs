//! What can be said on the command line.

use crate::device::block::DiskSpec;
use crate::device::net::Publish;
use crate::sched::DEFAULT_WEIGHT;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A paravirtual hypervisor for Rust unikernels.
#[derive(Debug, Parser)]
#[command(
    name = "hv",
    version,
    about,
    after_help = "Exit codes of hv itself: 2 refused, 101 guest crashed, 124 timeout, 130 interrupted, \
                  141 output closed, 143 terminated. All others are the guest's."
)]
pub struct Cli {
    /// Say more on standard error (twice: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What hv can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest in the foreground: its console is the terminal, its exit code hv's.
    Run(Box<RunArgs>),
    /// Measure what paravirtual operations cost on this host, and what they are compared with.
    Bench(BenchArgs),
    /// Print a completion script, for example: hv completions bash > /etc/bash_completion.d/hv
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Options of `hv run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv run hello -- Ada
  hv run web --disk docs --publish 8080:80
  hv run disk --disk data.img,direct --memory 64M --stats
  hv run ./my-guest --net tap=tap0 --pcap out.pcap --timeout 30s")]
pub struct RunArgs {
    /// An ELF file, or the bare name of a guest in guest-examples/, which is built first.
    pub image: String,
    /// Arguments of the guest.
    #[arg(last = true)]
    pub arguments: Vec<String>,
    /// Memory of the guest, in bytes or with K, M, G.
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_size)]
    pub memory: u64,
    /// Virtual CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub vcpus: u32,
    /// Its part of the processors when others want to run as well: 1 to 65535.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WEIGHT)]
    pub weight: u32,
    /// The most that it gets of the processors, in percent of one core; 0 is no cap.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub cap: u32,
    /// A disk: a raw image, a block device, or a folder (shown as a read-only FAT disk).
    /// Options: ro, direct (past the page cache), sector=512|4096. Repeatable.
    #[arg(long = "disk", value_name = "FILE[,ro][,direct][,sector=N]")]
    pub disks: Vec<DiskSpec>,
    /// A network: `user` (needs no rights) or `tap=NAME` (a tap device that exists).
    #[arg(long, value_name = "user|tap=NAME", num_args = 0..=1, default_missing_value = "user")]
    pub net: Option<NetKind>,
    /// Show a port of the guest on the host; implies `--net user`. Repeatable.
    #[arg(long, value_name = "[HOST_IP:]HOST:GUEST[/udp]")]
    pub publish: Vec<Publish>,
    /// Write every frame of the network to a file that tshark and Wireshark read.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// An environment variable of the guest. Repeatable.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub variables: Vec<(String, String)>,
    /// What runs the guest.
    #[arg(long, value_enum, default_value_t = PlatformKind::Auto)]
    pub platform: PlatformKind,
    /// End the guest after this time: 500ms, 5s, 2m; a bare number is seconds.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Print boot phases and exits by kind when the guest has ended.
    #[arg(long)]
    pub stats: bool,
    /// How statistics and crash reports are printed on standard error.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv bench`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv bench                                  everything, some minutes
  hv bench exits --quick                    one group, some seconds
  hv bench clock-page hypercall             two operations, and what they are compared with
  hv bench all --format json > old.json
  hv bench all --compare old.json --report bench.html")]
pub struct BenchArgs {
    /// Groups (exits, console, block, net, time, events, boot), names of operations, or `all`.
    pub what: Vec<String>,
    /// Measure less: everything within a minute.
    #[arg(long)]
    pub quick: bool,
    /// Rounds of each operation (15; with --quick 7).
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Say what changed since a result that `--format json` wrote, and whether the spread covers it.
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,
    /// Write a page with plots: one file that needs nothing else.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Name the operations and what each measures, and measure nothing.
    #[arg(long)]
    pub list: bool,
    /// A folder with the bench guests (`bench`, `bench-null`), which are built otherwise.
    #[arg(long, value_name = "FOLDER")]
    pub guests: Option<PathBuf>,
    /// How the result is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// What runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlatformKind {
    /// The best that this host has.
    Auto,
    /// KVM.
    Kvm,
    /// A sandboxed process (not in this version).
    Process,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object.
    Json,
}

/// A kind of network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetKind {
    /// The user-mode network.
    User,
    /// A tap device of this name.
    Tap(String),
    /// A switch between guests (not in this version).
    Switch(String),
}

impl FromStr for NetKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once('=') {
            None if s == "user" => Ok(NetKind::User),
            Some(("tap", name)) if !name.is_empty() => Ok(NetKind::Tap(name.into())),
            Some(("switch", name)) => Ok(NetKind::Switch(name.into())),
            _ => Err("use `user` or `tap=NAME`".into()),
        }
    }
}

/// Bytes from a number with an optional K, M or G.
fn parse_size(s: &str) -> Result<u64, String> {
    let (digits, unit) = match s.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => s.split_at(at),
        None => (s, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return Err(format!("`{unit}` is no unit; use K, M or G, as in 64M")),
    };
    let number: u64 =
        digits.parse().map_err(|_| "use a number such as 65536, 512K, 64M or 1G".to_string())?;
    let bytes = number.checked_mul(1 << shift).ok_or("that is more than 2^64 bytes")?;
    if bytes == 0 || !bytes.is_multiple_of(hv_abi::PAGE_SIZE) || bytes > crate::domain::MAX_MEMORY {
        return Err("use a multiple of 4096 bytes up to 64G".into());
    }
    Ok(bytes)
}

/// A time such as `500ms`, `5s`, `2m`, `1h`, or a number of seconds.
fn parse_duration(s: &str) -> Result<Duration, String> {
    let help = || "use a time such as 500ms, 5s, 2m or 1h".to_string();
    let at = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, unit) = s.split_at(at);
    let number: f64 = number.parse().map_err(|_| help())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(help()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| help())
}

fn parse_variable(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("use KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        for bad in
            ["", "M", "1.5M", "12X", "100", "0", "65G", "99999999999999999999", "18446744073709551615G", "-1"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "5x", "-1s", "1e999", "..s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
