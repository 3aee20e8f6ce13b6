//! Where the socket is, and what else is there.

use super::ignoring;
use hv_tests::control::Controlled;
use hv_tests::refusal::{refused, text};
use hv_tests::{Platform, Running, command, eventually, guest, guest_test, hv, tool};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;

/// `hv run … --control PATH` in this folder, not yet started.
fn run_in(folder: &Path, platform: Platform, path: &str) -> Command {
    let mut command = platform.run("targets", &["--control", path, "--timeout", "100s"], &["ignore"]);
    command.current_dir(folder);
    command
}

/// The same, started, with the guest waiting to be asked to end.
fn runs_in(folder: &Path, platform: Platform, path: &str) -> Running {
    let mut guest = Running::new(&mut run_in(folder, platform, path));
    let mut output = BufReader::new(guest.child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "waits\n");
    guest.child.stdout = Some(output.into_inner());
    guest
}

/// `hv show PATH` in this folder, not yet started.
fn show_in(folder: &Path, path: &str) -> Command {
    let mut command = Command::new(hv());
    command.args(["show", path]).current_dir(folder);
    command
}

#[guest_test]
fn the_socket_is_for_its_user_and_gone_at_the_end(platform: Platform) {
    let guest = ignoring(platform);
    let file = fs::symlink_metadata(&guest.path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    // By `Controlled::finish`.
    guest.stop().expect(0);
    // However hv ends.
    let guest = ignoring(platform);
    guest.guest.signal(libc::SIGKILL);
    guest.finish();
    let guest = Controlled::start(platform, "hostile", &["--timeout", "200ms"], &["endless-loop"]);
    guest.finish().expect(124);
}

#[guest_test]
fn a_relative_path_is_relative_for_each(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    for path in ["c", "./c", "below/../c", "below/c"] {
        let guest = runs_in(folder.path(), platform, path);
        let file = folder.path().join(path);
        tool(&mut show_in(folder.path(), path));
        tool(&mut show_in(&below, &format!("../{path}")));
        tool(&mut show_in(Path::new("/"), text(&file)));
        guest.signal(libc::SIGTERM);
        guest.finish().expect(0);
        eventually("the removal of the socket", || (!file.exists()).then_some(()));
    }
}

/// The folder has another name when the guest ends.
#[guest_test]
fn the_socket_is_removed_where_it_is(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    fs::create_dir(&before).unwrap();
    let guest = runs_in(&before, platform, "c");
    fs::rename(&before, &after).unwrap();
    // Another file of this name stays.
    fs::create_dir(&before).unwrap();
    fs::write(before.join("c"), "precious").unwrap();
    tool(&mut show_in(&after, "c"));
    guest.signal(libc::SIGTERM);
    guest.finish().expect(0);
    eventually("the removal of the socket", || (!after.join("c").exists()).then_some(()));
    assert_eq!(fs::read(before.join("c")).unwrap(), b"precious");
}

#[guest_test]
fn another_file_in_the_sockets_place_stays(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let guest = runs_in(folder.path(), platform, "c");
    fs::remove_file(&path).unwrap();
    let another = UnixListener::bind(&path).unwrap();
    let remover = hv_tests::children(guest.child.id(), "hv-control");
    guest.signal(libc::SIGTERM);
    guest.finish().expect(0);
    eventually("the end of the process beside hv", || {
        remover
            .iter()
            .all(|process| hv_tests::stat(*process).is_none_or(|(_, _, state)| state == 'Z'))
            .then_some(())
    });
    assert!(path.exists());
    drop(another);
}

#[guest_test]
fn what_is_there_is_not_touched(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |path: &str, parts: &[&str]| {
        refused(&mut run_in(folder.path(), platform, path), &[&["--control", path], parts].concat());
    };
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("file", at("link")).unwrap();
    symlink("nothing", at("dangling")).unwrap();
    for path in ["file", "folder", "link", "dangling"] {
        refuse(path, &["no socket of an hv", "choose another path"]);
    }
    assert_eq!(fs::read(at("file")).unwrap(), b"precious");
    assert!(fs::symlink_metadata(at("dangling")).unwrap().is_symlink() && !at("nothing").exists());
    // Sockets of others.
    let listener = UnixListener::bind(at("live")).unwrap();
    fs::set_permissions(at("live"), fs::Permissions::from_mode(0o600)).unwrap();
    refuse("live", &["another process listens there"]);
    let datagram = UnixDatagram::bind(at("datagram")).unwrap();
    fs::set_permissions(at("datagram"), fs::Permissions::from_mode(0o600)).unwrap();
    refuse("datagram", &["another process listens there"]);
    drop(UnixListener::bind(at("dead")).unwrap());
    fs::set_permissions(at("dead"), fs::Permissions::from_mode(0o666)).unwrap();
    refuse("dead", &["no socket of an hv"]);
    refuse("nothing/c", &["no such folder"]);
    refuse("file/c", &["no such folder"]);
    let long = "x".repeat(120);
    refuse(&long, &["at most 107 bytes", "this one 120"]);
    drop((listener, datagram));
}

/// Both hv and the process beside it were killed.
#[guest_test]
fn a_socket_that_hv_has_left_is_used_again(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c");
    let left = runs_in(folder.path(), platform, "c");
    refused(&mut run_in(folder.path(), platform, "c"), &["another process listens there"]);
    for process in hv_tests::children(left.child.id(), "hv-control") {
        // SAFETY: no memory is passed; it is a child of this test's hv.
        unsafe { libc::kill(process as i32, libc::SIGKILL) };
    }
    left.signal(libc::SIGKILL);
    left.finish();
    assert!(path.exists());
    refused(&mut show_in(folder.path(), "c"), &["has ended"]);
    let guest = runs_in(folder.path(), platform, "c");
    guest.signal(libc::SIGTERM);
    guest.finish().expect(0);
    eventually("the removal of the socket", || (!path.exists()).then_some(()));
}

#[test]
fn what_is_no_control_socket_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refuse = |name: &str, part: &str| {
        for arguments in [&["show", name][..], &["set", name, "vcpus=1"], &["pause", name], &["stop", name]] {
            refused(command().args(arguments).current_dir(folder.path()), &[name, part]);
        }
    };
    refuse("absent", "no such socket");
    refuse("absent/c", "no such socket");
    fs::write(at("file"), "").unwrap();
    refuse("file", "not a control socket of hv");
    refuse(".", "not a control socket of hv");
    drop(UnixListener::bind(at("dead")).unwrap());
    refuse("dead", "has ended");
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    refuse("datagram", "not a control socket of hv");
    // One that speaks another language.
    let other = UnixListener::bind(at("other")).unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        for _ in 0..4 {
            let (mut client, _) = other.accept().unwrap();
            let _ = client.read(&mut [0; 100]);
            client.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        }
    });
    refuse("other", "not a control socket of hv");
    server.join().unwrap();
}

#[test]
fn numbers_of_virtual_cpus_that_make_no_sense_are_refused() {
    let image = guest("targets");
    for bad in ["0", "65", "4..1", "0..4", "1..65", "1..", "..4", "1...4"] {
        hv_tests::refusal::misused(&[text(&image), "--vcpus", bad], &["--vcpus", "use "]);
    }
}
