//! Many guests in one process: `hv bench density`, and what the host has no room for.

use hv_tests::refusal::{refused, text};
use hv_tests::{Platform, Running, guest, guest_test, hv};
use std::process::{Command, Stdio};

fn density(arguments: &[&str]) -> Command {
    let images = guest("fn-hello");
    let mut command = Command::new(hv());
    command.args(["bench", "density", "--images"]).arg(images.parent().unwrap()).args(arguments);
    command.stdin(Stdio::null());
    command
}

#[guest_test]
fn every_one_of_many_guests_answers_when_all_are_live(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("density.html");
    let arguments =
        ["--guests", "300", "--platform", platform.name(), "--format", "json", "--report", text(&page)];
    let finished = Running::new(&mut density(&arguments)).finish().expect(0);
    let result: serde_json::Value = serde_json::from_slice(&finished.out).unwrap();
    assert_eq!((result["guests"].as_u64(), result["answered"].as_u64()), (Some(300), Some(300)));
    let points = result["points"].as_array().unwrap();
    let live: Vec<_> = points.iter().map(|point| point["live"].as_u64().unwrap()).collect();
    assert_eq!(live, (1..=10).map(|step| step * 30).collect::<Vec<_>>());
    assert_eq!((&result["schema"], &result["kind"]), (&2.into(), &"density".into()));
    assert_eq!(result["platform"], platform.name());
    // A machine and a guest in it: with few as with many of them, not a part of the ones that others have.
    let machine = result["machine_memory"].as_u64().unwrap();
    for point in points {
        assert!(point["whole"].as_u64().unwrap() >= machine, "{point}, {machine}");
        // A guest writes some pages, and shares the rest.
        let private = point["private"].as_u64().unwrap();
        assert!((4096..=100 << 10).contains(&private), "{point}");
        assert!(point["start_ns"]["median"].as_f64().unwrap() > 0.0, "{point}");
        // Thirty times have a median, and no tail.
        assert_eq!(point["start_ns"]["n"], 30, "{point}");
        assert!(point["start_ns"]["p99"].is_null() && point["start_ns"]["p90"].is_null(), "{point}");
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 2, "times and memory");
}

#[guest_test(kvm, "what is measured here is KVM")]
fn what_the_host_has_no_room_for_is_refused_at_once(_: Platform) {
    for (arguments, part) in [
        (vec!["--guests", "3"], "--guests 3: use a number from 10 on"),
        (vec!["--guests", "4000000000"], "--guests 4000000000: each guest "),
        (vec!["exits", "--guests", "20"], "bench density: measure it alone"),
    ] {
        refused(&mut density(&arguments), &[part]);
    }
    let mut command = Command::new(hv());
    command.args(["bench", "exits", "--guests", "20"]).stdin(Stdio::null());
    refused(&mut command, &["--guests is for `hv bench density`"]);
    let mut command = Command::new(hv());
    command.args(["bench", "exits", "--touch-memory"]).stdin(Stdio::null());
    refused(&mut command, &["--touch-memory is for `hv bench density`"]);
    let mut command = Command::new(hv());
    command.args(["bench", "exits", "--platform", "process"]).stdin(Stdio::null());
    refused(&mut command, &["--platform is for `hv bench density`"]);
}
