//! Guests with several virtual CPUs.

use hv_tests::snapshot::{folder, restored, save};
use hv_tests::{Finished, Platform, guest_test};

/// What the guest prints with so many virtual CPUs, once it has ended well.
#[track_caller]
fn printed(platform: Platform, vcpus: usize, arguments: &[&str]) -> String {
    let text = ran(platform, vcpus, arguments).expect(0).text();
    text.strip_suffix("done\n").expect("its last line").to_owned()
}

fn ran(platform: Platform, vcpus: usize, arguments: &[&str]) -> Finished {
    let options = ["--vcpus", &vcpus.to_string(), "--memory", "64M", "--timeout", "100s"];
    platform.ran("vcpus", &options, arguments)
}

#[guest_test]
fn each_virtual_cpu_knows_its_number(platform: Platform) {
    for vcpus in [1, 2, 3, 8, 64] {
        let expected: String = (0..vcpus).map(|number| format!("virtual CPU {number}\n")).collect();
        assert_eq!(printed(platform, vcpus, &["numbers"]), expected);
    }
}

#[guest_test]
fn tasks_move_to_whoever_has_nothing_to_do(platform: Platform) {
    for vcpus in [1, 2, 4] {
        let text = printed(platform, vcpus, &["any", "200"]);
        assert!(text.starts_with("sum 19900 on 0x"), "{text}");
    }
}

#[guest_test]
fn two_wake_each_other(platform: Platform) {
    assert_eq!(printed(platform, 2, &["ping", "2000"]), "2000\n");
}

#[guest_test]
fn each_has_timers(platform: Platform) {
    assert_eq!(printed(platform, 4, &["timers"]), "");
}

#[guest_test]
fn the_heap_is_for_all(platform: Platform) {
    assert_eq!(printed(platform, 3, &["heap", "2000"]), "");
}

#[guest_test]
fn lines_stay_whole(platform: Platform) {
    let text = printed(platform, 3, &["print", "200"]);
    let mut next = [0; 3];
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut number = |before: &str| {
            assert_eq!(words.next(), Some(before), "{line}");
            words.next().and_then(|word| word.parse::<usize>().ok()).unwrap_or_else(|| panic!("{line}"))
        };
        let (count, vcpu) = (number("line"), number("of"));
        assert_eq!(count, next[vcpu], "{line}");
        next[vcpu] += 1;
        assert_eq!(words.next().map(str::len), Some(count % 50), "{line}");
    }
    assert_eq!(next, [200; 3]);
}

#[guest_test]
fn random_numbers_are_never_the_same(platform: Platform) {
    assert_eq!(printed(platform, 3, &["random"]), "300 numbers\n");
}

#[guest_test]
fn locks_keep_virtual_cpus_apart(platform: Platform) {
    for (vcpus, rounds) in [(1, 500), (2, 4000), (4, 1000), (8, 500)] {
        let text = printed(platform, vcpus, &["locks", &rounds.to_string()]);
        let (all, writes) = (vcpus as u64 * rounds, vcpus as u64 * rounds / 4);
        assert_eq!(text, format!("{} + {writes} = {all}\n", all - writes));
    }
}

#[guest_test]
fn a_value_is_made_once(platform: Platform) {
    for vcpus in [1, 2, 8] {
        assert_eq!(printed(platform, vcpus, &["once"]), "OnceLock(Some(7)), made 1 times\n");
    }
}

#[guest_test]
fn of_several_that_panic_at_once_one_is_reported(platform: Platform) {
    for _ in 0..5 {
        let end = ran(platform, 4, &["panic-together"]).expect(101);
        assert!(
            end.err.contains("the last words of ") && !end.err.contains("while panicking"),
            "{}",
            end.err
        );
    }
}

#[guest_test]
fn any_of_them_ends_the_guest(platform: Platform) {
    for number in ["0", "1", "2"] {
        ran(platform, 3, &["end", number, "exit"]).expect(7);
        let end = ran(platform, 3, &["end", number, "panic"]).expect(101);
        let reason = format!("the last words of one (on virtual CPU {number})");
        assert!(end.err.contains(&reason), "{}", end.err);
        let end = ran(platform, 3, &["end", number, "fault"]).expect(101);
        assert!(end.err.contains("null pointer") && end.err.contains("vcpus.rs"), "{}", end.err);
    }
}

#[guest_test]
fn calls_without_sense_are_refused(platform: Platform) {
    for vcpus in [2, 4] {
        assert_eq!(printed(platform, vcpus, &["calls"]), "");
    }
}

#[guest_test]
fn one_is_started_and_stopped_again_and_again(platform: Platform) {
    let text = printed(platform, 2, &["again", "100"]);
    assert!(text.starts_with("100 starts"), "{text}");
}

#[guest_test]
fn a_storm_of_events_ends(platform: Platform) {
    assert_eq!(printed(platform, 4, &["storm", "200"]), "");
}

#[guest_test]
fn a_guest_that_spins_everywhere_is_ended(platform: Platform) {
    let options = ["--vcpus", "3", "--timeout", "300ms"];
    let end = platform.ran("vcpus", &options, &["spin"]).expect(124);
    // The time limit shows where each of them was.
    for number in 0..3 {
        assert!(end.err.contains(&format!("virtual CPU {number}: running")), "{}", end.err);
    }
}

#[guest_test]
fn a_virtual_cpu_that_was_not_started_is_shown_as_such(platform: Platform) {
    let options = ["--vcpus", "2", "--timeout", "300ms"];
    let end = platform.ran("hostile", &options, &["endless-loop"]).expect(124);
    assert!(end.err.contains("virtual CPU 0: running\n"), "{}", end.err);
    assert!(end.err.contains("virtual CPU 1: stopped\n"), "{}", end.err);
}

/// hv survives it; the guest may.
#[guest_test]
fn a_virtual_cpu_that_changes_what_another_one_shows_the_host(platform: Platform) {
    let folder = tempfile::TempDir::new().unwrap();
    let disk = folder.path().join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let disk = disk.to_str().unwrap();
    let options = ["--vcpus", "2", "--disk", disk, "--net", "user", "--timeout", "20s"];
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let end = platform.ran("vcpus", &options, &["race", seed]);
        let code = end.code();
        assert!(matches!(code, Some(0 | 101 | 124)), "seed {seed}: {code:?}: {}", end.err);
        assert!(!end.err.contains("hv/"), "seed {seed}: hv itself panicked: {}", end.err);
    }
}

#[guest_test]
fn all_virtual_cpus_are_saved(platform: Platform) {
    let (_folder, path) = folder();
    save(platform, "vcpus", &path, &["--vcpus", "3", "--memory", "32M"], &["clone", "50"]);
    for _ in 0..3 {
        let end = restored(platform, &path, &["--timeout", "60s"]).expect(0);
        assert_eq!(end.text(), "generation is another\n50\ndone\n");
    }
}
