//! Peers that are there, that are not, and that fail.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// A script in the place of hv: it prints the guest's name.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_is_missing_or_fails_is_named_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let hv = script(folder.path(), "hv", "echo hello");
    let place = |peer: &str, program| Place { peer: peer.into(), program };
    let places = [
        place("crun", script(folder.path(), "crun", "echo broken >&2; exit 3")),
        place("runc", script(folder.path(), "runc", "exit 0")),
        place("runsc", folder.path().join("nothing")),
        place("qemu-microvm", script(folder.path(), "qemu", "echo hello")),
    ];
    let mut steps = 0;
    let peers = measure(&hv, Path::new("image"), &places, 7, 1, &mut |_, _| steps += 1).unwrap();
    let names: Vec<_> = peers.peers.iter().map(|peer| peer.name.as_str()).collect();
    assert_eq!(names, ["hv", "hv-process", "program", "qemu-microvm"]);
    assert!(
        peers
            .peers
            .iter()
            .all(|peer| peer.whole_ns.n == 7 && peer.first_byte_ns.median <= peer.whole_ns.median)
    );
    assert_eq!(
        peers.peers.iter().map(|peer| peer.by_hv.is_some()).collect::<Vec<_>>(),
        [false, true, true, true]
    );
    // Those that fail do so in the first round, and are left alone then.
    assert_eq!(steps, 8 * 4 + 3);
    let reason = |name: &str| &peers.left.iter().find(|left| left.name == name).unwrap().reason;
    assert!(reason("crun").contains("broken") && reason("crun").contains('3'), "{}", reason("crun"));
    assert!(reason("runc").contains("ended"), "{}", reason("runc"));
    assert!(reason("runsc").contains("cannot be started"), "{}", reason("runsc"));
    let text = table(&peers);
    for wanted in ["not measured", "broken", "qemu-microvm", "$ "] {
        assert!(text.contains(wanted), "{text}");
    }
}
