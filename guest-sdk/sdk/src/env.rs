//! ⚠ Arguments and environment.
#![allow(unsafe_code, reason = "arguments where the host has put them")]

use crate::start_info::start_info;

/// The text of a block of NUL-ended strings in start-info.
fn strings(address: u64, size: u32) -> impl Iterator<Item = &'static str> + Clone {
    // SAFETY: the host mapped the block read-only beside start-info, and never
    // writes it again.
    let bytes: &'static [u8] = unsafe { core::slice::from_raw_parts(address as *const u8, size as usize) };
    bytes
        .split_inclusive(|&byte| byte == 0)
        .map(|string| core::str::from_utf8(&string[..string.len() - 1]).unwrap_or("\u{fffd}"))
}

/// The guest's arguments; the first is its name.
pub fn args() -> impl Iterator<Item = &'static str> + Clone {
    let info = start_info();
    strings(info.arguments.0, info.arguments_size)
}

/// The guest's environment variables.
pub fn vars() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    let info = start_info();
    strings(info.environment.0, info.environment_size).map(|var| var.split_once('=').unwrap_or((var, "")))
}

/// The value of an environment variable.
pub fn var(key: &str) -> Option<&'static str> {
    vars().find(|(k, _)| *k == key).map(|(_, value)| value)
}
