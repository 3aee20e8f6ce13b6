//! What a guest prints on its two streams, and where that goes.

use hv::device::stdio::Buffer;
use hv::{Builder, Image, Outcome};
use hv_tests::refusal::finished;
use hv_tests::{Finished, Running, can_run_guests, engine, guest, ran, run};
use std::time::Duration;

/// Checks what the probe prints on both streams.
#[track_caller]
fn both(end: &Finished) {
    assert_eq!(end.text(), "data\nmore data\n");
    let lines: Vec<_> = end.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", end.err);
    assert_eq!(lines[0], "error");
    assert!(lines[1].starts_with('[') && lines[1].ends_with("INFO  probe: information"), "{}", lines[1]);
    assert_eq!((lines[2], lines[3]), ("long ".repeat(2000).as_str(), ""));
}

#[test]
fn output_and_errors_are_apart() {
    if !can_run_guests() {
        return;
    }
    both(&ran("probe", &[], &["streams"]).expect(0));
}

#[test]
fn a_restored_guest_has_both_streams() {
    if !can_run_guests() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snap");
    let mut snapshot = hv_tests::command();
    snapshot.arg("snapshot").arg(guest("probe")).arg("-o").arg(&path).args(["--", "streams"]);
    finished(&mut snapshot).expect(0);
    both(&finished(hv_tests::command().arg("restore").arg(&path)).expect(0));
}

#[test]
fn the_log_level_is_the_environments() {
    if !can_run_guests() {
        return;
    }
    let said = |level: &str, line: &str| {
        let end = ran("probe", &["--env", &format!("LOG={level}")], &["streams"]).expect(0);
        end.err.lines().any(|said| said.ends_with(line))
    };
    assert!(said("debug", "DEBUG probe: detail") && said("Info", "INFO  probe: information"));
    assert!(!said("warn", "INFO  probe: information") && !said("info", "DEBUG probe: detail"));
}

#[test]
fn a_log_level_that_there_is_not_is_said() {
    if !can_run_guests() {
        return;
    }
    let end = ran("probe", &["--env", "LOG=inof"], &["streams"]).expect(0);
    let (first, rest) = end.err.split_once('\n').unwrap();
    assert_eq!(first, "LOG=inof: no such level, taking info; use off, error, warn, info, debug or trace");
    both(&Finished { err: rest.into(), ..end });
}

#[test]
fn a_flood_of_errors_waits_for_a_slow_reader_and_loses_nothing() {
    if !can_run_guests() {
        return;
    }
    let mut guest = Running::new(&mut run("probe", &[], &["error-lines", "20000"]));
    std::thread::sleep(Duration::from_millis(300));
    assert!(guest.child.try_wait().unwrap().is_none(), "the guest waits for its reader");
    let end = guest.finish().expect(0);
    assert_eq!(end.err.lines().count(), 20_000);
    assert!(end.err.lines().enumerate().all(|(n, line)| line == format!("line {n}")));
}

#[test]
fn a_guest_outlives_the_reader_of_its_errors() {
    if !can_run_guests() {
        return;
    }
    let mut guest = Running::new(&mut run("probe", &[], &["streams"]));
    drop(guest.child.stderr.take());
    assert_eq!(guest.finish().expect(0).text(), "data\nmore data\n");
}

#[test]
fn without_a_place_for_errors_they_go_to_the_console() {
    if !can_run_guests() {
        return;
    }
    let engine = engine(1);
    let builder = |output: &Buffer| {
        let image = Image::open(&guest("probe")).unwrap();
        Builder::new(image).argument("streams").output(output.clone())
    };
    let (all, data, errors) = (Buffer::default(), Buffer::default(), Buffer::default());
    let together = builder(&all).spawn(&engine).unwrap();
    let apart = builder(&data).error_output(errors.clone()).spawn(&engine).unwrap();
    for guest in [together, apart] {
        assert!(matches!(guest.wait(), Outcome::Exited(0)));
    }
    assert_eq!(data.text(), "data\nmore data\n");
    assert!(errors.text().starts_with("error\n["), "{}", errors.text());
    assert!(all.text().starts_with("data\nerror\n[") && all.text().ends_with("\n\nmore data\n"));
}
