//! `hv serve`: functions behind HTTP. Each request is answered by a guest: a
//! fresh one, or one that answers its function's requests one after the other.
//!
//! ```text
//!  client ── listener ── handler ── route ── gate ── function (a guest)
//!            connection  validates  path     permits    │
//!               └──────── reply ◄── exchange ◄──────────┘
//! ```
//!
//! One thread speaks with all clients. Guests run on the engine's threads; what
//! they say comes through an `exchange`, where they never wait.
#![forbid(unsafe_code)]

mod activation;
mod admin;
mod clients;
pub mod config;
mod connection;
mod console;
mod deploy;
mod descriptors;
#[cfg(feature = "fuzzing")]
pub mod door;
mod error;
mod events;
mod exchange;
mod framing;
mod front_response;
mod gate;
mod handler;
mod handover;
mod head;
mod layout;
mod listener;
mod log;
mod memory;
mod metrics;
mod opening;
mod pace;
mod processes;
mod proxy_header;
mod record;
mod reload;
mod reply;
mod request_rules;
mod route;
mod run;
mod server;
mod sockets;
mod table;
mod tenant;
mod throttle;
mod tidy;
mod time_limit;
mod tls;
mod trace;
mod traffic;
mod transport;
mod tunnel;
mod upgrade;
mod upload;
mod usage_metrics;

pub use clients::ClientLimits;
pub use deploy::DeployError;
pub use error::ServeError;
pub use hv_services::Names;
pub use memory::{MemoryBudget, budget};
pub use run::{Options, Reader, check, rehearse, run, threads};
pub use sockets::Inherited;
pub use tls::CertificateError;
