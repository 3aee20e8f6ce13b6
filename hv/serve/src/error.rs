//! Why `hv serve` does not start, or does not go on.
#![forbid(unsafe_code)]

use super::config::{ConfigError, Location};
use super::deploy::DeployError;
use super::handover;
use super::tls::CertificateError;
use hv_core::engine::BudgetError;
use hv_host::escape::escape;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A function does not become ready.
    #[error("{location}: the function `{}` cannot be deployed: {error}", escape(function))]
    Deploy {
        /// Its position in the configuration.
        location: Location,
        /// Its name.
        function: String,
        /// Why.
        #[source]
        error: Box<DeployError>,
    },
    /// An address cannot be listened on.
    #[error("{key} = \"{address}\": {}", listen_error(error))]
    Listen {
        /// The key in the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A certificate cannot be used.
    #[error("{location}: {error}")]
    Certificate {
        /// Its position in the configuration.
        location: Location,
        /// Why.
        #[source]
        error: Box<CertificateError>,
    },
    /// The sockets of the server before cannot be taken over, or not be offered to the next one.
    #[error("{}", handover::explain(path, error))]
    Handover {
        /// The path of the socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The access log cannot be opened.
    #[error(
        "log = \"{}\": {error}; name a file in a folder that you may write, - for standard output, or off",
        escape(path)
    )]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It is on storage that does not answer, or leads there.
    #[error(
        "the configuration, or a file that it names, does not answer within {0:?}; bring its storage back"
    )]
    Silent(Duration),
    /// The memory is too little for hv itself.
    #[error(
        "hv itself needs more memory than it may have: {0}; raise `memory`, or the limit of its control group, or lower `connections`"
    )]
    Memory(#[source] BudgetError),
    /// The host lacks resources for the server itself.
    #[error("the host has no room for the server: {0}")]
    Host(#[from] io::Error),
}

fn listen_error(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "choose another port, or end what listens there",
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has this address; use 127.0.0.1 or 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a right; choose a port from 1024 on",
        _ => "choose another address",
    };
    format!("{error}; {remedy}")
}
