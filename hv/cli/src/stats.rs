//! What `--stats` prints.

use hv_core::domain::{BootPhases, Guest};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

/// The kernel's figures of this process; opened before the jail, which allows no opening.
static STATUS: OnceLock<Option<File>> = OnceLock::new();

/// To be called before the process is jailed.
pub(super) fn prepare() {
    STATUS.get_or_init(|| File::open("/proc/self/status").ok());
}

/// Resident memory of this process at its largest, in KiB.
fn peak_memory() -> Option<u64> {
    let mut status = [0; 4096];
    let length = STATUS.get()?.as_ref()?.read(&mut status).ok()?;
    let status = String::from_utf8_lossy(&status[..length]);
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// The steps of a start with their times.
fn steps(phases: &BootPhases) -> Vec<(&'static str, Duration)> {
    let optional =
        [("first_hypercall", phases.first_hypercall), ("ready", phases.ready), ("run", phases.run)];
    [("load", phases.load), ("platform", phases.platform)]
        .into_iter()
        .chain(optional.into_iter().filter_map(|(name, time)| Some((name, time?))))
        .collect()
}

/// The statistics of a guest that has ended, as a table.
pub(super) fn text(guest: &Guest) -> String {
    let mut text = String::from("boot phases (µs)\n");
    for (name, time) in steps(&guest.phases()) {
        text += &format!("  {name:<18}{:>12.1}\n", time.as_nanos() as f64 / 1000.0);
    }
    text += "exits by kind\n";
    for (name, count) in guest.counters() {
        text += &format!("  {name:<18}{count:>12}\n");
    }
    let usage = guest.usage();
    text += "CPU time (s)\n";
    for (name, time) in [("vcpu", usage.vcpu_time), ("device", usage.device_time)] {
        text += &format!("  {name:<18}{:>12.6}\n", time.as_secs_f64());
    }
    text += "devices            operations in/out       bytes in/out\n";
    for (kind, moved) in &usage.devices {
        text += &format!(
            "  {kind:<12}{:>12} {:>12} {:>14} {:>14}\n",
            moved.operations_in, moved.operations_out, moved.bytes_in, moved.bytes_out
        );
    }
    text += "memory over time (MiB × s)\n";
    text += &format!("  {:<18}{:>12.3}\n", "guest", usage.memory_byte_seconds() / f64::from(1 << 20));
    text += "memory (KiB)\n";
    text += &format!("  {:<18}{:>12}\n", "guest_touched", guest.resident_memory() >> 10);
    if let Some(peak) = peak_memory() {
        text += &format!("  {:<18}{peak:>12}\n", "hv_peak_resident");
    }
    text
}

/// The same for programs: times in nanoseconds, memory in bytes.
pub(super) fn json(guest: &Guest) -> Value {
    let phases: Map<_, _> = steps(&guest.phases())
        .into_iter()
        .map(|(name, time)| (name.into(), json!(time.as_nanos() as u64)))
        .collect();
    let exits: Map<_, _> =
        guest.counters().into_iter().map(|(name, count)| (name.into(), json!(count))).collect();
    let usage = guest.usage();
    let devices: Map<_, _> = usage
        .devices
        .iter()
        .map(|(kind, moved)| {
            let figures = json!({
                "operations_in": moved.operations_in,
                "operations_out": moved.operations_out,
                "bytes_in": moved.bytes_in,
                "bytes_out": moved.bytes_out,
            });
            ((*kind).into(), figures)
        })
        .collect();
    json!({
        "boot_phases_ns": phases,
        "exits": exits,
        "memory_bytes": {
            "guest_touched": guest.resident_memory(),
            "hv_peak_resident": peak_memory().map(|kib| kib << 10),
        },
        "cpu_ns": {
            "vcpu": usage.vcpu_time.as_nanos() as u64,
            "device": usage.device_time.as_nanos() as u64,
        },
        "memory_byte_seconds": usage.memory_byte_seconds(),
        "devices": devices,
    })
}
