//! Guests that are saved on one platform and go on on the other.

use hv_tests::{Finished, Running, can_run_guests, guest, hv, tool};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

const WAYS: [[&str; 2]; 2] = [["kvm", "process"], ["process", "kvm"]];

fn can_run_both() -> bool {
    let kvm = hv::platform::choose(hv::platform::Preference::Kvm);
    if let Err(error) = &kvm {
        hv_tests::skip(format_args!("needs the platform kvm: {error}"));
    }
    kvm.is_ok() && can_run_guests()
}

fn hv_on(platform: &str, command: &str) -> Command {
    let mut hv = Command::new(hv());
    hv.args([command, "--platform", platform]).stdin(Stdio::null());
    hv
}

/// Saves a guest on one platform.
fn save(platform: &str, folder: &Path, options: &[&str], arguments: &[&str]) {
    let mut command = hv_on(platform, "snapshot");
    tool(command.arg(guest("snap")).arg("-o").arg(folder).args(options).arg("--").args(arguments));
}

/// Lets it go on on another.
fn restored(platform: &str, folder: &Path, options: &[&str]) -> Finished {
    Running::new(hv_on(platform, "restore").arg(folder).args(options)).finish().expect(0)
}

#[test]
fn in_the_middle_of_a_calculation_in_all_kinds_of_registers() {
    if !can_run_both() {
        return;
    }
    for [from, to] in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snap");
        save(from, &path, &["--after", "200ms"], &["live"]);
        // Any number of times, and on the platform that it comes from as well.
        for platform in [to, from, to] {
            assert_eq!(restored(platform, &path, &[]).text(), "right\n", "from {from} to {platform}");
        }
    }
}

#[test]
fn with_disk_requests_in_flight() {
    if !can_run_both() {
        return;
    }
    for [from, to] in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let (path, disk) = (folder.path().join("snap"), folder.path().join("disk.img"));
        File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        let disk = ["--disk", disk.to_str().unwrap()];
        save(from, &path, &[&disk[..], &["--after", "60ms"]].concat(), &["sectors", "6000"]);
        let text = restored(to, &path, &disk).text();
        assert!(text.ends_with("6000 rounds, 0 wrong\n"), "from {from} to {to}: {text}");
    }
}

#[test]
fn waiting_in_a_call() {
    if !can_run_both() {
        return;
    }
    for [from, to] in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snap");
        save(from, &path, &[], &["ready", "Ada"]);
        assert_eq!(restored(to, &path, &[]).text(), "after, Ada\n", "from {from} to {to}");
    }
}
