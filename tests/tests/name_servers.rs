//! `/etc/resolv.conf`, in whose place another file comes while a guest runs: as systemd-resolved, NetworkManager and dhclient do.

use hv_tests::{Platform, Running, guest, guest_test, has_tools, hv, tool};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// A name server at 127.0.0.`number`, for which every name is 192.0.2.`number`.
fn name_server(number: u8) {
    let socket = UdpSocket::bind((format!("127.0.0.{number}"), 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut query) {
            let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], &query[12..count]].concat();
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, number]);
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// Puts a file with this server in the place of another.
fn replace(file: &Path, number: u8) {
    let new = file.with_extension("new");
    fs::write(&new, format!("nameserver 127.0.0.{number}\noptions timeout:60\n")).unwrap();
    fs::rename(&new, file).unwrap();
}

/// In namespaces of this thread alone, with a folder of its own as `/etc`.
fn follows(platform: Platform, etc: &Path, options: &[&str]) {
    // SAFETY: no memory is passed; only this thread, and what it starts, is somewhere else from now on.
    let moved = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
    assert_eq!(moved, 0, "{}", std::io::Error::last_os_error());
    tool(Command::new("mount").args(["--make-rprivate", "/"]));
    tool(Command::new("ip").args(["link", "set", "lo", "up"]));
    (1..=4).for_each(name_server);
    let (resolv_conf, elsewhere) = (etc.join("resolv.conf"), etc.join("elsewhere"));
    replace(&resolv_conf, 1);
    fs::create_dir_all(&elsewhere).unwrap();
    let stub = elsewhere.join("stub-resolv.conf");
    // The link leads to the same file by either name of the folder.
    replace(&stub, 3);
    tool(Command::new("mount").arg("--bind").arg(etc).arg("/etc"));

    let mut command = platform.run(
        "probe",
        &[&["--net", "--timeout", "60s"], options].concat(),
        &["net-follow", "any.example", "0", "4"],
    );
    let mut guest = Running::new(&mut command);
    let lines = BufReader::new(guest.child.stdout.take().expect("it is captured")).lines();
    let mut answers = lines.map(|line| line.expect("it is text")).filter(|line| line.contains(" is "));
    let mut expect = |number: u8| {
        assert_eq!(answers.next(), Some(format!("any.example is 192.0.2.{number}")));
    };
    expect(1);
    replace(&resolv_conf, 2);
    expect(2);
    // A link in its place, and then another file where that leads.
    symlink("/etc/elsewhere/stub-resolv.conf", etc.join("link")).unwrap();
    fs::rename(etc.join("link"), &resolv_conf).unwrap();
    expect(3);
    replace(&stub, 4);
    expect(4);
    drop(answers);
    guest.finish().expect(0);
}

#[guest_test]
fn another_file_in_the_place_of_resolv_conf_is_followed(platform: Platform) {
    if !has_tools(&["ip", "mount"]) {
        return;
    }
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        hv_tests::skip("needs root");
        return;
    }
    // What builds them needs the host's own /etc.
    let _ = (hv(), guest("probe"));
    for options in [&[][..], &["--no-jail"]] {
        let etc = tempfile::TempDir::new().unwrap();
        let inside = std::thread::spawn(move || follows(platform, etc.path(), options));
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
