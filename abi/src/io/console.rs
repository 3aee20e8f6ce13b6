//! The console: a ring of bytes each way.
//!
//! The ring's requests are the guest's output, its responses the guest's input;
//! an entry is one byte. The host drains the output also when the guest ends,
//! so nothing that was published is lost; a guest that finds the output full
//! waits for the reader.

use crate::device::{self, Config};
use crate::layout::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Configuration of a console.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConsoleConfig {
    /// Zero.
    pub reserved: u64,
}

layout!(ConsoleConfig: 8 { reserved @ 0 });

impl Config for ConsoleConfig {
    const KIND: u32 = device::CONSOLE;
}

/// Set in [`CLOSED_OFFSET`](crate::ring::CLOSED_OFFSET) of a console ring when the input has ended.
pub const INPUT_CLOSED: u32 = 1;
