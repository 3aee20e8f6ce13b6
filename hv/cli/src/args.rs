//! What can be said on the command line.

mod bench;
mod control;
mod disk;

pub(super) use super::values::{Format, NetKind, PlatformKind};
pub use bench::{BenchArgs, BenchCommand, CompareArgs, PeersArgs, ReportArgs, TableFormat};
pub use control::{ControlArgs, ControlOption, SetArgs, Setting, ShowArgs};
pub use disk::{
    CheckArgs, CommitArgs, CompareDisksArgs, ConvertArgs, CreateArgs, DiskArgs, DiskCommand, ImageArgs,
    ImageFormat, InfoArgs, InternalArgs, MapArgs, NewArgs, Packing, RebaseArgs, RepairKind, ResizeArgs,
};

use super::values::{Memory, Vcpus, parse_memory, parse_stack, parse_variable, parse_vcpus};
use clap::{Args, Parser, Subcommand, ValueEnum};
use hv_core::device::block::DiskSpec;
use hv_core::device::net::Publish;
use hv_core::device::share::ShareSpec;
use hv_core::sched::DEFAULT_WEIGHT;
use hv_host::units;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A paravirtual hypervisor for Rust unikernels.
#[derive(Debug, Parser)]
#[command(
    name = "hv",
    version,
    about,
    after_help = "Exit codes of hv itself: 1 hv doctor: guests cannot run here, 2 refused, 74 standard output could not be written, \
                  101 guest crashed, 124 timeout, 129 hung up, 130 interrupted, 141 output closed, 143 terminated, 159 stopped by its jail. All others are the guest's."
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
    /// Boot a guest until it is ready, and save it to a folder.
    Snapshot(Box<SnapshotArgs>),
    /// Go on with a guest that was saved, in the foreground as `hv run` would.
    Restore(Box<RestoreArgs>),
    /// Change what a running guest gets: virtual CPUs, memory, its share of the processors.
    Set(SetArgs),
    /// Say what a running guest has and uses.
    Show(ShowArgs),
    /// Pause a running guest where it is. It does not notice.
    Pause(ControlArgs),
    /// Let a paused guest run again.
    Resume(ControlArgs),
    /// Ask a guest to end, as SIGTERM does; once more ends it at once.
    Stop(ControlArgs),
    /// Measure what paravirtual operations cost on this host, and what they are compared with.
    Bench(Box<BenchArgs>),
    /// Answer HTTP requests, each in a fresh virtual machine.
    Serve(Box<ServeArgs>),
    /// Make, look at and change disk images.
    Disk(Box<DiskArgs>),
    /// Print which system calls each thread of hv may make, and why.
    Jail(JailArgs),
    /// Say what this host offers to guests, what that means, and the remedy for each lack.
    Doctor(DoctorArgs),
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
  hv run web --share docs,ro --publish 8080:80
  hv run disk --disk data.img,direct --memory 64M --stats
  hv run ./my-guest --net tap=tap0 --pcap out.pcap --timeout 30s
  hv run ./my-guest --vcpus 1..4 --control my.sock      then: hv set my.sock vcpus=4")]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub boot: BootArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub net: NetArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub foreground: ForegroundArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub control: ControlOption,
}

/// Options of `hv snapshot`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv snapshot web -o web.snap --disk docs --net
  hv snapshot fn-hello -o hello.snap --function
  hv snapshot ./my-guest -o my.snap --after 2s --disk data.img

The guest's console is the terminal until it is saved. docs/snapshots.md has the rest.")]
pub struct SnapshotArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub boot: BootArgs,
    /// The folder that the snapshot becomes. It must not exist.
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Save the guest after this time, wherever it is, instead of when it says that it is ready.
    #[arg(long, value_name = "TIME", value_parser = units::time, conflicts_with = "ready_timeout")]
    pub after: Option<Duration>,
    /// How long the guest may take until it says that it is ready.
    #[arg(long, value_name = "TIME", value_parser = units::time, default_value = "30s")]
    pub ready_timeout: Duration,
    /// Give the guest a function device: it will answer requests of `hv serve`.
    #[arg(long)]
    pub function: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub net: NetArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub foreground: ForegroundArgs,
}

/// Options of `hv restore`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv restore web.snap --disk docs --publish 8080:80
  hv restore my.snap --disk data.img --disk-overlay
  hv restore my.snap --disk copy-of-data.img
  hv restore my.snap --trust-record

A snapshot names no file and no network of this host: it says which disks fit, and these are given here.")]
pub struct RestoreArgs {
    /// A folder that `hv snapshot` made.
    pub snapshot: PathBuf,
    /// The guest's disks, all of them and in their order: those that it had, or copies. Repeatable.
    #[arg(
        long = "disk",
        value_name = "FILE[,ro][,direct][,overlay][,sector=N][,format=raw|qcow2][,base=FOLDER]"
    )]
    pub disks: Vec<DiskSpec>,
    /// The guest's shares, all of them and in their order, with the tags that they had. Repeatable.
    #[arg(long = "share", value_name = "FOLDER[=TAG][,ro][,cache=always][,uid=N]")]
    pub shares: Vec<ShareSpec>,
    /// Take the disks from where the snapshot says that they were, read-only: what the guest writes is gone at
    /// its end. Whoever wrote the snapshot then chooses which files of yours its guest reads.
    #[arg(long, conflicts_with = "disks")]
    pub trust_record: bool,
    /// Leave the disks as they are: what the guest writes is gone at its end.
    #[arg(long)]
    pub disk_overlay: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub platform: PlatformArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub net: NetArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub foreground: ForegroundArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub control: ControlOption,
}

/// What a guest is booted from.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// An ELF file, or the bare name of a guest in guest-examples/, which is built first.
    pub image: String,
    /// Arguments of the guest.
    #[arg(last = true)]
    pub arguments: Vec<String>,
    /// Memory of the guest, in bytes or with K, M, G. It costs what the guest uses of it. With MIN..MAX the guest has MAX, of
    /// which MIN is sure: hv refuses to start it if less is available.
    #[arg(long, value_name = "SIZE|MIN..MAX", default_value = "16M", value_parser = parse_memory)]
    pub memory: Memory,
    /// Stack of the guest, a part of its memory. Without this it is what the image asks for: 512K with the SDK.
    #[arg(long, value_name = "SIZE", value_parser = parse_stack)]
    pub stack: Option<u64>,
    /// Virtual CPUs of the guest: 1 to 64. They run at the same time as far as the host has processors. With MIN..MAX the
    /// guest has MAX, and begins with MIN; `hv set` changes how many it should use.
    #[arg(long, value_name = "N|MIN..MAX", default_value = "1", value_parser = parse_vcpus)]
    pub vcpus: Vcpus,
    /// A disk: a raw image, a qcow2 image (*.qcow2), a block device, or a folder (shown as a read-only FAT disk).
    /// Options: ro, direct (past the page cache), overlay (leave the disk as it is: what
    /// the guest writes is gone at its end), sector=512|4096, format=raw|qcow2 (whatever its name and its first
    /// bytes say), base=FOLDER (where its backing files may be, too). Repeatable.
    #[arg(
        long = "disk",
        value_name = "FILE[,ro][,direct][,overlay][,sector=N][,format=raw|qcow2][,base=FOLDER]"
    )]
    pub disks: Vec<DiskSpec>,
    /// A folder of the host that the guest works on as on its own: files that change meanwhile are seen. The guest knows it by its TAG, the folder's
    /// own name without one. Options: ro (nothing can be changed), cache=always (with ro: nothing changes
    /// while the guest runs, so that it may keep what it has found), uid=N (the user that all files appear to belong to). Repeatable.
    #[arg(long = "share", value_name = "FOLDER[=TAG][,ro][,cache=always][,uid=N]")]
    pub shares: Vec<ShareSpec>,
    /// An environment variable of the guest. Repeatable.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_variable)]
    pub variables: Vec<(String, String)>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub platform: PlatformArgs,
}

/// What guests run on.
#[derive(Clone, Copy, Debug, Args)]
pub struct PlatformArgs {
    /// What guests run on.
    #[arg(long, value_enum, env = "HV_PLATFORM", hide_env_values = true, default_value_t = PlatformKind::Auto)]
    pub platform: PlatformKind,
}

/// The network of a guest.
#[derive(Debug, Args)]
pub struct NetArgs {
    /// A network: `user` (needs no rights) or `tap=NAME` (a tap device that exists). On `user` the host's own
    /// loopback interface is closed to the guest; `user,host=allow` opens it, as 10.0.2.2. Write `--net=VALUE`,
    /// or IMAGE before `--net`.
    #[arg(long, value_name = "user[,host=allow]|tap=NAME", num_args = 0..=1, default_missing_value = "user")]
    pub net: Option<NetKind>,
    /// Show a port of the guest on the host; implies `--net user`. Repeatable.
    #[arg(long, value_name = "[HOST_IP:]HOST:GUEST[/udp]")]
    pub publish: Vec<Publish>,
    /// Write every frame of the network to a file that tshark and Wireshark read.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

/// How a guest in the foreground runs and ends.
#[derive(Debug, Args)]
pub struct ForegroundArgs {
    /// Its part of the processors when others want to run as well: 1 to 65535.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WEIGHT)]
    pub weight: u32,
    /// The most that it gets of the processors, in percent of one core; 0 is no cap.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub cap: u32,
    /// Keep pages of its memory that equal pages of other guests with this option, or of other programs that take part, in memory once
    /// (the kernel's KSM; KVM only). Those can find out by timing what is in its memory: only for guests that trust each other.
    #[arg(long)]
    pub share_equal_pages: bool,
    /// End the guest after this time: 500ms, 5s, 2m; a bare number is seconds. Where it is then, and what its tasks wait for, is printed, as at
    /// SIGQUIT (Ctrl-\), which does not end it.
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    pub timeout: Option<Duration>,
    /// Run without the jail around hv: with every system call and all files of its user (to debug hv).
    #[arg(long)]
    pub no_jail: bool,
    /// Print boot phases, exits by kind and what was used when the guest has ended.
    #[arg(long)]
    pub stats: bool,
    /// How statistics, crash reports and where the guest is (SIGQUIT, --timeout) are printed on standard error.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv serve`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true),
    after_help = "Examples:
  hv serve --function /hello=fn-hello
  hv serve --function '/json/*=fn-json' --function /hello=fn-hello --listen 0.0.0.0:8080
  hv serve --config hv.toml --check
  hv serve --function /hello=fn-hello --check --build
  hv serve --config hv.toml --log-format json

SIGTERM lets running requests end, SIGHUP reads the configuration again. docs/serve.md has all keys."
)]
pub struct ServeArgs {
    /// What to serve, and how: a TOML file.
    #[arg(long, value_name = "FILE", group = "what")]
    pub config: Option<PathBuf>,
    /// A function: a path (or all below one, as /x/*), and an image as for `hv run`. Repeatable.
    #[arg(long = "function", value_name = "/PATH=IMAGE", group = "what")]
    pub functions: Vec<String>,
    /// Where to listen (127.0.0.1:8080), instead of what the file says. Repeatable.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group has them")]
    pub platform: PlatformArgs,
    /// Where the access log goes: a file, - for standard output, or off.
    #[arg(long, value_name = "FILE")]
    pub log: Option<String>,
    /// What the lines of the access log look like.
    #[arg(long, value_enum)]
    pub log_format: Option<Format>,
    /// Run without the jail around hv: with every system call and all files of its user (to debug hv).
    #[arg(long)]
    pub no_jail: bool,
    /// Boot and try every function, say whether all would start, and end. Guests that are named are tried as they were built
    /// before: nothing is built.
    #[arg(long)]
    pub check: bool,
    /// With --check: build the guests that are named, as a start would.
    #[arg(long, requires = "check")]
    pub build: bool,
    /// How events are told on standard error, and the result of --check on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Platforms, each with a jail of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JailPlatform {
    /// Virtual machines.
    Kvm,
    /// Processes.
    Process,
}

/// Options of `hv jail`.
#[derive(Debug, Args)]
pub struct JailArgs {
    /// The platform whose jail is printed.
    #[arg(long, value_enum, default_value_t = JailPlatform::Kvm)]
    pub platform: JailPlatform,
    /// How the list is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Options of `hv doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv doctor
  hv doctor --format json | jq '.findings[] | select(.state != \"ok\") | {name, found, remedy}'

ok: as good as it gets; slower: at a price in time; weaker: fewer walls or less room; missing: not at all.
Exit code 0 if guests can run here, 1 if not.")]
pub struct DoctorArgs {
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
