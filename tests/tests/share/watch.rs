//! Guests that are told what changes in a folder.

use super::{Folder, lines_until};
use hv_tests::snapshot::{restored, save};
use hv_tests::{Platform, Running, guest_test};
use std::fs;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::process::ChildStdout;
use tempfile::TempDir;

/// A guest that watches a place in the folder by now, and what it prints from now on.
fn watching(platform: Platform, folder: &Folder, place: &str) -> (Running, BufReader<ChildStdout>) {
    let command = format!("watch:{place}");
    let mut hv = Running::new(&mut platform.run("share", &["--share", &folder.option()], &[&command]));
    let mut output = BufReader::new(hv.child.stdout.take().unwrap());
    assert_eq!(lines_until(&mut output, "watching"), Vec::<String>::new());
    (hv, output)
}

#[guest_test]
fn a_guest_is_told_what_changes_in_a_folder(platform: Platform) {
    let folder = Folder::new();
    let (mut hv, mut output) = watching(platform, &folder, "folder");
    let path = |name: &str| folder.path("folder").join(name);
    fs::write(path("new"), "text").unwrap();
    fs::create_dir(path("below")).unwrap();
    fs::rename(path("new"), path("other")).unwrap();
    fs::write(path("below/unseen"), "").unwrap();
    fs::set_permissions(path("other"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(path("other")).unwrap();
    fs::create_dir(path("end")).unwrap();
    let told = [
        "Made new",
        "Written new",
        "Closed new",
        "Made below/",
        "Removed new, paired",
        "Made other, paired",
        "Attributes other",
        "Removed other",
        "Made end/",
    ];
    assert_eq!(lines_until(&mut output, "survived"), told);
    assert!(hv.wait().success());
}

/// What a guest does itself, and what another one does, is told as well.
#[guest_test]
fn guests_tell_each_other_by_files(platform: Platform) {
    let folder = Folder::new();
    let (mut hv, mut output) = watching(platform, &folder, "/");
    folder.works(platform, &["append:hello"]);
    fs::create_dir(folder.path("end")).unwrap();
    let lines = lines_until(&mut output, "survived");
    assert_eq!(lines[..2], ["Made log", "Written log"]);
    assert_eq!(lines[lines.len() - 2..], ["Closed log", "Made end/"]);
    assert!(hv.wait().success());
}

#[guest_test]
fn a_guest_watches_for_a_while_and_does_something_else(platform: Platform) {
    let folder = Folder::new();
    let printed = folder.printed(platform, &["watch-and-go:folder"]);
    assert_eq!(printed, "nothing\nnothing\nNotSupported\nBadHandle\n");
}

#[guest_test]
fn a_guest_that_watches_and_fetches_without_end_is_refused_at_the_limits(platform: Platform) {
    Folder::new().works(platform, &["watch-for-good:folder"]);
}

/// It is paused meanwhile, and its handle is gone afterwards.
#[guest_test]
fn a_guest_is_saved_while_it_watches(platform: Platform) {
    let folder = Folder::new();
    let places = TempDir::new().unwrap();
    let snapshot = places.path().join("share.snap");
    let commands = ["watch:folder"];
    save(platform, "share", &snapshot, &["--share", &folder.option(), "--after", "1s"], &commands);
    let end = restored(platform, &snapshot, &["--share", &folder.option()]).expect(0);
    assert_eq!(end.text(), "host: no such open file\nsurvived\n");
}
