//! `hv bench`: the result in all of its forms, and what is refused.

use hv_bench::operation::Group;
use hv_bench::result::{Measurement, Results, SCHEMA};
use hv_stats::{Estimate, Verdict};
use hv_tests::refusal::{refused, text};
use hv_tests::{Finished, Platform, Running, guest, guest_test, has_tools, hv};
use std::fs;
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
fn estimate(name: &str, Estimate { median, interval, n }: Estimate, rounds: u32) {
    let [low, high] = interval.unwrap_or([median; 2]);
    in_order(name, &[low, median, high]);
    assert_eq!(n, rounds, "{name}");
    // Fewer say too little for one.
    assert_eq!(interval.is_some(), n >= 6, "{name}");
}

#[track_caller]
fn check(m: &Measurement, rounds: u32) {
    let name = &m.name;
    let l = &m.latency_ns;
    let percentiles = l.percentiles.iter().map(|(_, nanos)| *nanos);
    in_order(name, &[l.min].into_iter().chain(percentiles).chain([l.max]).collect::<Vec<_>>());
    for &(percent, _) in &l.percentiles {
        // Ten samples lie beyond it.
        assert!(
            m.samples as f64 * (100.0 - percent).min(percent) / 100.0 > 9.99,
            "{name}: {percent} of {}",
            m.samples
        );
    }
    for value in [m.median_ns, m.time_ns, m.cpu_ns] {
        estimate(name, value, rounds);
    }
    assert_eq!(m.rounds.len(), rounds as usize, "{name}");
    assert_eq!(m.rounds.iter().map(|round| round.operations).sum::<u64>(), m.count, "{name}");
    assert_eq!(m.histogram_ps.iter().map(|(_, count)| count).sum::<u64>(), m.samples, "{name}");
    assert!(m.samples > 0 && m.count >= m.samples && m.time_ns.median > 0.0 && m.per_second > 0.0, "{m:?}");
    assert!(!m.what.is_empty());
    if let Some(against) = &m.against {
        assert_eq!(against.ratios.len(), rounds as usize, "{name}");
        estimate(name, against.ratio, rounds);
        assert!(against.apart_ms > 0.0, "{name}");
    }
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
    let all = [
        "pio-exit",
        "mmio-exit",
        "empty-loop",
        "hypercall",
        "doorbell",
        "doorbell-unbound",
        "port-write",
        "cpuid",
        "block-expired",
        "walk",
        "walk-after-exit",
    ];
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
    // Three rounds are too few for a claim.
    assert_eq!((against.ratio.interval, against.verdict), (None, Verdict::NotCompared));
    // What the reading of the counter takes is known, and taken off.
    assert!(results.operations.iter().all(|m| m.overhead_ns > 0.0));
    assert!(results.settings.timer_ns.iter().all(|nanos| *nanos > 0.0));
    assert_eq!((results.program.build.len(), results.program.guest.len()), (16, 16));
    // Those that are compared take turns: within the rounds of one, there are those of the other.
    let at = |name: &str| of(&results, name).rounds.iter().map(|round| round.at_ms).collect::<Vec<_>>();
    for (own, other) in at("hypercall").windows(2).zip(at("pio-exit").windows(2)) {
        assert!(own[0] < other[1] && other[0] < own[1], "{own:?}, {other:?}");
    }
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
    near("clock-worst-acpi", "port", 1.0);
    near("clock-worst-hpet", "mmio", 1.0);
    near("uart-worst-byte", "port", 2.0);
    near("uart-worst-line", "port", 85.0);
    // The command's six registers, and for each sector the status, and the data: by one instruction or by 256.
    near("ata-512", "port", 6.0 + 2.0);
    near("ata-4k", "port", 6.0 + 8.0 * 2.0);
    near("ata-worst-512", "port", 6.0 + 257.0);
    // The bus master's table, command, status and the end, and the disk's status.
    near("ata-dma-4k", "port", 6.0 + 7.0);
    near("ata-dma-64k", "port", 6.0 + 7.0);
    // A notification is none, being an ioeventfd.
    for name in
        ["virtio-4k-d1", "virtio-4k-d32", "virtio-4k-d1-asleep", "virtio-64k-delivered", "virtio-round-trip"]
    {
        let accesses = of(results, name).exits.get("mmio").copied().unwrap_or(0.0);
        assert!(accesses < 0.1, "{name}: {accesses} of mmio");
    }
    // Tens of thousands of exits on one side, a few on the other: this holds on any host and in any build.
    let time = |name: &str| of(results, name).time_ns.median;
    for (paravirtual, emulated, factor) in [
        ("console-line", "uart-worst-line", 5.0),
        ("block-512-d1", "ata-worst-512", 5.0),
        ("clock-page", "clock-worst-acpi", 5.0),
        ("boot-look", "boot-worst-probe", 1.0),
    ] {
        let (own, other) = (time(paravirtual), time(emulated));
        assert!(own * factor < other, "{paravirtual} takes {own} ns, {emulated} {other} ns");
    }
    let against = |name: &str| of(results, name).against.as_ref().map(|other| other.name.as_str());
    for (name, other) in [
        ("console-line", "uart-worst-line"),
        ("console-line-delivered", "virtio-line-delivered"),
        ("console-64k-delivered", "virtio-64k-delivered"),
        ("block-4k-d1-asleep", "virtio-4k-d1-asleep"),
        ("block-4k-d32-asleep", "virtio-4k-d32-asleep"),
        ("block-4k-d1", "virtio-4k-d1"),
        ("block-4k-d32", "virtio-4k-d32"),
        ("ata-4k", "block-4k-d1"),
        ("net-round-trip", "virtio-round-trip"),
        ("net-stream", "virtio-stream"),
        ("clock-page", "clock-kvmclock"),
        ("clock-worst-acpi", "clock-page"),
        ("clock-worst-hpet", "clock-page"),
        ("boot-look", "boot-virtio"),
        ("boot-worst-probe", "boot-look"),
        ("clone-warm", "clone-cold"),
        ("process-hypercall", "futex-spinning"),
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
    for part in
        ["Reading the time", "p99.9", "exits/op", "× clock-kvmclock, not compared (n = 2)", "2 rounds of"]
    {
        assert!(table.contains(part), "{part:?} in\n{table}");
    }
    // What an operation is compared with is measured, too; the rest is not.
    let rows = |name: &str| table.lines().filter(|line| line.starts_with(&format!("  {name} "))).count();
    assert_eq!((rows("clock-kvmclock"), rows("clock-page"), rows("clock-hypercall")), (1, 1, 0));
    assert!(end.err.contains("hv bench: warm-up\n") && end.err.contains("hv bench: round 2 of 2\n"));
}

#[test]
fn the_help_names_every_group() {
    let mut command = Command::new(hv());
    let help = Running::new(command.args(["bench", "--help"]).stdin(Stdio::null())).finish().expect(0).text();
    let (_, groups) = help.split_once("Groups (").expect("they are listed");
    let (groups, _) = groups.split_once(')').expect("they are listed");
    let groups = groups.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(groups, Group::ALL.iter().map(|group| group.name()).collect::<Vec<_>>().join(", "));
}

#[guest_test(kvm, "what is measured here is KVM")]
fn what_is_listed_is_what_was_asked_for(_: Platform) {
    let names = |arguments: &[&str]| {
        let listed = ran(arguments).text();
        listed
            .lines()
            .filter_map(|line| Some(line.strip_prefix("  ")?.split(' ').next()?.to_owned()))
            .collect::<Vec<_>>()
    };
    let all = names(&["--list"]);
    assert!(all.len() > 40 && all == names(&["--list", "all"]));
    assert_eq!(
        names(&["--list", "time"]),
        ["rdtsc", "clock-page", "clock-hypercall", "clock-kvmclock", "clock-worst-acpi", "clock-worst-hpet"]
    );
    assert_eq!(names(&["--list", "hypercall", "rdtsc"]), ["hypercall", "rdtsc"]);
    refused(&mut bench(&["--list", "teleport"]), &["`teleport`"]);
}

#[guest_test(kvm, "what is measured here is KVM")]
fn what_cannot_be_measured_is_refused_in_one_line(_: Platform) {
    refused(&mut bench(&["teleport"]), &["`teleport`", "groups: exits, console", "all", "hypercall"]);
    refused(&mut bench(&["exits", "--rounds", "0"]), &["--rounds 0", "1 to 1000"]);
    refused(&mut bench(&["--rounds", "1001"]), &["--rounds 1001"]);
    refused(&mut bench(&["--pin", "one"]), &["--pin one", "0,2-3"]);
    refused(&mut bench(&["--pin", "1000"]), &["--pin 1000", "taskset"]);
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

#[guest_test(kvm, "peers stand beside a guest on KVM")]
fn peers_stand_beside_hv(_: Platform) {
    let _alone = alone();
    let hello = guest("hello");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(hv());
        command.args(["bench", "peers", "--images"]).arg(hello.parent().unwrap()).args(arguments);
        Running::new(command.stdin(Stdio::null())).finish()
    };
    let end = run(&["--rounds", "2", "--format", "json", "--peer", "runsc=/nowhere/runsc"]).expect(0);
    let peers: serde_json::Value = serde_json::from_str(&end.text()).expect("a result");
    let list = |field: &str| peers[field].as_array().expect("a list").clone();
    let names = |field: &str| -> Vec<String> {
        list(field).iter().map(|peer| peer["name"].as_str().expect("a name").into()).collect()
    };
    assert_eq!((peers["kind"].as_str(), peers["schema"].as_u64()), (Some("peers"), Some(2)));
    for own in ["hv", "hv-process", "program"] {
        assert!(names("peers").iter().any(|name| name == own), "{peers}");
    }
    // The others are measured, or it is said why not; one that is named in vain is among these.
    let mut all = [names("peers"), names("left")].concat();
    all.sort();
    assert_eq!(all, ["crun", "hv", "hv-process", "program", "qemu-microvm", "runc", "runsc"]);
    assert!(names("left").contains(&"runsc".into()));
    for peer in list("peers") {
        assert_eq!(peer["whole_ns"]["n"], 2, "{peer}");
        assert!(peer["first_byte_ns"]["median"].as_f64() <= peer["whole_ns"]["median"].as_f64(), "{peer}");
        assert!(!peer["command"].as_array().expect("a command").is_empty(), "{peer}");
    }
    let wrong = run(&["--peer", "xen=/x"]).expect(2);
    assert!(wrong.err.contains("NAME is one of crun, runc, runsc, qemu-microvm"), "{}", wrong.err);
}
