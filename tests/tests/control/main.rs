//! Guests that are looked at and changed while they run: `--control`, and `hv set`, `show`, `pause`, `resume` and `stop`.

mod clients;
mod paths;
mod vcpus;

use hv_tests::control::Controlled;
use hv_tests::refusal::refused;
use hv_tests::{Platform, guest_test, hv_as_ordinary_user, tool};

fn ignoring(platform: Platform) -> Controlled {
    let guest =
        Controlled::start(platform, "targets", &["--vcpus", "1..4", "--timeout", "100s"], &["ignore"]);
    // From then on it ends when it is asked to.
    guest.says("waits");
    guest
}

#[guest_test]
fn what_a_guest_has_and_uses_is_shown(platform: Platform) {
    let guest = ignoring(platform);
    guest.shows(r#""state":"running""#);
    let shown = guest.shown();
    for part in [
        r#""name":"targets""#,
        r#""vcpus":{"running":1,"target":1,"most":4}"#,
        r#""size":16777216,"target":0,"#,
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let table = tool(&mut guest.hv("show", &[])).text();
    for part in [
        "guest     targets\n",
        "vcpus     1 running, target 1, most 4\n",
        " resident, target none, most 16M\n",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    guest.set(&["vcpus=3", "memory=8M", "weight=512", "cap=150"]);
    let table = tool(&mut guest.hv("show", &[])).text();
    for part in ["target 3, most 4\n", "target 8M, most 16M\n", "weight    512\n", "cap       150 %\n"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    guest.set(&["memory=0", "cap=0"]);
    let shown = guest.shown();
    assert!(
        shown.contains(r#""size":16777216,"target":0,"#) && shown.contains(r#""weight":512,"cap":0"#),
        "{shown}"
    );
    guest.stop().expect(0);
}

#[guest_test]
fn a_change_is_refused_as_a_whole(platform: Platform) {
    let guest = ignoring(platform);
    for (settings, parts) in [
        (&["vcpus=5"][..], &["5 virtual CPUs", "use 1 to 4"][..]),
        (&["memory=17M"], &["17825792", "use 1 to 16777216"]),
        (&["vcpus=2", "weight=0"], &["a weight of 0", "1 to 65535"]),
        (&["weight=9", "vcpus=64"], &["64 virtual CPUs", "use 1 to 4"]),
        (&["vcpus=2", "vcpus=3"], &["vcpus is given twice"]),
    ] {
        refused(&mut guest.hv("set", settings), parts);
    }
    for bad in ["vcpus", "vcpu=1", "vcpus=0", "vcpus=1..2", "memory=1X", "cap=6401", ""] {
        let end = hv_tests::refusal::finished(&mut guest.hv("set", &[bad])).expect(2);
        assert!(end.err.starts_with("error: ") && end.text().is_empty(), "{bad}: {}", end.err);
    }
    let shown = guest.shown();
    assert!(shown.contains(r#""target":1,"#) && shown.contains(r#""weight":256,"cap":0"#), "{shown}");
    guest.stop().expect(0);
}

#[guest_test]
fn a_guest_is_paused_and_resumed(platform: Platform) {
    let guest = Controlled::start(platform, "targets", &["--vcpus", "1..4", "--memory", "64M"], &["follow"]);
    guest.says("uses 1");
    tool(&mut guest.hv("pause", &[]));
    guest.shows(r#""state":"paused""#);
    // It does not notice before it goes on.
    guest.set(&["vcpus=2"]);
    guest.shows(r#""running":1,"target":2"#);
    tool(&mut guest.hv("pause", &[]));
    tool(&mut guest.hv("resume", &[]));
    guest.says("uses 2");
    tool(&mut guest.hv("resume", &[]));
    guest.shows(r#""state":"running""#);
    let end = guest.stop().expect(0);
    assert!(end.text().ends_with("all tasks have survived\ndone\n"), "{}", end.text());
}

#[guest_test]
fn a_guest_that_does_not_listen_is_ended_by_stop_as_by_sigterm(platform: Platform) {
    let guest = Controlled::start(platform, "hostile", &[], &["endless-loop"]);
    guest.says("looping");
    guest.stop().expect(143);
    let guest = Controlled::start(platform, "hostile", &[], &["endless-loop"]);
    tool(&mut guest.hv("pause", &[]));
    guest.shows(r#""state":"paused""#);
    guest.stop().expect(143);
    // One that listens is asked, also while it is paused.
    let guest = ignoring(platform);
    tool(&mut guest.hv("pause", &[]));
    guest.shows(r#""state":"paused""#);
    guest.stop().expect(0);
}

#[guest_test]
fn another_user_may_not_control_a_guest(platform: Platform) {
    // SAFETY: no memory is passed.
    if unsafe { libc::geteuid() } != 0 {
        hv_tests::skip("needs root, to be another user");
        return;
    }
    let guest = ignoring(platform);
    let path = guest.path.to_str().unwrap();
    // Who can reach the file, but may not use it.
    let folder = guest.path.parent().unwrap();
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Some(mut other) = hv_as_ordinary_user(&["show", path]) else { return };
    refused(&mut other, &["no permission", "only the user who has started the guest"]);
    // Who may even connect.
    std::fs::set_permissions(&guest.path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let Some(mut other) = hv_as_ordinary_user(&["set", path, "vcpus=2"]) else { return };
    refused(&mut other, &["another user's"]);
    guest.shows(r#""target":1,"#);
    guest.stop().expect(0);
}
