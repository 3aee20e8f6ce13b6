//! Why a configuration is refused: the location, what is wrong, and the remedy, in one line.

use hv_core::sched::ShareError;
use hv_host::escape::escape;
use hv_host::units::UnitError;
use std::fmt;
use std::path::PathBuf;

/// A position in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A line of a file, counted from 1.
    Line(PathBuf, usize),
    /// The file as a whole.
    File(PathBuf),
    /// An argument of the command line.
    Argument(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Line(file, line) => write!(f, "{}:{line}", escape(file)),
            Location::File(file) => write!(f, "{}", escape(file)),
            Location::Argument(argument) => f.write_str(argument),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[error("{}", escape(&format!("{location}: {problem}")))]
pub struct ConfigError {
    /// Where.
    pub location: Location,
    /// What is wrong, and what to do.
    pub problem: Problem,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read it: {0}; give the path of a readable TOML file")]
    Unreadable(std::io::Error),
    /// It is not TOML, or a value has the wrong type.
    #[error("{0}; see docs/serve.md for the keys and their values")]
    Toml(String),
    /// A key that there is not.
    #[error("unknown key `{key}`; {}", hint(nearest, known))]
    UnknownKey {
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
        /// All keys that may stand here.
        known: String,
    },
    /// Two tenants' functions would share equal pages.
    #[error(
        "share_equal_pages: function {other} ({location}) has it as well, and is another tenant's, which could find out what is in the memory of this one's guests; give it to functions of one tenant only"
    )]
    SharedEqualPages {
        /// The other function.
        other: String,
        /// Where it is.
        location: Location,
    },
    /// A size or time that is none.
    #[error("{key} = \"{value}\": {error}")]
    Unit {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why.
        error: UnitError,
    },
    /// A value that is not allowed.
    #[error("{key} = {value}: {why}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why not, and what to write instead.
        why: String,
    },
    /// A share of the processors that cannot be.
    #[error("{key}: {error}")]
    Share {
        /// The key.
        key: &'static str,
        /// Why.
        error: ShareError,
    },
    /// A key that has to be there.
    #[error("the function `{function}` has no `{key}`; add {example}")]
    Missing {
        /// The function.
        function: String,
        /// The key.
        key: &'static str,
        /// A line that would do.
        example: &'static str,
    },
    /// Two functions have the same path.
    #[error(
        "the path {path} is already the function `{other}`'s ({location}); give one of them another path"
    )]
    DoubleRoute {
        /// The path.
        path: String,
        /// The other function.
        other: String,
        /// Where that is configured.
        location: Location,
    },
    /// TLS without a certificate.
    #[error(
        "listen_tls needs a certificate; add a table [[certificate]] with chain = \"cert.pem\" and key = \"key.pem\""
    )]
    NoCertificates,
    /// A certificate without one of its files.
    #[error("the certificate has no `{key}`; add {key} = \"{key}.pem\"")]
    CertificateLacks {
        /// The key of the table.
        key: &'static str,
    },
    /// A tenant's path among those of another tenant.
    #[error(transparent)]
    OverlappingRoutes(Box<Overlap>),
    /// A tenant that there is not.
    #[error("tenant = \"{name}\": there is no such tenant; {}", hint_tenant(nearest, name))]
    UnknownTenant {
        /// The name.
        name: String,
        /// The tenant whose name looks most like it.
        nearest: Option<String>,
    },
    /// Both kinds of source.
    #[error("the function `{function}` has both `image` and `snapshot`; remove one of them")]
    TwoSources {
        /// The function.
        function: String,
    },
    /// A key that makes no sense beside another.
    #[error("`{key}` does not go with {with}; {remedy}")]
    Conflict {
        /// The key.
        key: &'static str,
        /// What it does not go with.
        with: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The image cannot be found or built.
    #[error("{0}")]
    Image(String),
    /// The snapshot is not there.
    #[error("snapshot = \"{0}\": no such folder; make it with `hv snapshot IMAGE -o {0}`")]
    Snapshot(String),
    /// No functions at all.
    #[error(
        "no functions; add a table such as [function.hello] with path = \"/hello\" and image = \"fn-hello\""
    )]
    Empty,
    /// A disk that takes a temporary file, new to a server whose jail has no place for one.
    #[error(
        "the disk {} of the function `{function}` takes a temporary file, as overlays and folders do, and this server \
         was started without such disks: its jail lets it make none; restart it",
        escape(disk)
    )]
    TemporaryFile {
        /// The function.
        function: String,
        /// The disk.
        disk: PathBuf,
    },
    /// Not even one instance of a function fits.
    #[error(
        "an instance of the function `{function}` needs {needed} KiB of memory, and of the {budget} KiB that {name} allows hv, it needs \
         some itself and has {left} KiB for guests; raise that, or promise the function less (memory = \"MIN..MAX\")"
    )]
    Memory {
        /// The function.
        function: String,
        /// What an instance is promised, in KiB.
        needed: u64,
        /// What there is for guests, in KiB.
        left: u64,
        /// What there is in all, in KiB.
        budget: u64,
        /// What sets that.
        name: String,
    },
    /// What the admin API has changed cannot be taken over.
    #[error("{0}")]
    Saved(String),
    /// Not all instances fit that a function is to keep ready.
    #[error(
        "min_warm = {count}: so many instances of the function `{function}` need {needed} KiB of memory, and of the {budget} KiB that \
         {name} allows hv, {left} KiB are for guests; lower it, raise that, or promise the function less (memory = \"MIN..MAX\")"
    )]
    WarmMemory {
        /// The function.
        function: String,
        /// How many.
        count: usize,
        /// What they are promised, in KiB.
        needed: u64,
        /// What there is for guests, in KiB.
        left: u64,
        /// What there is in all, in KiB.
        budget: u64,
        /// What sets that.
        name: String,
    },
    /// More machines and connections than descriptors.
    #[error(
        "{machines} virtual machines and {connections} connections take {needed} file descriptors, and this \
         process may have {limit}; lower `concurrency` or `connections`, or raise the limit (ulimit -n)"
    )]
    Descriptors {
        /// Machines that the functions may have together.
        machines: usize,
        /// Connections that may be.
        connections: usize,
        /// Descriptors for that.
        needed: u64,
        /// Descriptors that may be.
        limit: u64,
    },
    /// More machines, and threads of their disks, than processes.
    #[error(
        "{machines} virtual machines and {disk_threads} threads of their disks take {needed} processes and threads, \
         and {name} allows {limit}; lower `concurrency`, or raise the limit ({remedy})"
    )]
    Processes {
        /// Machines that the functions may have together.
        machines: usize,
        /// Threads that work on their disks.
        disk_threads: u64,
        /// Processes and threads for that.
        needed: u64,
        /// What sets the limit.
        name: String,
        /// Processes and threads that may be.
        limit: u64,
        /// How the limit is raised.
        remedy: &'static str,
    },
}

/// A tenant's path among those of another tenant.
#[derive(Debug, thiserror::Error)]
#[error(
    "the path {path} of the tenant `{tenant}` is one of {prefix}, which is the tenant `{other}`'s ({location}); \
     give each tenant paths of its own, as in /{tenant}/*"
)]
pub struct Overlap {
    /// The path.
    pub path: String,
    /// Its tenant.
    pub tenant: String,
    /// The path of the other tenant.
    pub prefix: String,
    /// The other tenant.
    pub other: String,
    /// Where that is configured.
    pub location: Location,
}

impl Problem {
    pub(super) fn unknown_tenant(name: String, known: Vec<String>) -> Problem {
        let nearest = nearest(&name, &known).cloned();
        Problem::UnknownTenant { name, nearest }
    }
}

fn hint_tenant(nearest: &Option<String>, name: &str) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("add a table [tenant.{name}]"),
    }
}

fn hint(nearest: &Option<String>, known: &str) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("the keys here are {known}"),
    }
}

/// Makes one line of a message of the TOML parser, and a better one of what it says of unknown keys.
pub(super) fn of_parser(message: &str) -> Problem {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // The names in serde's message are the known keys of that table.
    let mut names = message.split('`').skip(1).step_by(2).map(str::to_owned);
    if message.starts_with("unknown field")
        && let Some(key) = names.next()
    {
        let known: Vec<String> = names.collect();
        let nearest = nearest(&key, &known).cloned();
        return Problem::UnknownKey { key, nearest, known: known.join(", ") };
    }
    Problem::Toml(message)
}

/// The candidate that is most likely meant.
pub(super) fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a String> {
    let key = key.replace('-', "_");
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&key, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_tab_stays_on_its_line() {
        let location = Location::Argument("--config a\tb\nc".into());
        let problem = Problem::Toml("no \u{1b}[31mvalue".into());
        let message = ConfigError { location, problem }.to_string();
        assert!(message.starts_with("--config a\\tb\\nc: no \\u{1b}[31mvalue; "), "{message}");
    }
}
