//! Upcalls: guests that events interrupt.

use hv::device::stdio::Buffer;
use hv::snapshot::Snapshot;
use hv::{Builder, Guest, Image, Outcome, Restore};
use hv_tests::{Platform, eventually, guest, guest_test};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn builder(arguments: &[&str]) -> (Builder, Buffer) {
    let output = Buffer::default();
    let builder = Builder::new(Arc::new(Image::open(&guest("upcall")).unwrap())).memory(4 << 20);
    let builder = builder.output(output.clone());
    (arguments.iter().fold(builder, |builder, argument| builder.argument(argument)), output)
}

/// What is counted under a name.
fn counted(guest: &Guest, name: &str) -> u64 {
    guest.counters().iter().find(|(counter, _)| *counter == name).map_or(0, |(_, count)| *count)
}

/// Runs a guest to its end, and raises its event all the time.
fn run(platform: Platform, workers: usize, arguments: &[&str]) -> (Guest, Outcome, String) {
    let engine = platform.engine(workers);
    let (builder, output) = builder(arguments);
    let guest = builder.spawn(&engine).unwrap();
    let controller = guest.controller();
    let ended = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u64;
            while !ended.load(Ordering::Relaxed) {
                controller.request_shutdown();
                // At all distances from the exits that the guest makes itself.
                round += 1;
                std::thread::sleep(Duration::from_micros(round * 7 % 200));
            }
        });
        let outcome = guest.wait();
        ended.store(true, Ordering::Relaxed);
        outcome
    });
    (guest, outcome, output.text())
}

/// Runs a guest that checks everything by itself.
#[track_caller]
fn holds(platform: Platform, arguments: &[&str]) {
    for workers in [0, 2] {
        let (_, outcome, output) = run(platform, workers, arguments);
        assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}\n{output}");
        assert!(output.ends_with("done\n"), "{output}");
    }
}

#[guest_test]
fn an_upcall_interrupts_a_guest_that_never_calls(platform: Platform) {
    holds(platform, &["spin", "300"]);
}

#[guest_test]
fn registers_flags_and_the_red_zone_survive_thousands_of_upcalls(platform: Platform) {
    holds(platform, &["patterns", "3000"]);
}

#[guest_test]
fn a_handler_that_unmasks_early_is_interrupted_itself(platform: Platform) {
    holds(platform, &["nested", "400"]);
}

#[guest_test]
fn masked_upcalls_come_with_the_unmasking(platform: Platform) {
    holds(platform, &["masked", "100"]);
}

#[guest_test]
fn a_blocked_guest_wakes_up_in_its_handler(platform: Platform) {
    holds(platform, &["blocked", "1000"]);
}

#[guest_test]
fn a_handler_wakes_a_task(platform: Platform) {
    holds(platform, &["async", "1000"]);
}

#[guest_test]
fn a_handler_is_code_of_the_guest(platform: Platform) {
    holds(platform, &["bad-handlers"]);
}

#[guest_test]
fn a_handler_that_is_taken_away_is_not_called(platform: Platform) {
    holds(platform, &["taken-away", "20"]);
}

#[guest_test]
fn no_result_of_a_call_is_lost_and_no_call_made_twice(platform: Platform) {
    let (guest, outcome, output) = run(platform, 2, &["calls", "4000"]);
    assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}\n{output}");
    let line = output.lines().find_map(|line| line.strip_prefix("calls ")).expect("the guest tells");
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
    let (made, handlers) = (numbers[0], numbers[1]);
    assert!(handlers >= 4000, "{handlers}");
    let found = [counted(&guest, "entropy"), counted(&guest, "wall_clock")];
    assert_eq!(found, [made + handlers, handlers]);
}

/// The report of a guest that has to crash.
#[track_caller]
fn crashed(platform: Platform, arguments: &[&str]) -> Box<hv::crash::CrashReport> {
    let (_, outcome, output) = run(platform, 1, arguments);
    let Outcome::Crashed(report) = outcome else { panic!("no crash: {outcome:?}\n{output}") };
    report
}

#[guest_test]
fn a_crash_in_a_handler_leads_back_to_what_it_interrupted(platform: Platform) {
    let report = crashed(platform, &["crash"]);
    assert!(report.reason.contains("null pointer"), "{report}");
    let names: Vec<_> = report.backtrace.iter().filter_map(|frame| frame.function.as_deref()).collect();
    let mut rest = names.iter();
    for name in ["crashing_handler", "hv_upcall", "interrupted_function", "main"] {
        assert!(rest.any(|found| found.contains(name)), "no {name} in its place in {names:?}");
    }
}

#[guest_test]
fn a_stack_pointer_that_leads_nowhere_ends_its_guest_only(platform: Platform) {
    let other_engine = platform.engine(1);
    let (other, _) = builder(&["spin", "1"]);
    let other = other.spawn(&other_engine).unwrap();
    for garbage in 0..7 {
        let report = crashed(platform, &["lost-stack", &garbage.to_string()]);
        let pointer = report.registers.expect("it has registers").rsp;
        let expected =
            format!("an upcall found no stack that the guest can write: its stack pointer is {pointer:#x}");
        assert_eq!(report.reason, expected);
    }
    eventually("the other guest's end", || {
        other.controller().request_shutdown();
        other.outcome()
    });
}

#[guest_test]
fn a_handler_is_saved_with_its_guest(platform: Platform) {
    let engine = platform.engine(1);
    let (builder, output) = builder(&["clone"]);
    let first = builder.pause_at_ready().spawn(&engine).unwrap();
    assert!(first.wait_paused(Duration::from_secs(60)));
    assert_eq!(output.text(), "before\n");
    let snapshot = first.capture().unwrap();
    assert_ne!(snapshot.saved().places.upcall, 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snap");
    snapshot.write(&path).unwrap();
    drop(first);
    let read = Snapshot::open(&path, &engine).unwrap();
    assert_eq!(read.saved().places, snapshot.saved().places);
    for snapshot in [Arc::new(snapshot), Arc::new(read)] {
        let output = Buffer::default();
        let clone = Restore::new(snapshot).output(output.clone()).spawn(&engine).unwrap();
        let outcome = clone.wait();
        assert!(matches!(outcome, Outcome::Exited(0)), "{outcome:?}");
        assert_eq!(output.text(), "after\ndone\n");
    }
}
