//! Connections to elsewhere, as the list of a function allows them.

mod connect;
mod policy;

pub use connect::CONNECTIONS;
pub(crate) use connect::Net;
pub use policy::{NetLimits, NetSpec, Protocol, Rule, RuleError};
