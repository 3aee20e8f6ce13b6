//! A key-value store that speaks RESP2, the protocol of Redis.

mod command;
mod pattern;
mod resp;
mod store;

pub use command::execute;
pub use resp::{Parsed, parse};
pub use store::Store;

#[cfg(test)]
mod tests;
