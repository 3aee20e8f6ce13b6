use super::super::{Facts, Limit, Memory, Process, State, Tap, Virtualization, text};
use super::*;
use hv_host::machine::Machine;
use std::collections::BTreeMap;

fn machine() -> Machine {
    Machine {
        cpu: "a processor".into(),
        cores: 2,
        memory: 8 << 30,
        kernel: "Linux 6.18".into(),
        kvm: "kvm_intel".into(),
        hardware_virtualization: true,
        nested: false,
        clock_source: "tsc".into(),
        tsc_khz: 2_700_000,
        frequency_scaling: "none".into(),
        mitigations: BTreeMap::new(),
    }
}

/// A host that has everything.
fn rich() -> Facts {
    let limit = Limit { soft: Some(20_000), hard: Some(20_000) };
    Facts {
        machine: machine(),
        kvm: Virtualization { hypercall: Ok(Duration::from_nanos(900)) },
        process: Process { hypercall: Ok(Duration::from_micros(1)), no_namespaces: None },
        no_seccomp: None,
        landlock: Ok(6),
        no_io_uring: None,
        tap: Tap::Usable { may_make: true },
        max_user_namespaces: Some(10_000),
        forbidding: Vec::new(),
        files: limit,
        processes: limit,
        max_mappings: Some(65_530),
        huge_pages: [Some("madvise".into()), Some("advise".into())],
        memory: Memory { total: 8 << 30, available: 6 << 30, group: None },
        overcommit: Some(0),
        merging: Some(1),
        pagemap_scan: true,
        invariant_tsc: true,
        rdrand: true,
    }
}

fn find(facts: &Facts, name: &str) -> Finding {
    let found = assess(facts).findings.into_iter().find(|finding| finding.name == name);
    found.unwrap_or_else(|| panic!("there is a finding {name}"))
}

#[test]
fn equal_pages_are_merged_or_could_be() {
    let found = |merging| find(&Facts { merging, ..rich() }, "equal-pages");
    assert_eq!(found(Some(1)).found, "merged");
    let stopped = found(Some(0));
    assert!(stopped.state == State::Ok && stopped.means.contains("ksm/run"), "{stopped:?}");
    let none = found(None);
    assert!(none.state == State::Weaker && none.remedy.is_some_and(|remedy| remedy.contains("CONFIG_KSM")));
}

#[test]
fn a_rich_host_lacks_nothing() {
    let report = assess(&rich());
    assert_eq!((report.can_run, report.platform), (true, Some("kvm")));
    for finding in &report.findings {
        assert_eq!((finding.state, &finding.remedy), (State::Ok, &None), "{finding:?}");
    }
    let mut names: Vec<_> = report.findings.iter().map(|finding| finding.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), report.findings.len(), "names are unique");
}

#[test]
fn whatever_is_not_ok_has_a_remedy() {
    let none = Limit { soft: Some(20), hard: Some(70) };
    let poor = Facts {
        kvm: Virtualization { hypercall: Err("/dev/kvm is missing: load a module".into()) },
        process: Process { hypercall: Err("platform process: no; raise it".into()), no_namespaces: None },
        no_seccomp: Some("no".into()),
        landlock: Err("no".into()),
        no_io_uring: Some("no".into()),
        tap: Tap::NoDevice,
        max_user_namespaces: Some(0),
        files: none,
        processes: none,
        max_mappings: Some(1100),
        huge_pages: [Some("never".into()), None],
        memory: Memory { total: 8 << 30, available: 6 << 30, group: Some(64 << 20) },
        overcommit: Some(2),
        merging: None,
        pagemap_scan: false,
        invariant_tsc: false,
        rdrand: false,
        ..rich()
    };
    let report = assess(&poor);
    assert_eq!((report.can_run, report.platform), (false, None));
    for finding in &report.findings {
        assert!(finding.state != State::Ok && finding.remedy.is_some(), "{finding:?}");
    }
    let kvm = find(&poor, "kvm");
    assert_eq!((kvm.found.as_str(), kvm.remedy.as_deref()), ("/dev/kvm is missing", Some("load a module")));
    let process = find(&poor, "process");
    assert_eq!((process.found.as_str(), process.remedy.as_deref()), ("no", Some("raise it")));
    assert!(text::table(&report, false).ends_with("Guests cannot run here.\n"));
}

#[test]
fn without_kvm_there_are_processes() {
    let facts = Facts { kvm: Virtualization { hypercall: Err("none".into()) }, ..rich() };
    assert_eq!(assess(&facts).platform, Some("process"));
    assert_eq!(find(&facts, "platform-auto").state, State::Weaker);
}

#[test]
fn software_kvm_is_slower() {
    let mut facts = rich();
    facts.machine.hardware_virtualization = false;
    facts.kvm.hypercall = Ok(Duration::from_nanos(2345));
    let kvm = find(&facts, "kvm");
    assert_eq!((kvm.state, kvm.figures["exit_ns"]), (State::Slower, 2345));
    assert!(kvm.found.contains("software") && kvm.found.contains("2.35 µs"), "{}", kvm.found);
}

#[test]
fn the_setting_that_forbids_namespaces_is_named() {
    let mut facts = rich();
    facts.process.no_namespaces = Some("user namespaces are forbidden".into());
    let remedy = |facts: &Facts| find(facts, "user-namespaces").remedy.unwrap();
    assert!(remedy(&facts).contains("CLONE_NEWUSER"));
    facts.forbidding = vec!["kernel.unprivileged_userns_clone=1"];
    assert_eq!(remedy(&facts), "sysctl -w kernel.unprivileged_userns_clone=1");
    facts.max_user_namespaces = Some(0);
    assert_eq!(remedy(&facts), "sysctl -w user.max_user_namespaces=10000");
    facts.max_user_namespaces = None;
    assert!(remedy(&facts).contains("CONFIG_USER_NS"));
    assert_eq!(find(&facts, "process").state, State::Weaker);
}

#[test]
fn the_table_has_colours_only_where_they_are_wanted() {
    let report = assess(&rich());
    assert!(text::table(&report, true).contains("\x1b[32mok"));
    assert!(!text::table(&report, false).contains('\x1b'));
}
