//! Crates for Linux in guests: what links libc works or is refused by name.

use hv_tests::refusal::{finished, hv_run, refused};
use hv_tests::{Platform, guest, guest_test};
use std::collections::HashSet;
use std::process::Stdio;

/// Crates that draw random bytes before and after a snapshot.
const DRAWING: usize = 9;

/// The lines `crate bytes`, each of which must be different from all others that `seen` has.
#[track_caller]
fn different(text: &str, count: usize, seen: &mut HashSet<String>) {
    let lines: Vec<_> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(lines.len(), count, "{text}");
    for (name, bytes) in lines {
        assert!(bytes.len() >= 16 && bytes.bytes().any(|digit| digit != b'0'), "{name} {bytes}");
        assert!(seen.insert(bytes.to_owned()), "{name} drew what was drawn before: {bytes}");
    }
}

#[guest_test]
fn random_numbers_by_way_of_libc_are_the_guests_own(platform: Platform) {
    let mut seen = HashSet::new();
    for _ in 0..2 {
        let text = platform.ran("crates", &[], &[]).expect(0).text();
        let random = text.strip_suffix("error 42\n").expect("the error number is the one that was set");
        different(random, DRAWING + 1, &mut seen);
    }
}

#[guest_test]
fn random_numbers_by_way_of_libc_are_another_clones_never(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snap");
    let mut snapshot = platform.command();
    snapshot.arg("snapshot").arg(guest("crates")).arg("-o").arg(&path).args(["--", "ready"]);
    let mut seen = HashSet::new();
    different(&finished(&mut snapshot).expect(0).text(), DRAWING, &mut seen);
    for _ in 0..2 {
        let mut restore = platform.command();
        restore.arg("restore").arg(&path).stdin(Stdio::null());
        different(&finished(&mut restore).expect(0).text(), DRAWING, &mut seen);
    }
}

#[guest_test]
fn a_function_that_is_missing_is_named_with_its_crate_and_the_remedy(platform: Platform) {
    let image = guest("missing");
    let end = refused(platform.apply(&mut hv_run(&image, &[])), &[]);
    let wanted = format!(
        "hv: error: cannot load {}: it calls C functions that a guest does not have: `sysconf` for crate \
         page_size 0.6.0 (get): leave the crate or its feature out, or define the function in the guest \
         (docs/guests.md has those that work)\n",
        image.display()
    );
    assert_eq!(end.err, wanted);
}

#[guest_test]
fn a_call_of_linux_that_is_an_instruction_is_named_with_its_crate(platform: Platform) {
    let end = platform.ran("raw-call", &[], &[]).expect(101);
    assert_eq!(end.text(), "");
    assert!(end.err.contains("crashed: made a Linux system call: "), "{}", end.err);
    assert!(end.err.contains("/rustix-1.1.6/src/"), "{}", end.err);
}
