//! Guests whose number of virtual CPUs changes.

use hv_tests::control::Controlled;
use hv_tests::snapshot::{folder, restore, restored, save, snapshot};
use hv_tests::{Platform, Running, guest_test};

/// It says `uses N` when those N work and the others do not, and everything that its tasks wait for comes.
fn following(platform: Platform, vcpus: &str) -> Controlled {
    let options = ["--vcpus", vcpus, "--memory", "256M", "--timeout", "110s"];
    Controlled::start(platform, "targets", &options, &["follow"])
}

#[track_caller]
fn survived(guest: Controlled) {
    let end = guest.stop().expect(0);
    assert!(end.text().ends_with("all tasks have survived\ndone\n"), "{}", end.text());
}

#[guest_test]
fn a_guest_grows_and_shrinks_while_it_computes(platform: Platform) {
    let guest = following(platform, "1..4");
    guest.says("uses 1");
    guest.runs(1);
    for vcpus in [4, 2, 3, 1, 2, 1, 4, 1] {
        guest.set(&[&format!("vcpus={vcpus}")]);
        guest.says(&format!("uses {vcpus}"));
        // What it does not use is stopped.
        guest.runs(vcpus);
    }
    survived(guest);
}

#[guest_test]
fn a_guest_with_one_virtual_cpu_and_one_with_62_follow(platform: Platform) {
    let guest = following(platform, "1");
    guest.says("uses 1");
    survived(guest);
    // The guest uses the events of the last two that are possible for something else.
    let guest = following(platform, "2..62");
    for vcpus in [2, 62, 1] {
        guest.set(&[&format!("vcpus={vcpus}")]);
        guest.runs(vcpus);
    }
    survived(guest);
}

#[guest_test]
fn a_storm_of_changes_is_followed(platform: Platform) {
    let guest = following(platform, "1..4");
    guest.says("uses 1");
    let mut client = guest.client();
    let mut state = 1u32;
    for round in 0..600 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let vcpus = (state >> 24) % 4 + 1;
        let answer = client.ask(&format!(r#"{{"set":{{"vcpus":{vcpus}}}}}"#));
        assert!(answer.contains(&format!(r#""target":{vcpus},"most":4"#)), "{round}: {answer}");
        if round % 50 == 0 {
            assert!(client.ask(r#"{"pause":{}}"#).starts_with(r#"{"ok":"#));
            assert!(client.ask(r#"{"resume":{}}"#).contains(r#""state":"running""#));
        }
    }
    for vcpus in [3, 1] {
        guest.set(&[&format!("vcpus={vcpus}")]);
        guest.says(&format!("uses {vcpus}"));
        guest.runs(vcpus);
    }
    survived(guest);
}

#[guest_test]
fn a_virtual_cpu_with_a_task_of_its_own_runs_until_that_has_ended(platform: Platform) {
    let guest = Controlled::start(platform, "targets", &["--vcpus", "4", "--timeout", "100s"], &["pinned"]);
    guest.says("lives");
    guest.runs(4);
    guest.set(&["vcpus=1"]);
    // One may always be given a task. It stops again.
    guest.says("begins on 2");
    guest.runs(2);
    guest.set(&["vcpus=2"]);
    guest.says("ends");
    guest.runs(2);
    guest.set(&["vcpus=1"]);
    guest.says("begins on 2");
    guest.runs(1);
    guest.set(&["vcpus=4"]);
    guest.runs(4);
    guest.stop().expect(0);
}

#[guest_test]
fn a_guest_that_was_saved_goes_on_with_its_target(platform: Platform) {
    let (_folder, path) = folder();
    let options = ["--vcpus", "2..4", "--memory", "64M", "--after", "500ms"];
    Running::new(&mut snapshot(platform, "targets", &path, &options, &["follow"])).finish().expect(0);
    for _ in 0..2 {
        let guest = Controlled::of(|control| {
            restore(platform, &path, &["--timeout", "110s", "--control", control.to_str().unwrap()])
        });
        guest.shows(r#""target":2,"most":4"#);
        for vcpus in [4, 1, 3] {
            guest.set(&[&format!("vcpus={vcpus}")]);
            guest.says(&format!("uses {vcpus}"));
            guest.runs(vcpus);
        }
        survived(guest);
    }
    // A task for one that is not to be used.
    let (_folder, path) = folder();
    save(platform, "vcpus", &path, &["--vcpus", "1..3", "--memory", "32M"], &["clone", "50"]);
    let end = restored(platform, &path, &["--timeout", "60s"]).expect(0);
    assert_eq!(end.text(), "generation is another\n50\ndone\n");
}

/// hv relies on nothing that the guest writes there, and on nothing that it does or does not do.
#[guest_test]
fn a_guest_that_overwrites_or_ignores_its_targets_harms_only_itself(platform: Platform) {
    for (what, says) in [("overwrite", "overwrites"), ("switch", "switches"), ("ignore", "waits")] {
        let options = ["--vcpus", "2..4", "--memory", "32M", "--timeout", "100s"];
        let guest = Controlled::start(platform, "targets", &options, &[what]);
        guest.says(says);
        let mut client = guest.client();
        for round in 0..400 {
            let (vcpus, memory) = (round % 4 + 1, (round % 8 + 1) << 22);
            let answer = client.ask(&format!(r#"{{"set":{{"vcpus":{vcpus},"memory":{memory}}}}}"#));
            let target =
                format!(r#""target":{vcpus},"most":4}},"memory":{{"size":33554432,"target":{memory}"#);
            assert!(answer.contains(&target), "{what}: {answer}");
        }
        let end = guest.stop();
        assert!(matches!(end.code(), Some(0 | 143)), "{what}: {:?}: {}", end.code(), end.err);
    }
}
