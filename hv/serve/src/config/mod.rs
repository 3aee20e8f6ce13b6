//! The configuration: `hv.toml` or arguments in, validated values out.
//!
//! Pure but for reading the file and looking whether images are there.
#![forbid(unsafe_code)]

mod api;
mod bindings;
mod error;
mod file;
mod function;
mod scale;
mod services;
mod services_tls;
mod source;
mod telemetry;
mod tenant;
mod tls;
mod together;
mod validate;

pub use api::{ApiConfig, ApiTls};
pub use error::{ConfigError, Location, Overlap, Problem};
pub(crate) use scale::check_scale;
pub use telemetry::{Endpoint, TelemetryConfig};
pub(crate) use tenant::parse_quota;

use super::admin::Saved;
use super::clients::ClientLimits;
use http::Method;
use hv_core::device::block::DiskSpec;
use hv_core::sched::Share;
use hv_function::Isolation;
use ipnet::IpNet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the server listens unless it is told: port 8080, this host only.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// How long running requests may take after SIGTERM.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(30);
/// How long a client may take for the head of a request, and stay idle between two.
pub const DEFAULT_HEADER_TIME: Duration = Duration::from_secs(10);
/// Most connections at a time.
pub const DEFAULT_CONNECTIONS: usize = 1024;
/// Most requests in guests at a time, over all functions.
pub const DEFAULT_GUESTS: usize = 1024;
/// CPU time of one request.
pub const DEFAULT_CPU_TIME: Duration = Duration::from_secs(10);
/// Time of one request from its start in a guest to the end of the answer.
pub const DEFAULT_WALL_TIME: Duration = Duration::from_secs(30);
/// How long a function may boot until it says that it is ready.
pub const DEFAULT_READY_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a request's body.
pub const DEFAULT_BODY: u64 = 1 << 20;
/// Most requests of a function at a time.
pub const DEFAULT_CONCURRENCY: usize = 64;
/// Most requests of a function that wait.
pub const DEFAULT_QUEUE: usize = 1024;
/// How long a request may wait.
pub const DEFAULT_QUEUE_TIME: Duration = Duration::from_secs(5);
/// How long an instance, or a machine that is ready for one, is kept without a request.
pub const DEFAULT_IDLE: Duration = Duration::from_secs(60);

/// All that `hv serve` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where it listens for TLS.
    pub listen_tls: Vec<SocketAddr>,
    /// What it shows who it is with, there.
    pub certificates: Vec<CertificateConfig>,
    /// Where `/metrics` and `/healthz` are, if not among the functions.
    pub admin: Option<SocketAddr>,
    /// The admin API there.
    pub api: Option<ApiConfig>,
    /// Where spans and metrics go.
    pub telemetry: Option<TelemetryConfig>,
    /// Where the access log goes.
    pub log: LogTarget,
    /// What its lines look like.
    pub log_format: LogFormat,
    /// Where the next server may take the sockets over.
    pub handover: Option<PathBuf>,
    /// How long running requests may take after SIGTERM.
    pub drain: Duration,
    /// How long a client may take for a head.
    pub header_time: Duration,
    /// Most connections at a time.
    pub connections: usize,
    /// What each client may take.
    pub client_limits: ClientLimits,
    /// Most requests in guests at a time; `None`: [`DEFAULT_GUESTS`], or what one function asks for.
    pub guests: Option<usize>,
    /// Whose connections to functions begin with a header of the PROXY protocol.
    pub proxies: Vec<IpNet>,
    /// Bytes of memory for hv and all guests; `None`: what its control group allows.
    pub memory: Option<u64>,
    /// Name servers of what functions reach; none: those of the host.
    pub name_servers: Vec<SocketAddr>,
    /// Files with secrets, which a reload reads again.
    pub secrets: Vec<PathBuf>,
    /// Where this was configured.
    pub location: Location,
    /// Who the functions belong to.
    pub tenants: Vec<TenantConfig>,
    /// What is served: with what the admin API has changed.
    pub functions: Vec<FunctionConfig>,
    /// The same without.
    pub configured: Vec<FunctionConfig>,
    /// What the admin API has changed.
    pub saved: Saved,
    /// The folder that paths are relative to.
    pub folder: PathBuf,
}

impl Config {
    /// The files and folders that functions are made of, or may be again: what is served, what the file names, and what was
    /// deployed before.
    pub fn sources(&self) -> impl Iterator<Item = PathBuf> {
        let functions = self.functions.iter().chain(&self.configured);
        let sources = functions.map(|function| function.deployment.source.path().to_owned());
        sources.chain(self.saved.named().map(|path| self.folder.join(path)))
    }

    /// Takes over what the admin API has changed.
    pub(crate) fn apply(&mut self, saved: Saved) -> Result<(), ConfigError> {
        self.functions = saved.apply(self)?;
        self.saved = saved;
        Ok(())
    }
}

/// A certificate for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// Its position in the configuration.
    pub location: Location,
    /// The file of the certificate and those that vouch for it, in PEM format.
    pub chain: PathBuf,
    /// The file of its private key, in PEM format.
    pub key: PathBuf,
    /// The names of hosts that it is for; empty: those that stand in it.
    pub names: Vec<String>,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// The end of a file, made if it is not there.
    File(PathBuf),
    /// Nowhere.
    Off,
}

impl LogTarget {
    /// `-` is standard output, `off` nowhere, all else a file.
    pub fn of(text: &str) -> LogTarget {
        match text {
            "-" => LogTarget::Stdout,
            "off" => LogTarget::Off,
            path => LogTarget::File(path.into()),
        }
    }
}

/// What the lines of the log look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: much like the common log format.
    Text,
    /// For programs: an object a line.
    Json,
}

/// One tenant: functions that have a share, and limits, together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantConfig {
    /// Its name in metrics.
    pub name: String,
    /// Its position in the configuration.
    pub location: Location,
    /// The share of the processors of all its functions together.
    pub share: Share,
    /// Most requests of its functions at a time; `None`: as many as the server has.
    pub concurrency: Option<usize>,
    /// Most requests that wait for its functions; `None`: as many as these allow.
    pub queue: Option<usize>,
    /// Most bytes of memory that the guests which answer its requests are promised; `None`: what the server has.
    pub memory: Option<u64>,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionConfig {
    /// Its name in logs and metrics.
    pub name: String,
    /// Its position in the configuration.
    pub location: Location,
    /// Which paths lead to it: exact, or ending in `/*`.
    pub paths: Vec<String>,
    /// Which methods it takes; empty: all.
    pub methods: Vec<Method>,
    /// What runs.
    pub deployment: Deployment,
    /// The share of the processors of all its instances together.
    pub share: Share,
    /// Most bytes of a request's body.
    pub body: u64,
    /// Most requests that wait.
    pub queue: usize,
    /// How long one may wait.
    pub queue_time: Duration,
    /// How long an instance, or a machine that is ready for one, is kept without a request.
    pub idle: Duration,
    /// Instances, or machines that are ready for one, that are made ahead and kept.
    pub min_warm: usize,
    /// Most instances and machines; `None`: one for each request at a time, and some that are being reset.
    pub max_instances: Option<usize>,
}

impl FunctionConfig {
    /// Most requests in guests at a time.
    pub fn concurrency(&self) -> usize {
        self.deployment.concurrency.min(self.max_instances.unwrap_or(usize::MAX))
    }

    /// Most instances and machines, with `spare` beyond one for each request unless it is told.
    pub fn machines(&self, spare: usize) -> usize {
        self.max_instances.unwrap_or(self.deployment.concurrency.saturating_add(spare))
    }

    /// Whether a reload from `self` to `other` changes nothing but the lines of the file.
    pub fn is_same(&self, other: &FunctionConfig) -> bool {
        *self == FunctionConfig { location: self.location.clone(), ..other.clone() }
    }
}

/// What makes a function a running one. While this stays equal, a reload keeps
/// the function as it is, with its pooled instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Image or snapshot.
    pub source: Source,
    /// The source's file as it was when the configuration was read.
    pub version: FileVersion,
    /// Whether each request has an instance of its own.
    pub isolation: Isolation,
    /// CPU time of one request.
    pub cpu_time: Duration,
    /// Time of one request.
    pub wall_time: Duration,
    /// How long it may boot.
    pub ready_time: Duration,
    /// Bytes of memory that each instance is promised, if not all that it has.
    pub promised_memory: Option<u64>,
    /// Whether its instances share equal pages.
    pub share_equal_pages: bool,
    /// The tenant whose share its instances have a part of.
    pub tenant: Option<String>,
    /// Most requests at a time.
    pub concurrency: usize,
    /// Whether what instances print is told among the events.
    pub console: bool,
    /// What it reaches.
    pub services: hv_services::Spec,
}

/// What a function is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An image, booted once until it is ready.
    Image {
        /// The ELF file.
        path: PathBuf,
        /// Bytes of memory.
        memory: u64,
        /// Bytes of stack, if not what the image asks for.
        stack: Option<u64>,
        /// Arguments.
        arguments: Vec<String>,
        /// Environment.
        environment: Vec<(String, String)>,
        /// Disks, none of which an instance can change for others.
        disks: Vec<DiskSpec>,
    },
    /// A guest that was saved.
    Snapshot {
        /// A folder that `hv snapshot` has written.
        path: PathBuf,
        /// The disks that it had, none of which an instance can change for others.
        disks: Vec<DiskSpec>,
    },
}

impl Source {
    /// The image's file, or the snapshot's folder.
    pub fn path(&self) -> &Path {
        match self {
            Source::Image { path, .. } | Source::Snapshot { path, .. } => path,
        }
    }

    /// The disks of each instance.
    pub fn disks(&self) -> &[DiskSpec] {
        match self {
            Source::Image { disks, .. } | Source::Snapshot { disks, .. } => disks,
        }
    }
}

/// Identifies a version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl FileVersion {
    pub(crate) fn of(path: &Path) -> std::io::Result<FileVersion> {
        use std::os::unix::fs::MetadataExt;
        let data = path.metadata()?;
        Ok(FileVersion {
            device: data.dev(),
            inode: data.ino(),
            len: data.len(),
            changed: (data.mtime(), data.mtime_nsec()),
        })
    }
}

/// Finds the file of an image: the path itself, or a guest that is built first.
/// An error is one line.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Result<PathBuf, String>;

/// Reads and validates a file. Paths in it are relative to `folder`, the one that the file is in: absolute, since
/// a server in its jail cannot ask for the current folder.
pub fn load(path: &Path, folder: &Path, resolve: Resolve<'_>) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
        location: Location::File(path.into()),
        problem: Problem::Unreadable(error),
    })?;
    validate::validate(path, folder, &text, resolve)
}

/// Validates a text as if it stood in the file at `path`.
#[cfg(feature = "fuzzing")]
pub(super) fn of_text(path: &Path, text: &str, resolve: Resolve<'_>) -> Result<Config, ConfigError> {
    validate::validate(path, path.parent().unwrap_or(Path::new("")), text, resolve)
}

/// A configuration from arguments, `/path=IMAGE` each; everything else is the default.
pub fn of_arguments(functions: &[String], resolve: Resolve<'_>) -> Result<Config, ConfigError> {
    validate::validate_arguments(functions, resolve)
}
