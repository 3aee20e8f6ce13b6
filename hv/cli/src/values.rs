//! Values on the command line, and how they are written.

use clap::ValueEnum;
use hv_host::units;
use std::str::FromStr;

/// What runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlatformKind {
    /// KVM, or else processes, with a line that says so.
    Auto,
    /// KVM.
    Kvm,
    /// A sandboxed process for each guest.
    Process,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object.
    Json,
}

/// A kind of network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetKind {
    /// The user-mode network.
    User {
        /// Whether the guest reaches the host's loopback interface.
        host_loopback: bool,
    },
    /// A tap device of this name.
    Tap(String),
    /// A switch between guests (not in this version).
    Switch(String),
}

impl FromStr for NetKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "user" | "user,host=deny" => return Ok(NetKind::User { host_loopback: false }),
            "user,host=allow" => return Ok(NetKind::User { host_loopback: true }),
            _ => {}
        }
        match s.split_once('=') {
            Some(("tap", name)) if !name.is_empty() => Ok(NetKind::Tap(name.into())),
            Some(("switch", name)) => Ok(NetKind::Switch(name.into())),
            _ => Err("not a network; use `user`, `user,host=allow` or `tap=NAME`. If it is the IMAGE, write that before \
                      --net, or --net=user"
                .into()),
        }
    }
}

/// Bytes of memory from a number with an optional K, M or G.
pub(super) fn parse_size(s: &str) -> Result<u64, String> {
    let bytes = units::size(s).map_err(|error| error.to_string())?;
    if bytes == 0 || !bytes.is_multiple_of(hv_abi::PAGE_SIZE) || bytes > hv_core::domain::MAX_MEMORY {
        return Err("use a multiple of 4096 bytes up to 64G".into());
    }
    Ok(bytes)
}

/// Bytes of a stack, likewise.
pub(super) fn parse_stack(s: &str) -> Result<u64, String> {
    match parse_size(s) {
        Ok(bytes) if bytes >= hv_core::domain::MIN_STACK => Ok(bytes),
        Err(error) if units::size(s).is_err() => Err(error),
        _ => Err("use a multiple of 4096 bytes from 16K to 64G".into()),
    }
}

pub(super) fn parse_vcpus(s: &str) -> Result<usize, String> {
    use hv_core::domain::MAX_VCPUS;
    s.parse().ok().filter(|vcpus| (1..=MAX_VCPUS).contains(vcpus)).ok_or(format!("use 1 to {MAX_VCPUS}"))
}

pub(super) fn parse_variable(s: &str) -> Result<(String, String), String> {
    match s.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("use KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        for bad in
            ["", "M", "1.5M", "12X", "100", "0", "65G", "99999999999999999999", "18446744073709551615G", "-1"]
        {
            assert!(parse_size(bad).is_err() && parse_stack(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_stack("16K"), Ok(16 << 10));
        assert_eq!(parse_stack("12K"), Err("use a multiple of 4096 bytes from 16K to 64G".into()));
    }
}
