//! Guests that are saved on one platform and go on on the other.

use hv_tests::{Finished, Platform, Running, guest, guest_test, hv, tool};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

const WAYS: [[Platform; 2]; 2] = [[Platform::Kvm, Platform::Process], [Platform::Process, Platform::Kvm]];

fn hv_on(platform: Platform, command: &str) -> Command {
    let mut hv = Command::new(hv());
    hv.args([command, "--platform", platform.name()]).stdin(Stdio::null());
    hv
}

/// Saves a guest on one platform.
fn save(platform: Platform, folder: &Path, options: &[&str], arguments: &[&str]) {
    let mut command = hv_on(platform, "snapshot");
    tool(command.arg(guest("snap")).arg("-o").arg(folder).args(options).arg("--").args(arguments));
}

/// Lets it go on on another.
fn restored(platform: Platform, folder: &Path, options: &[&str]) -> Finished {
    Running::new(hv_on(platform, "restore").arg(folder).args(options)).finish().expect(0)
}

#[guest_test(process, "it takes both, and asks for KVM itself")]
fn in_the_middle_of_a_calculation_in_all_kinds_of_registers(_: Platform) {
    if !Platform::Kvm.is_here() {
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

#[guest_test(process, "it takes both, and asks for KVM itself")]
fn with_disk_requests_in_flight(_: Platform) {
    if !Platform::Kvm.is_here() {
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

#[guest_test(process, "it takes both, and asks for KVM itself")]
fn waiting_in_a_call(_: Platform) {
    if !Platform::Kvm.is_here() {
        return;
    }
    for [from, to] in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snap");
        save(from, &path, &[], &["ready", "Ada"]);
        assert_eq!(restored(to, &path, &[]).text(), "after, Ada\n", "from {from} to {to}");
    }
}
