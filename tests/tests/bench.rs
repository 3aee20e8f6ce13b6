//! `hv bench`: the result in all of its forms, and what is refused.

use hv_bench::operation::Group;
use hv_bench::result::{Measurement, Results, SCHEMA};
use hv_bench::stats::Spread;
use hv_tests::refusal::{refused, text};
use hv_tests::{Finished, Platform, Running, guest, guest_test, has_tools, hv};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use tempfile::TempDir;

/// One measurement at a time: they would disturb each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `hv bench …` with the guests that the tests have built.
fn bench(arguments: &[&str]) -> Command {
    let guests = guest("bench");
    let mut command = Command::new(hv());
    command.arg("bench").arg("--images").arg(guests.parent().unwrap()).args(arguments).stdin(Stdio::null());
    command
}

#[track_caller]
fn ran(arguments: &[&str]) -> Finished {
    Running::new(&mut bench(arguments)).finish().expect(0)
}

#[track_caller]
fn in_order(what: &str, values: &[f64]) {
    assert!(values.iter().all(|value| value.is_finite() && *value >= 0.0), "{what}: {values:?}");
    assert!(values.is_sorted(), "{what}: {values:?}");
}

#[track_caller]
fn check(m: &Measurement, rounds: u32) {
    let name = &m.name;
    let l = &m.latency_ns;
    in_order(name, &[l.min, l.p50, l.p90, l.p99, l.p999, l.max]);
    in_order(name, &l.curve.iter().map(|(_, nanos)| *nanos).collect::<Vec<_>>());
    for Spread { low, median, high } in [m.median_ns, m.time_ns, m.cpu_ns] {
        in_order(name, &[low, median, high]);
    }
    assert!(m.count >= rounds.into() && m.time_ns.median > 0.0 && m.per_second > 0.0, "{m:?}");
    assert!(!m.what.is_empty());
}

fn of<'a>(results: &'a Results, name: &str) -> &'a Measurement {
    results.operations.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no {name}"))
}

#[guest_test(kvm, "what is measured here is KVM")]
fn a_result_has_every_operation_of_its_group_and_the_machine(_: Platform) {
    let _alone = alone();
    let end = ran(&["exits", "--quick", "--rounds", "3", "--format", "json"]);
    let results: Results = serde_json::from_str(&end.text()).expect("a result");
    assert_eq!(results.schema, SCHEMA);
    assert_eq!(results.settings.rounds, 3);
    let names: Vec<_> = results.operations.iter().map(|m| m.name.as_str()).collect();
    let all =
        ["pio-exit", "mmio-exit", "empty-loop", "hypercall", "doorbell", "doorbell-unbound", "port-write"];
    assert_eq!(names, all);
    for m in &results.operations {
        assert_eq!(m.group, Group::Exits);
        check(m, 3);
    }
    // hv counts what the guest does: one exit a call, none for a bound doorbell.
    let exits = |name: &str| of(&results, name).exits_per_operation();
    assert!((exits("hypercall") - 1.0).abs() < 0.05, "{}", exits("hypercall"));
    assert!((exits("doorbell-unbound") - 1.0).abs() < 0.05, "{}", exits("doorbell-unbound"));
    assert!(exits("doorbell") < 0.2 && exits("empty-loop") < 0.01);
    assert!(of(&results, "hypercall").exits.contains_key("nop"));
    // A turn of a loop is some cycles, a hypercall at least a thousand.
    assert!(of(&results, "empty-loop").median_ns.median * 100.0 < of(&results, "hypercall").median_ns.median);
    let against = of(&results, "hypercall").against.as_ref().expect("a comparison");
    assert_eq!(against.name, "pio-exit");
    in_order("ratio", &[against.ratio.low, against.ratio.median, against.ratio.high]);
    assert!(results.machine.cores > 0 && results.machine.tsc_khz > 0);
    assert!(results.machine.kernel.starts_with("Linux") && !results.machine.cpu.is_empty());
    // The program under test is not optimised, unless somebody gave another one.
    let said = results.noise.warnings.iter().any(|warning| warning.contains("--release"));
    assert_eq!(said, !results.program.optimised);
}

#[guest_test(kvm, "what is measured here is KVM")]
fn every_operation_of_every_group_can_be_measured(_: Platform) {
    let _alone = alone();
    let listed = ran(&["--list"]).text();
    let end = ran(&["all", "--quick", "--rounds", "1", "--format", "json"]);
    let results: Results = serde_json::from_str(&end.text()).expect("a result");
    for group in Group::ALL {
        assert!(results.operations.iter().any(|m| m.group == *group), "nothing in {}", group.name());
    }
    let names = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    assert!(names.eq(results.operations.iter().map(|m| m.name.as_str())), "{listed}");
    results.operations.iter().for_each(|m| check(m, 1));
    emulation_costs_what_it_must(&results);
    let points: Vec<_> = results
        .curves
        .iter()
        .map(|curve| curve.points.iter().map(|point| point.at).collect::<Vec<_>>())
        .collect();
    assert_eq!(points, [vec![1, 8, 64], vec![1, 8, 64]]);
}

/// Paravirtual operations beside their emulated counterparts.
#[track_caller]
fn emulation_costs_what_it_must(results: &Results) {
    // Accesses to registers, as the drivers make them.
    let near = |name: &str, kind: &str, expected: f64| {
        let found = of(results, name).exits.get(kind).copied().unwrap_or(0.0);
        assert!((found / expected - 1.0).abs() < 0.1, "{name}: {found} of {kind}, not {expected}");
    };
    near("port-write", "port", 1.0);
    near("clock-register", "port", 1.0);
    near("uart-byte", "port", 2.0);
    near("uart-64k", "port", f64::from((64 << 10) + (64 << 10) / 16));
    near("ata-512", "port", 256.0);
    near("ata-64k", "port", 128.0 * 256.0);
    // A notification is none, being an ioeventfd.
    for name in ["virtio-4k-d1", "virtio-4k-d32", "virtio-round-trip"] {
        let accesses = of(results, name).exits.get("mmio").copied().unwrap_or(0.0);
        assert!(accesses < 0.1, "{name}: {accesses} of mmio");
    }
    // Tens of thousands of exits on one side, a few on the other: this holds on any host and in any build.
    let time = |name: &str| of(results, name).time_ns.median;
    for (paravirtual, emulated, factor) in [
        ("console-64k", "uart-64k", 50.0),
        ("block-64k-d1", "ata-64k", 10.0),
        ("clock-page", "clock-register", 5.0),
        ("boot-look", "boot-probe", 1.0),
    ] {
        let (own, other) = (time(paravirtual), time(emulated));
        assert!(own * factor < other, "{paravirtual} takes {own} ns, {emulated} {other} ns");
    }
    let against = |name: &str| of(results, name).against.as_ref().map(|other| other.name.as_str());
    for (name, other) in [
        ("console-64k", "uart-64k"),
        ("block-4k-d1", "virtio-4k-d1"),
        ("block-4k-d32", "virtio-4k-d32"),
        ("ata-4k", "block-4k-d1"),
        ("net-round-trip", "virtio-round-trip"),
        ("net-stream", "virtio-stream"),
        ("clock-register", "clock-page"),
        ("boot-look", "boot-probe"),
    ] {
        assert_eq!(against(name), Some(other), "{name}");
    }
}

#[guest_test(kvm, "what is measured here is KVM")]
fn the_table_is_text_and_progress_goes_elsewhere(_: Platform) {
    let _alone = alone();
    // The bench guests are built by hv itself here, as for a person who has only the sources.
    let mut command = Command::new(hv());
    command.args(["bench", "clock-page", "--quick", "--rounds", "2"]).stdin(Stdio::null());
    let end = Running::new(&mut command).finish().expect(0);
    let table = end.text();
    assert!(!table.contains('\u{1b}'), "colours without a terminal");
    for part in ["Reading the time", "p99.9", "exits/op", "× rdtsc (", "2 rounds of"] {
        assert!(table.contains(part), "{part:?} in\n{table}");
    }
    // What an operation is compared with is measured, too; the rest is not.
    let rows = |name: &str| table.lines().filter(|line| line.starts_with(&format!("  {name} "))).count();
    assert_eq!((rows("rdtsc"), rows("clock-page"), rows("clock-hypercall")), (1, 1, 0));
    assert!(end.err.contains("hv bench: warm-up\n") && end.err.contains("hv bench: round 2 of 2\n"));
}

#[guest_test(kvm, "what is measured here is KVM")]
fn runs_are_compared(_: Platform) {
    let _alone = alone();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.json");
    let options = ["rdtsc", "empty-loop", "--quick", "--rounds", "2"];
    let old = ran(&[&options[..], &["--format", "json"]].concat()).text();
    // An old result in which one operation took next to nothing, and one has another name.
    let mut changed: Results = serde_json::from_str(&old).unwrap();
    let rdtsc = changed.operations.iter_mut().find(|m| m.name == "rdtsc").unwrap();
    rdtsc.median_ns = Spread { median: 0.1, low: 0.1, high: 0.1 };
    changed.operations.iter_mut().find(|m| m.name == "empty-loop").unwrap().name = "full-loop".into();
    changed.machine.kernel = "Linux 1.0".into();
    fs::write(&path, serde_json::to_string(&changed).unwrap()).unwrap();

    let compare = ["--compare", text(&path)];
    let table = ran(&[&options[..], &compare].concat()).text();
    let line = table.lines().rfind(|line| line.contains("rdtsc ")).expect("it is compared");
    assert!(line.ends_with("slower"), "{line}");
    for part in
        ["only in the old result: full-loop", "only in this one: empty-loop", "kernel: then Linux 1.0"]
    {
        assert!(table.contains(part), "{part:?} in\n{table}");
    }
    let json = ran(&[&options[..], &compare, &["--format", "json"]].concat()).text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["compared"]["changes"][0]["verdict"], "slower");
    assert_eq!(json["schema"], SCHEMA);
}

/// A screenshot: rows of pixels, red, green and blue.
struct Picture {
    width: usize,
    rows: Vec<Vec<[u8; 3]>>,
}

impl Picture {
    fn read(path: &Path) -> Picture {
        let file = std::io::BufReader::new(fs::File::open(path).expect("there is a screenshot"));
        let mut reader = png::Decoder::new(file).read_info().expect("it is a PNG");
        let mut bytes = vec![0; reader.output_buffer_size().expect("it fits into memory")];
        let info = reader.next_frame(&mut bytes).expect("it is whole");
        assert_eq!(info.bit_depth, png::BitDepth::Eight);
        let size = info.color_type.samples();
        assert!(size >= 3, "a screenshot has colours");
        let rows = bytes[..info.buffer_size()]
            .chunks_exact(info.line_size)
            .map(|row| row.chunks_exact(size).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect());
        Picture { width: info.width as usize, rows: rows.collect() }
    }

    fn count(&self, colour: [u8; 3]) -> usize {
        let near = |pixel: &&[u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 4);
        self.rows.iter().flatten().filter(near).count()
    }
}

/// The `n`th value of a colour in the page's style sheet: light is 0, dark 1.
fn colour(page: &str, name: &str, n: usize) -> [u8; 3] {
    let hex = page.split(&format!("--{name}: #")).nth(n + 1).expect("the style sheet has the colour");
    [0, 2, 4].map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
}

#[guest_test(kvm, "what is measured here is KVM")]
fn the_report_shows_its_plots_in_a_browser(_: Platform) {
    if !has_tools(&["chromium"]) {
        return;
    }
    let _alone = alone();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("report.html");
    let what = ["rdtsc", "clock-page", "ring-1", "ring-8", "ring-64", "--quick", "--rounds", "2"];
    ran(&[&what[..], &["--report", text(&path)]].concat());
    let page = fs::read_to_string(&path).unwrap();

    for (scheme, flag) in [(0, "preferredColorScheme=1"), (1, "preferredColorScheme=0")] {
        for width in [390, 1200] {
            let shot = folder.path().join("shot.png");
            let profile = TempDir::new().unwrap();
            let mut browser = Command::new("chromium");
            browser
                .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
                .args(["--force-device-scale-factor=1", &format!("--window-size={width},4000")])
                .arg(format!("--user-data-dir={}", profile.path().display()))
                .arg(format!("--blink-settings={flag}"))
                .arg(format!("--screenshot={}", shot.display()))
                .arg(format!("file://{}", path.display()))
                .stdin(Stdio::null());
            Running::new(&mut browser).finish().expect(0);
            let picture = Picture::read(&shot);
            let what = format!("scheme {scheme}, width {width}");
            assert_eq!(picture.width, width, "{what}");
            let background = colour(&page, "page", scheme);
            assert_eq!(picture.rows[2][2], background, "{what}: the page's own background");
            // Bars let 15 % of the page through; lines and marks nothing.
            let blend = |name: &str| {
                let own = colour(&page, name, scheme);
                [0, 1, 2].map(|n| (0.85 * f64::from(own[n]) + 0.15 * f64::from(background[n])).round() as u8)
            };
            for name in ["c0", "c1"] {
                let (bars, lines) = (picture.count(blend(name)), picture.count(colour(&page, name, scheme)));
                assert!(bars > 1000, "{what}: {bars} pixels of bars in {name}");
                assert!(lines > 150, "{what}: {lines} pixels of lines in {name}");
            }
            assert!(picture.count(colour(&page, "text", scheme)) > 500, "{what}: text");
            // Nothing reaches into the right margin: the page fits its window.
            let margin = picture.rows.iter().flat_map(|row| &row[width - 8..]);
            let beyond = margin.filter(|pixel| **pixel != background).count();
            assert_eq!(beyond, 0, "{what}: something is wider than the window");
            fs::remove_file(&shot).unwrap();
        }
    }
}

#[guest_test(kvm, "what is measured here is KVM")]
fn what_cannot_be_measured_is_refused_in_one_line(_: Platform) {
    refused(&mut bench(&["teleport"]), &["`teleport`", "groups: exits, console", "all", "hypercall"]);
    refused(&mut bench(&["exits", "--rounds", "0"]), &["--rounds 0", "1 to 1000"]);
    refused(&mut bench(&["--rounds", "1001"]), &["--rounds 1001"]);
    let empty = TempDir::new().unwrap();
    let mut command = Command::new(hv());
    command.args(["bench", "--images", text(empty.path())]);
    refused(&mut command, &[text(empty.path()), "bench", "No such file"]);
    // A guest that is none of these.
    fs::copy(guest("hello"), empty.path().join("bench")).unwrap();
    fs::copy(guest("hello"), empty.path().join("bench-null")).unwrap();
    let mut command = Command::new(hv());
    command.args(["bench", "--images", text(empty.path())]);
    refused(&mut command, &["bench guest", "@operations 1"]);
}

#[guest_test(kvm, "what is measured here is KVM")]
fn reports_that_cannot_be_written_are_refused_before_anything_is_measured(_: Platform) {
    let folder = TempDir::new().unwrap();
    let nowhere = folder.path().join("none/report.html");
    refused(&mut bench(&["exits", "--report", text(&nowhere)]), &[text(&nowhere), "cannot write", "folder"]);
    refused(&mut bench(&["exits", "--report", text(folder.path())]), &[text(folder.path()), "directory"]);
    // One that could be written is not left behind empty by a run that fails.
    let unused = folder.path().join("unused.html");
    refused(&mut bench(&["teleport", "--report", text(&unused)]), &["`teleport`"]);
    assert!(!unused.exists());
}

#[guest_test(kvm, "what is measured here is KVM")]
fn old_results_that_are_none_are_refused_before_anything_is_measured(_: Platform) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.json");
    let refuse = |parts: &[&str]| {
        let all = [&[text(&path)], parts].concat();
        refused(&mut bench(&["exits", "--compare", text(&path)]), &all)
    };
    refuse(&["cannot read"]);
    for (content, parts) in [
        ("", ["no result of hv bench", "--format json"]),
        ("<html>", ["no result of hv bench", "--format json"]),
        ("[1]", ["no result of hv bench", "--format json"]),
        ("{\"schema\": 1}", ["no result of hv bench", "missing field"]),
        ("{\"schema\": \"1\"}", ["no result of hv bench", "invalid type"]),
        ("{\"schema\": 99, \"anything\": true}", ["version 99", "measure anew"]),
    ] {
        fs::write(&path, content).unwrap();
        refuse(&parts);
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    refuse(&["cannot read", "UTF-8"]);
}

#[test]
fn without_kvm_there_is_one_line() {
    if !has_tools(&["unshare", "mount"]) {
        return;
    }
    if !Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success()) {
        hv_tests::skip("needs the right to make mounts of its own");
        return;
    }
    let (hv, guests) = (hv(), guest("bench"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
    command.arg(hv).args(["bench", "exits", "--images"]).arg(guests.parent().unwrap());
    refused(&mut command, &["/dev/kvm", "missing", "kvm_intel, kvm_amd or kvm_pvm"]);
}
