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
    json!({
        "boot_phases_ns": phases,
        "exits": exits,
        "memory_bytes": {
            "guest_touched": guest.resident_memory(),
            "hv_peak_resident": peak_memory().map(|kib| kib << 10),
        },
    })
}
