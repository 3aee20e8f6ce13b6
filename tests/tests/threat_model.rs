//! The counts in `docs/threat-model.md` are those of the code.

use hv::platform::process::ALLOWED;
use hv_abi::Hypercall;
use hv_abi::event::PORTS;
use std::path::Path;

/// The cells of a row of a table of the document, found by its first cell and the section's title.
#[track_caller]
fn row(section: &str, way: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/threat-model.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("### {section}\n")).expect("the section is there");
    let section = section.split("\n### ").next().unwrap_or_default();
    let row = section.lines().find(|line| line.starts_with(&format!("| {way} |")));
    row.unwrap_or_else(|| panic!("no row {way:?}")).to_owned()
}

#[track_caller]
fn says(section: &str, way: &str, parts: &[String]) {
    let row = row(section, way);
    for part in parts {
        assert!(row.contains(part), "{part:?} in: {row}");
    }
}

#[test]
fn hypercalls_and_events() {
    let count = Hypercall::ALL.len();
    let parts = [format!("| {count} numbers: {} are answered", count - 1)];
    says("On every platform", "hypercalls", &parts);
    says("On every platform", "event bitmaps", &[format!("2 bitmaps of {PORTS} bits")]);
    let naming = Hypercall::ALL
        .iter()
        .filter(|call| call.arguments().iter().any(|name| matches!(*name, "address" | "handler")));
    says("On every platform", "memory named in calls", &[format!("| {} calls:", naming.count())]);
}

#[test]
fn system_calls_of_a_process() {
    let calls = ALLOWED.map(|(name, _)| format!("`{name}`"));
    let count = format!("| {}, with fixed arguments", ALLOWED.len());
    says("On the platform process", "system calls", &[&[count], calls.as_slice()].concat());
}
