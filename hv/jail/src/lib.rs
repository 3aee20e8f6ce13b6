//! The jail around a process of hv: what it can still do if a guest takes it over.
//!
//! Layers, each of which holds without the others:
//!
//! - a **seccomp filter per kind of thread** ([`Kind`]): the system calls that it makes, with the
//!   arguments that it makes them with, and no others ([`rows`]). At any other call, hv says
//!   which thread tried which, and ends with exit code [`EXIT`], or refuses the call alone ([`Kind::is_apart`]);
//! - **Landlock**: of the file system only the [`Place`]s that are opened later;
//! - **no new privileges**: programs with the set-user-ID bit or capabilities give none;
//! - **not dumpable**: no core file, and no other process of the same user can look inside;
//! - **limits**: no core file, no more descriptors than the soft limit.
//!
//! The `hv` command jails itself. A program that uses hv as a library is not jailed by itself; it can call
//! [`jail`] before it makes an `Engine`, and [`enter`] on its own threads, such as the one that waits for a
//! guest. All threads that hv makes afterwards get the filter of their kind.
//!
//! ```no_run
//! use hv_jail::{Kind, Plan, Platform};
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! for missing in hv_jail::jail(Plan { main: Kind::Run, platform: Platform::Kvm, late: true, shares: false, places: vec![] })? {
//!     eprintln!("{missing}");
//! }
//! // Make an engine, start a guest; then, on the thread that waits for it:
//! hv_jail::enter(Kind::Run);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]
#![deny(clippy::missing_errors_doc)]

mod calls;
mod filter;
mod maker;
mod places;
mod row;
mod trap;

pub use places::{Place, PlaceError, Use};
pub use row::{Check, Row};

use hv_host::prompt::{be_background, be_prompt};
use maker::ThreadMaker;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use std::io;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

/// Exit code of a process that tried a forbidden system call: 128 and the number of SIGSYS, as a shell would report it.
pub const EXIT: u8 = 159;

/// Exit code where the kernel refuses a filter at the last moment: as for every refusal.
const REFUSED: i32 = 2;

/// A kind of thread, by what it has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The main thread of `hv run` and `hv restore`, which runs the guest.
    Run,
    /// The main thread of `hv snapshot`, which runs the guest and saves it.
    Snapshot,
    /// The main thread of `hv serve`, which speaks HTTP.
    Serve,
    /// A worker, which runs guests.
    Cpu,
    /// The thread that writes the crash reports of guests that workers run.
    Report,
    /// The I/O thread.
    Io,
    /// A thread that makes blocking calls for a disk.
    Disk,
    /// A thread that works on the files of a share.
    Share,
    /// The thread that ends time slices.
    Tick,
    /// The thread that makes and closes a function's machines.
    PoolManager,
    /// A thread that boots functions and closes them, at the start and when the configuration has changed.
    Deploy,
    /// The thread that writes the access log.
    Log,
    /// The thread that reaches services for guests: it speaks with what is elsewhere.
    Services,
    /// A thread that works on the files of stores and blobs.
    Files,
    /// The thread that makes threads for those that have a filter already.
    Maker,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 15] = [
        Kind::Run,
        Kind::Snapshot,
        Kind::Serve,
        Kind::Cpu,
        Kind::Report,
        Kind::Io,
        Kind::Disk,
        Kind::Share,
        Kind::Tick,
        Kind::PoolManager,
        Kind::Deploy,
        Kind::Log,
        Kind::Services,
        Kind::Files,
        Kind::Maker,
    ];

    /// Its name in messages and lists.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Run => "run",
            Kind::Snapshot => "snapshot",
            Kind::Serve => "serve",
            Kind::Cpu => "cpu",
            Kind::Report => "report",
            Kind::Io => "io",
            Kind::Disk => "disk",
            Kind::Share => "share",
            Kind::Tick => "tick",
            Kind::PoolManager => "pool",
            Kind::Deploy => "deploy",
            Kind::Log => "log",
            Kind::Services => "services",
            Kind::Files => "files",
            Kind::Maker => "maker",
        }
    }

    /// What it is, in a few words.
    pub const fn about(self) -> &'static str {
        match self {
            Kind::Run => "main thread of hv run and hv restore, which runs the guest",
            Kind::Snapshot => "main thread of hv snapshot, which runs the guest and saves it",
            Kind::Serve => "main thread of hv serve, which speaks HTTP",
            Kind::Cpu => "workers of hv serve, which run guests",
            Kind::Report => "writes crash reports: reads debug information of images",
            Kind::Io => "I/O thread: back ends of devices",
            Kind::Disk => "threads of disks without io_uring",
            Kind::Share => "work on the files of shares",
            Kind::Tick => "thread that ends time slices",
            Kind::PoolManager => "makes and closes the machines of a function",
            Kind::Deploy => "boots functions, and closes those that are gone",
            Kind::Log => "writes the access log",
            Kind::Services => {
                "reaches services for guests: Redis, S3, TCP, UDP, names; and a collector of telemetry"
            }
            Kind::Files => "work on the files of stores and blobs, and of the admin API",
            Kind::Maker => "makes threads, and may do what these may: a filter is inherited",
        }
    }

    /// Whether threads of this kind serve no guest: they run none, and hold nothing that follows a guest's
    /// orders. A forbidden call of theirs fails with EPERM, and with it what they are doing; all else goes on.
    /// Any other kind may have been taken over by a guest, so hv ends.
    pub const fn is_apart(self) -> bool {
        matches!(self, Kind::PoolManager | Kind::Deploy | Kind::Log)
    }

    /// Kinds of threads that are made later than their process's own filter, which has this main thread.
    const fn late(self) -> &'static [Kind] {
        match self {
            Kind::Serve => {
                &[Kind::Disk, Kind::Tick, Kind::PoolManager, Kind::Deploy, Kind::Services, Kind::Files]
            }
            _ => &[Kind::Disk, Kind::Share, Kind::Tick],
        }
    }
}

/// What runs guests, as far as it matters to the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// KVM.
    Kvm,
    /// A process for each guest.
    Process,
}

/// What a process is jailed for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What its main thread will be; says which other threads there will be.
    pub main: Kind,
    /// What runs its guests.
    pub platform: Platform,
    /// Whether threads with a filter will make others: for a disk, for a cap, for functions. Then
    /// one more thread is started, which makes them; otherwise such a thread is an error.
    pub late: bool,
    /// Whether guests will have shares. Then threads that run guests or drive devices may look up paths, which Landlock bounds to the places as
    /// everywhere; what a share has in the host's memory is answered there. Otherwise other threads do all of that.
    pub shares: bool,
    /// What it will open later. What is open already needs no place.
    pub places: Vec<Place>,
}

/// A layer that this host does not have. Says what still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// No seccomp filters.
    #[error(
        "jail: this host lets hv set no seccomp filter (a kernel without it, or a container that forbids it): \
         hv can make any system call; Landlock, no new privileges and limits still hold"
    )]
    Seccomp,
    /// No Landlock.
    #[error(
        "jail: this host has no Landlock (Linux 5.13 or later with lsm=landlock, or a container that forbids it): \
         `hv serve` and `hv snapshot` can open any file that their user may; seccomp, no new privileges and limits still hold"
    )]
    Landlock,
}

/// Why a process is not jailed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JailError {
    /// It is jailed already.
    #[error("jail: this process has one already")]
    Twice,
    /// Neither seccomp nor Landlock.
    #[error(
        "jail: this host has neither seccomp filters nor Landlock, so there is nothing to make a jail of; \
         --no-jail runs without"
    )]
    Nothing,
    /// A layer that every host has.
    #[error("jail: {what}: {error}; --no-jail runs without")]
    Refused {
        /// Which.
        what: &'static str,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Landlock.
    #[error("jail: {0}; --no-jail runs without")]
    Place(#[from] PlaceError),
}

/// The jail of this process.
struct Jail {
    platform: Platform,
    shares: bool,
    /// Whether this host has seccomp filters.
    filters: bool,
    maker: Option<ThreadMaker>,
}

static JAIL: OnceLock<Jail> = OnceLock::new();

/// Jails this process: everything but the filters of threads that are there already, which [`enter`] puts on.
///
/// To be called before other threads are made: Landlock is for the calling thread and those that it makes.
/// The handler of SIGSYS is hv's from now on. Returns the layers that this host does not have.
///
/// # Errors
///
/// If the process is jailed already, if the host has neither seccomp filters nor Landlock, if it refuses one of the other layers,
/// or if a place of the plan cannot be opened. What was put on by then stays on.
pub fn jail(plan: Plan) -> Result<Vec<Missing>, JailError> {
    if JAIL.get().is_some() {
        return Err(JailError::Twice);
    }
    let refused = |what| move |error: rustix::io::Errno| JailError::Refused { what, error: error.into() };
    // Its entries belong to root once the process is not dumpable.
    hv_host::pagemap::pagemap();
    rustix::thread::set_no_new_privs(true).map_err(refused("no new privileges"))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("not dumpable"))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(refused("the limit of core files"))?;
    let open = rustix::process::getrlimit(Resource::Nofile).current;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: open, maximum: open })
        .map_err(refused("the limit of descriptors"))?;
    // On the process platform, the process of a guest is signalled, which is not restricted like this one.
    let landlock = places::restrict(&plan.places, plan.platform == Platform::Kvm)?;
    let filters = filter::available();
    if !landlock && !filters {
        return Err(JailError::Nothing);
    }
    trap::settle_arenas();
    settle_panics();
    trap::install().map_err(|error| JailError::Refused { what: "the handler of SIGSYS", error })?;
    let maker = plan.late.then(|| ThreadMaker::start(plan.platform, plan.shares, plan.main.late(), filters));
    let maker = maker
        .transpose()
        .map_err(|error| JailError::Refused { what: "the thread that makes threads", error })?;
    if JAIL.set(Jail { platform: plan.platform, shares: plan.shares, filters, maker }).is_err() {
        return Err(JailError::Twice);
    }
    let missing = [(landlock, Missing::Landlock), (filters, Missing::Seccomp)];
    Ok(missing.into_iter().filter(|(there, _)| !there).map(|(_, missing)| missing).collect())
}

/// Sets a panic hook without a backtrace, for which files would have to be read.
fn settle_panics() {
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|style| style == "0") {
        // The standard library's hook then prints message and location only.
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        eprintln!(
            "thread '{}' {panic}; in its jail, hv prints no backtrace",
            thread.name().unwrap_or("<unnamed>")
        );
    }));
}

/// Confines the calling thread to what its kind needs, for good; does nothing in a process that is not jailed.
///
/// Ends the process, with a line on standard error, if the kernel refuses: the thread must not go on as if it were confined.
pub fn enter(kind: Kind) {
    if let Some(jail) = JAIL.get().filter(|jail| jail.filters) {
        confine(kind, || filter::program(kind, jail.platform, jail.shares, &[]));
    }
}

fn confine(kind: Kind, program: impl FnOnce() -> seccompiler::BpfProgram) {
    trap::is(kind);
    if let Err(error) = filter::put_on(&program()) {
        eprintln!(
            "hv: error: jail: the kernel refuses the filter of a thread of kind `{}`: {error}; --no-jail runs without",
            kind.name()
        );
        std::process::exit(REFUSED);
    }
}

/// Starts a thread that is confined to what its kind needs, if this process is jailed.
///
/// # Errors
///
/// If the host makes no further thread; [`io::ErrorKind::Unsupported`] from a thread with a filter, if the [plan](Plan) is for no threads that come late.
pub fn spawn(
    kind: Kind,
    name: impl Into<String>,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let body = move || {
        // Before there is a filter: it need not allow this.
        match kind {
            Kind::Io => be_prompt(),
            Kind::Report => be_background(),
            _ => {}
        }
        enter(kind);
        body();
    };
    match JAIL.get() {
        // A thread with a filter cannot make threads.
        Some(jail) if trap::kind().is_some() => {
            let maker = jail.maker.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            maker.make(name.into(), Box::new(body))
        }
        _ => Builder::new().name(name.into()).spawn(body),
    }
}

/// Whether this process is jailed.
pub fn is_on() -> bool {
    JAIL.get().is_some()
}

/// Whether threads that run guests or drive devices may look up paths for shares: there is no jail, or one that was made [so](Plan::shares).
pub fn looks_up_paths() -> bool {
    JAIL.get().is_none_or(|jail| jail.shares)
}

/// What every kind of thread may do on a platform, in this build of hv.
pub fn common_rows(platform: Platform) -> impl Iterator<Item = &'static Row> {
    calls::all(platform)
}

/// What a kind of thread may do on a platform beyond [`common_rows`], in this build of hv.
pub fn rows(kind: Kind, platform: Platform) -> impl Iterator<Item = &'static Row> {
    calls::own(kind, platform)
}
