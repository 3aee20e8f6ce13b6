//! The counts in `docs/threat-model.md` are those of the code, and its promises have tests.

use hv::platform::process::ALLOWED;
use hv_abi::Hypercall;
use hv_abi::event::PORTS;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cells of a row of a table of the document, found by its first cell and the section's title.
#[track_caller]
fn row(section: &str, way: &str) -> String {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
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
    says("On every platform", "event bitmaps", &[format!("1 bitmap of {PORTS} bits")]);
    let naming = Hypercall::ALL
        .iter()
        .filter(|call| call.arguments().iter().any(|name| matches!(*name, "address" | "handler" | "entry")));
    says("On every platform", "memory named in calls", &[format!("| {} calls:", naming.count())]);
}

#[test]
fn system_calls_of_a_process() {
    let calls = ALLOWED.map(|(name, _)| format!("`{name}`"));
    let count = format!("| {}, with fixed arguments", ALLOWED.len());
    says("On the platform process", "system calls", &[&[count], calls.as_slice()].concat());
}

/// The rows of the table of promises: what is promised, and what stands in for it.
fn promises(text: &str) -> Vec<(&str, &str)> {
    let (_, table) = text.split_once("| promise | tested by |\n|---|---|\n").expect("the table is there");
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 2, "two cells: {row}");
        (cells[0], cells[1])
    })
    .collect()
}

/// What stands between backticks and could be the name of a test: words joined by underscores.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

/// Calls `see` with each source file below these folders, and its text.
fn sources(folders: &[&str], mut see: impl FnMut(&Path, &str)) {
    let mut folders: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                see(&path, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}

/// The names of all tests below these folders: functions behind a line `#[test]`, or `#[guest_test …]`, which makes one
/// for each platform.
fn tests_below(folders: &[&str]) -> HashSet<String> {
    let mut tests = HashSet::new();
    sources(folders, |_, text| {
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line != "#[test]" && !line.starts_with("#[guest_test") {
                continue;
            }
            // Further attributes may stand in between.
            let function = lines.find_map(|line| line.strip_prefix("fn "));
            tests.extend(function.and_then(|rest| rest.split('(').next()).map(str::to_owned));
        }
    });
    tests
}

/// For what a file may contain unsafe code, as its attribute says.
fn unsafe_for(text: &str) -> Option<&str> {
    let (_, reason) = text.split_once("[allow(unsafe_code, reason = \"")?;
    Some(reason.split_once("\")]").expect("the attribute is one line").0)
}

#[test]
fn the_tables_of_unsafe_code_are_those_of_the_files() {
    let document = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let (_, rest) =
        document.split_once("| file (in `hv/`) | what for | relies on |\n|---|---|---|\n").unwrap();
    let (table, rest) = rest.split_once("\n\n").unwrap();
    let told: BTreeMap<_, _> = table
        .lines()
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 3, "three cells: {row}");
            (cells[0].trim_matches('`').to_owned(), cells[1].to_owned())
        })
        .collect();
    let (mut found, mut guests) = (BTreeMap::new(), BTreeSet::new());
    sources(&["hv"], |path, text| {
        let name = path.strip_prefix(root().join("hv")).unwrap().to_str().unwrap().to_owned();
        if !name.contains("tests") {
            assert_eq!(unsafe_for(text).is_some(), text.starts_with("//! ⚠"), "{name}");
            found.extend(unsafe_for(text).map(|reason| (name, reason.to_owned())));
        }
    });
    assert_eq!(told, found);
    sources(&["guest-sdk/sdk/src"], |path, text| {
        assert_eq!(unsafe_for(text).is_some(), text.starts_with("//! ⚠"), "{}", path.display());
        let name = path.strip_prefix(root().join("guest-sdk/sdk/src")).unwrap().with_extension("");
        guests.extend(unsafe_for(text).map(|_| format!("`{}`", name.display())));
    });
    let list = rest.split_once("In the guest SDK (⚠ as well): ").unwrap().1.split_once('.').unwrap().0;
    assert_eq!(list.split(", ").map(str::to_owned).collect::<BTreeSet<_>>(), guests);
    // Without these, the attributes would mean nothing.
    for (crate_root, lint) in [
        ("hv/src/lib.rs", "forbid"),
        ("hv/src/main.rs", "forbid"),
        ("hv/bench/src/lib.rs", "deny"),
        ("hv/cli/src/lib.rs", "deny"),
        ("hv/core/src/lib.rs", "deny"),
        ("hv/doctor/src/lib.rs", "deny"),
        ("hv/function/src/lib.rs", "forbid"),
        ("hv/host/src/lib.rs", "deny"),
        ("hv/jail/src/lib.rs", "deny"),
        ("hv/serve/src/lib.rs", "forbid"),
        ("hv/stub/src/lib.rs", "forbid"),
        ("hv/stub/src/main.rs", "deny"),
        ("abi/src/lib.rs", "forbid"),
        ("guest-sdk/sdk/src/lib.rs", "deny"),
        ("guest-sdk/http/src/lib.rs", "forbid"),
        ("guest-sdk/function/src/lib.rs", "forbid"),
        ("guest-sdk/ext/src/lib.rs", "forbid"),
        ("guest-sdk/macros/src/lib.rs", "forbid"),
    ] {
        let text = std::fs::read_to_string(root().join(crate_root)).unwrap();
        assert!(text.contains(&format!("#![{lint}(unsafe_code)]")), "{crate_root}: {lint}");
    }
}

#[test]
fn every_promise_names_a_test() {
    let text = std::fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let tests = tests_below(&["abi", "guest-sdk", "hv", "tests/tests"]);
    let promises = promises(&text);
    assert!(promises.len() > 30, "the whole table: {}", promises.len());
    for (promise, tested) in promises {
        let missing: Vec<_> = names(tested).filter(|name| !tests.contains(*name)).collect();
        assert!(missing.is_empty(), "no such test: {missing:?} for: {promise}");
        let target = tested.split_once("fuzz target `").and_then(|(_, rest)| rest.split('`').next());
        let target = target.map(|name| root().join(format!("fuzz/fuzz_targets/{name}.rs")));
        assert!(target.as_ref().is_none_or(|path| path.is_file()), "no such fuzz target: {tested}");
        assert!(target.is_some() || names(tested).next().is_some(), "no test of: {promise}");
    }
}
