//! System calls of a guest: none of them does anything.

use super::guests::Neighbours;
use hv::Outcome;
use hv::crash::CrashReport;
use hv_tests::{Platform, guest_test};
use std::os::unix::process::ExitStatusExt;

/// The handoff page, and its word that is 1 for an eventfd.
const PAGE: u64 = 0x2000_0000;
const ONE: u64 = PAGE + 56;

/// The report of a system call names the function that made it.
#[track_caller]
fn names_the_call(report: &CrashReport, function: &str) {
    assert!(report.reason.starts_with("made a Linux system call"), "{report}");
    let innermost = report.backtrace.first().and_then(|frame| frame.function.as_deref());
    assert_eq!(innermost, Some(function), "{report}");
}

/// Expects that a call is not made.
#[track_caller]
fn refused(guests: &Neighbours, way: &str, number: u64) {
    // `uretprobe` and `uprobe`: newer kernels do not ask the filter about them. Called from
    // anywhere but the kernel's own probes, they do nothing: the one is SIGILL, the other an error.
    const UPROBE: u64 = 336;
    let meddler = guests.meddler(&[way, &number.to_string()]);
    match meddler.guest.wait() {
        Outcome::Crashed(report) => names_the_call(&report, "raw::call"),
        Outcome::Exited(0) if number == UPROBE => {
            assert!(meddler.output.text().starts_with("returned -"), "{}", meddler.output.text());
        }
        other => panic!("{way} {number:#x}: {other:?}"),
    }
}

#[guest_test(process, "a virtual machine reaches no system call of the host")]
fn every_number_ends_its_caller_and_nobody_else(platform: Platform) {
    const X32: u64 = 0x4000_0000;
    let guests = Neighbours::new(platform, 2);
    let numbers = (0..=600).chain((0..=600).map(|n| X32 | n)).chain([
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000 + 600,
        u64::MAX,
    ]);
    for number in numbers {
        refused(&guests, "call", number);
        if number % 100 == 0 {
            guests.behave();
        }
    }
    // With arguments that would let them do something.
    for number in 0..=600 {
        refused(&guests, "call-with-memory", number);
    }
    guests.behave();
}

#[guest_test(process, "a virtual machine reaches no system call of the host")]
fn the_two_allowed_calls_with_other_arguments_are_no_better(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    const FUTEX: u64 = 202;
    const WRITE: u64 = 1;
    // Word, operation, value, timeout; then descriptor, address, length.
    let futexes = [
        [PAGE + 4, 0, 1, 0],
        [PAGE, 0, 1, PAGE],
        [PAGE | 1 << 32, 1, 1, 0],
        [PAGE, 128, 1, 0],
        [PAGE, 129, 1, 0],
        [PAGE, 2, 1, 0],
        [PAGE, 3, 1, 1],
        [PAGE, 4, 1, 1],
        [PAGE, 5, 1, 1],
        [PAGE, 6, 0, 0],
        [PAGE, 9, 1, 0],
        // To sleep in its turn, which costs the guest nothing, and others their processor.
        [PAGE, 0, 0, 0],
        [PAGE, 0, 1, 0],
        [PAGE, 0, 2, 0],
        [PAGE, 0, 4, 0],
        [PAGE, 0, u64::from(u32::MAX), 0],
    ];
    let writes = [
        [0, ONE, 8],
        [1, ONE, 8],
        [66, ONE, 8],
        [1 << 31, ONE, 8],
        [2, ONE, 7],
        [2, ONE - 8, 8],
        [2, ONE, 9],
    ];
    let futexes = futexes.iter().map(|arguments| (FUTEX, arguments.as_slice()));
    let writes = writes.iter().map(|arguments| (WRITE, arguments.as_slice()));
    for (number, arguments) in futexes.chain(writes) {
        let texts: Vec<_> = [&[number], arguments].concat().iter().map(u64::to_string).collect();
        let mut call = vec!["call"];
        call.extend(texts.iter().map(String::as_str));
        names_the_call(&guests.crash(&call), "raw::call");
    }
}

#[guest_test(process, "a virtual machine reaches no system call of the host")]
fn the_two_allowed_calls_do_what_they_may(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    let (page, one) = (PAGE.to_string(), ONE.to_string());
    // It may sleep while hv has control, which it has not.
    let awake = guests.meddler(&["call", "202", &page, "0", "3", "0"]);
    assert!(matches!(awake.guest.wait(), Outcome::Exited(0)));
    assert_eq!(awake.output.text(), "returned -11\n");
    let awake = guests.meddler(&["call", "202", &page, "1", "1000"]);
    assert!(matches!(awake.guest.wait(), Outcome::Exited(0)));
    assert!(awake.output.text().starts_with("returned "));
    // Its doorbells, and numbers beyond them.
    for descriptor in ["2", "3", "64", "65"] {
        let bell = guests.meddler(&["call", "1", descriptor, &one, "8"]);
        assert!(matches!(bell.guest.wait(), Outcome::Exited(0)));
        let text = bell.output.text();
        assert!(["returned 8\n", "returned -9\n"].contains(&text.as_str()), "{descriptor}: {text}");
    }
    let storm = guests.meddler(&["calls", "1", "2", &one, "8"]);
    guests.behave();
    storm.stop();
}

#[guest_test(process, "a virtual machine reaches no system call of the host")]
fn other_ways_into_the_kernel_end_the_guest_as_well(platform: Platform) {
    let guests = Neighbours::new(platform, 1);
    let mut reports = Vec::new();
    for number in ["0", "1", "4", "20", "240", "999999"] {
        let report = guests.crash(&["int80", number]);
        assert!(report.reason.contains("int 0x80"), "{number}: {report}");
        reports.push(report);
        // An invalid opcode on some processors, an entry of 32-bit programs on others.
        guests.crash(&["sysenter", number]);
    }
    reports.extend(["0", "1", "2"].map(|n| guests.crash(&["vsyscall", n])));
    // There is no fourth function.
    guests.crash(&["vsyscall", "3"]);
    for report in reports {
        // Inlined, it is called `int80` there.
        let named = |name: &str| ["int80", "vsyscall"].iter().any(|function| name.ends_with(function));
        let first = report.backtrace.first().and_then(|frame| frame.function.as_deref());
        assert!(first.is_some_and(named), "{report}");
    }
    guests.behave();
}

/// Calls that would reach hv, this test or the host, were they made: by number and arguments.
#[guest_test(process, "a virtual machine reaches no system call of the host")]
fn calls_that_would_harm_others_are_not_made(platform: Platform) {
    // A process of the same user; without namespaces, and without the filter, all of these would succeed.
    let mut victim = hv_tests::Running::new(std::process::Command::new("sleep").arg("1000000"));
    let pid = victim.child.id().to_string();
    let pid = pid.as_str();
    let page = PAGE.to_string();
    let calls: [(&str, &[&str]); 24] = [
        ("kill", &["62", pid, "9"]),
        ("kill all", &["62", "0xffffffffffffffff", "9"]),
        ("tkill", &["200", pid, "9"]),
        ("tgkill", &["234", pid, pid, "9"]),
        ("pidfd_open", &["434", pid, "0"]),
        ("pidfd_send_signal", &["424", "2", "9", "0", "0"]),
        ("process_vm_writev", &["311", pid, &page, "1", &page, "1", "0"]),
        ("ptrace", &["101", "16", pid, "0", "0"]),
        ("open", &["2", &page, "0x42", "0x1ff"]),
        ("openat", &["257", "0xffffff9c", &page, "0x42", "0x1ff"]),
        ("fork", &["57"]),
        ("vfork", &["58"]),
        ("clone", &["56", "0x11"]),
        ("clone3", &["435", &page, "88"]),
        ("dup", &["32", "2"]),
        ("eventfd2", &["290", "0", "0"]),
        ("socket", &["41", "1", "1", "0"]),
        ("mmap", &["9", "0", "4096", "7", "34", "0xffffffffffffffff", "0"]),
        ("mprotect", &["10", &page, "4096", "7"]),
        ("prctl", &["157", "4", "1"]),
        ("sched_setaffinity", &["203", "0", "8", &page]),
        ("rt_sigprocmask", &["14", "0", &page, "0", "8"]),
        ("rt_sigreturn", &["15"]),
        ("setrlimit", &["160", "0", &page]),
    ];
    for (name, call) in calls {
        let out = platform.ran("raw", &[], &[&["call"], call].concat());
        assert_eq!(out.status.signal(), None, "{name}");
        let out = out.expect(101);
        assert!(out.err.contains("made a Linux system call"), "{name}: {}", out.err);
        assert_eq!(victim.child.try_wait().unwrap(), None, "{name}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("TracerPid:\t0\n"), "{name}");
    }
}

/// What a guest's process has, seen from the host while the guest lives.
#[guest_test(process, "a virtual machine reaches no system call of the host")]
fn a_process_has_no_rights_and_no_descriptors_but_its_doorbells(platform: Platform) {
    let hv = hv_tests::Running::new(&mut platform.run("raw", &["--net", "user"], &["sleep"]));
    let [process] = super::apart::guests_of(hv.child.id(), 1)[..] else { unreachable!("one was asked for") };
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2".into(), "1".into()), "{status}");
    // Nothing is held back that hv may send.
    assert_eq!(field("SigBlk"), "0000000000000000", "{status}");
    assert_eq!(field("Threads"), "1", "{status}");
    // Its descriptors can be seen by root only: a process that gave up its rights shows nothing.
    match std::fs::read_dir(format!("/proc/{process}/fd")) {
        Err(error) => hv_tests::skip(format_args!("needs the right to see descriptors: {error}")),
        Ok(descriptors) => {
            for descriptor in descriptors {
                let target = std::fs::read_link(descriptor.unwrap().path()).unwrap();
                assert_eq!(target.to_string_lossy(), "anon_inode:[eventfd]");
            }
        }
    }
}
