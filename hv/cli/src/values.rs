//! Values on the command line, and how they are written.

use super::args::Setting;
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

/// How much memory a guest has, and is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that it can rely on.
    pub promised: u64,
    /// Bytes that it has.
    pub most: u64,
}

/// `SIZE`, or `MIN..MAX`.
pub(super) fn parse_memory(s: &str) -> Result<Memory, String> {
    let (promised, most) = s.split_once("..").unwrap_or((s, s));
    match (parse_size(promised)?, parse_size(most)?) {
        (promised, most) if promised <= most => Ok(Memory { promised, most }),
        _ => Err(format!(
            "the guest is promised the first size, which is the smaller one: use {most}..{promised}"
        )),
    }
}

/// How many virtual CPUs a guest has, and should use at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpus {
    /// What it should use at first.
    pub target: usize,
    /// What it has.
    pub most: usize,
}

/// `N`, or `MIN..MAX`.
pub(super) fn parse_vcpus(s: &str) -> Result<Vcpus, String> {
    use hv_core::domain::MAX_VCPUS;
    let number = |s: &str| s.parse().ok().filter(|vcpus| (1..=MAX_VCPUS).contains(vcpus));
    let (target, most) = s.split_once("..").unwrap_or((s, s));
    match (number(target), number(most)) {
        (Some(target), Some(most)) if target <= most => Ok(Vcpus { target, most }),
        (Some(target), Some(most)) => Err(format!(
            "the guest begins with the first number, which is the smaller one: use {most}..{target}"
        )),
        _ => Err(format!("use 1 to {MAX_VCPUS}, or two of these numbers, as in 1..4")),
    }
}

/// `KEY=VALUE` of `hv set`.
pub(super) fn parse_setting(s: &str) -> Result<Setting, String> {
    let (key, value) = s.split_once('=').ok_or("use KEY=VALUE, as in vcpus=4")?;
    let number = |most: u32| match value.parse::<u32>() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(format!("use a whole number up to {most}")),
    };
    match key {
        "vcpus" => match parse_vcpus(value) {
            Ok(Vcpus { target, most }) if target == most && !value.contains("..") => {
                Ok(Setting::Vcpus(target))
            }
            _ => Err(format!("use vcpus=N, 1 to {}", hv_core::domain::MAX_VCPUS)),
        },
        "memory" => units::size(value).map(Setting::Memory).map_err(|error| error.to_string()),
        "weight" => number(65_535).map(Setting::Weight),
        "cap" => number(hv_core::sched::MAX_CAP).map(Setting::Cap),
        _ => Err("use vcpus=N, memory=SIZE, weight=N or cap=PERCENT".into()),
    }
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
    fn settings() {
        assert_eq!(parse_setting("vcpus=4"), Ok(Setting::Vcpus(4)));
        assert_eq!(parse_setting("memory=64M"), Ok(Setting::Memory(64 << 20)));
        assert_eq!(parse_setting("memory=0"), Ok(Setting::Memory(0)));
        assert_eq!(parse_setting("weight=65535"), Ok(Setting::Weight(65_535)));
        assert_eq!(parse_setting("cap=6400"), Ok(Setting::Cap(6400)));
        for bad in [
            "",
            "vcpus",
            "vcpu=1",
            "vcpus=",
            "vcpus=0",
            "vcpus=65",
            "vcpus=1..2",
            "cap=6401",
            "cap=-1",
            "weight=x",
        ] {
            assert!(parse_setting(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory() {
        assert_eq!(parse_memory("16M"), Ok(Memory { promised: 16 << 20, most: 16 << 20 }));
        assert_eq!(parse_memory("32M..2G"), Ok(Memory { promised: 32 << 20, most: 2 << 30 }));
        for bad in ["", "..", "1M..", "..1M", "0..1M", "1M..65G", "1..2M", "1M..2M..3M", "2M..1M"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
        assert!(parse_memory("2M..1M").is_err_and(|error| error.ends_with("use 1M..2M")));
    }

    #[test]
    fn virtual_cpus() {
        assert_eq!(parse_vcpus("3"), Ok(Vcpus { target: 3, most: 3 }));
        assert_eq!(parse_vcpus("1..64"), Ok(Vcpus { target: 1, most: 64 }));
        assert_eq!(parse_vcpus("2..2"), Ok(Vcpus { target: 2, most: 2 }));
        for bad in
            ["", "0", "65", "..", "1..", "..4", "0..4", "1..65", "4..1", "1..2..3", "1...4", "-1", "1-4"]
        {
            assert!(parse_vcpus(bad).is_err(), "{bad}");
        }
        assert!(parse_vcpus("4..1").is_err_and(|error| error.ends_with("use 1..4")));
    }

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
