//! Options of the commands about guests that run.

use super::Format;
use crate::values::parse_setting;
use clap::{Args, ValueHint};
use std::path::PathBuf;

/// Whether a guest can be controlled while it runs.
#[derive(Debug, Args)]
pub struct ControlOption {
    /// Make a socket by which `hv set`, `hv show`, `hv pause`, `hv resume` and `hv stop` reach the guest while it runs. It is
    /// for this user only, and gone when hv has ended.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub control: Option<PathBuf>,
}

/// Options of commands that need nothing but the socket.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The socket that `hv run --control` made.
    #[arg(value_hint = ValueHint::FilePath)]
    pub control: PathBuf,
}

/// Something that can be changed, with its new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How many virtual CPUs the guest should use.
    Vcpus(usize),
    /// How many bytes of memory the guest should use; 0: all.
    Memory(u64),
    /// Its weight.
    Weight(u32),
    /// Its cap, in percent of one core; 0: none.
    Cap(u32),
}

/// Options of `hv set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv set my.sock vcpus=4
  hv set my.sock memory=128M weight=512
  hv set my.sock cap=150
  hv set my.sock memory=0 cap=0

Virtual CPUs and memory are what the guest should use, up to what it was started with; whether it follows is its own affair.
Either all of the settings hold afterwards, or none.")]
pub struct SetArgs {
    /// The socket that `hv run --control` made.
    #[arg(value_hint = ValueHint::FilePath)]
    pub control: PathBuf,
    /// What to change: vcpus=N; memory=SIZE (0: all that it has); weight=N (1 to 65535); cap=PERCENT (of one core; 0: no cap).
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_setting)]
    pub settings: Vec<Setting>,
}

/// Options of `hv show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  hv show my.sock
  hv show my.sock --format json | jq .vcpus.running")]
pub struct ShowArgs {
    /// The socket that `hv run --control` made.
    #[arg(value_hint = ValueHint::FilePath)]
    pub control: PathBuf,
    /// How it is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
