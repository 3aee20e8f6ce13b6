//! Guests that break a share's contract, and what a guest cannot reach.

use super::{Folder, survives};
use hv_tests::{Platform, Running, guest_test, hv_as_ordinary_user};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

#[guest_test]
fn handles_that_are_made_up_are_refused(platform: Platform) {
    survives(platform, &["made-up-handles"]);
}

#[guest_test]
fn names_with_slashes_dots_nul_and_64_kib_lead_nowhere(platform: Platform) {
    survives(platform, &["bad-names"]);
}

#[guest_test]
fn memory_that_is_not_the_guests_is_not_read_or_written_for_it(platform: Platform) {
    survives(platform, &["bad-memory"]);
}

#[guest_test]
fn a_guest_that_changes_requests_while_they_are_read_gains_nothing(platform: Platform) {
    survives(platform, &["changing-requests:500"]);
}

#[guest_test]
fn a_guest_that_takes_no_responses_stops_its_own_share_only(platform: Platform) {
    survives(platform, &["never-reads-responses"]);
}

#[guest_test]
fn a_guest_that_opens_without_end_is_refused_at_the_limit(platform: Platform) {
    survives(platform, &["open-for-good:file"]);
}

#[guest_test]
fn an_index_that_jumps_ends_the_guest(platform: Platform) {
    let out = Folder::new().run(platform, &["index-jump"]).expect(101);
    assert!(out.err.contains("crashed:") && out.err.contains("ring index"), "{}", out.err);
}

#[guest_test]
fn a_guest_that_opens_while_the_host_renames_never_gets_outside(platform: Platform) {
    let folder = Folder::new();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("file"), "secret").unwrap();
    symlink("folder", folder.path("name")).unwrap();
    fs::write(folder.path("folder/file"), "inside").unwrap();
    let stop = AtomicBool::new(false);
    let printed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for target in [outside.path(), Path::new("folder")] {
                    symlink(target, folder.path("next")).unwrap();
                    fs::rename(folder.path("next"), folder.path("name")).unwrap();
                }
            }
        });
        let printed = folder.run(platform, &["storm:1000"]);
        stop.store(true, Ordering::Relaxed);
        printed.expect(0).text()
    });
    let allowed = ["inside", "Outside", "Again", "NotFound", "survived"];
    assert!(printed.lines().all(|line| allowed.contains(&line)), "{printed}");
}

/// An ordinary user's `hv` opens what that user may, and says what the host says. KVM may be root's alone.
#[test]
fn permissions_are_those_of_who_runs_hv() {
    let platform = Platform::Process;
    if !platform.is_here() {
        return;
    }
    let folder = Folder::new();
    fs::set_permissions(folder.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let guest = hv_tests::guest("share");
    let option = folder.option();
    let arguments =
        ["run", guest.to_str().unwrap(), "--share", &option, "--", "cat:file", "cat:folder/inner"];
    let Some(mut command) = hv_as_ordinary_user(&arguments) else { return };
    let out = Running::new(platform.apply(&mut command)).finish().expect(0);
    assert_eq!(out.text(), "host: permission denied\ninner text\nsurvived\n");
}
