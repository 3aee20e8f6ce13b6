//! What this host offers to guests, what that means, and what to do about each lack.
//!
//! [`probe`] asks the host and gives [`Facts`]; [`assess`] turns them into a [`Report`], by
//! nothing but what they say; [`text`] prints it. The command is `hv doctor`.
#![deny(unsafe_code)]

mod assess;
mod facts;
pub mod probe;
pub mod text;

pub use assess::assess;
pub use facts::{Facts, Limit, Measured, Memory, Process, Tap, Virtualization};
use serde::Serialize;
use std::collections::BTreeMap;

/// How good something is for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As good as it gets.
    Ok,
    /// It works, at a price in time or memory.
    Slower,
    /// It works, with fewer walls or less room.
    Weaker,
    /// It does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is: a stable name.
    pub name: &'static str,
    /// How good it is.
    pub state: State,
    /// What is there.
    pub found: String,
    /// What that means for guests.
    pub means: String,
    /// What to do about it, if there is anything.
    pub remedy: Option<String>,
    /// Numbers, by stable names that end in their unit: `_ns`, `_bytes`, `_count`.
    pub figures: BTreeMap<&'static str, u64>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether guests can run at all.
    pub can_run: bool,
    /// What `--platform auto` takes: `kvm` or `process`.
    pub platform: Option<&'static str>,
    /// One for each thing, always in the same order.
    pub findings: Vec<Finding>,
}

/// Looks at this host. Takes some tenths of a second.
pub fn examine() -> Report {
    assess(&probe::probe())
}
