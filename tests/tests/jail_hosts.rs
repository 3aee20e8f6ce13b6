//! The jail on hosts that differ: what hv does there instead is allowed as well.

use hv_tests::host::{LACKS, Lack, without};
use hv_tests::serve::{Serve, checked};
use hv_tests::{Finished, Platform, Running, guest, guest_test};
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// An image of a disk, and a folder with a link that ends in a slash.
fn files(folder: &Path) {
    fs::write(folder.join("o.img"), vec![7; 1 << 20]).unwrap();
    fs::create_dir_all(folder.join("docs/sub")).unwrap();
    fs::write(folder.join("docs/sub/text"), vec![b'x'; 100_000]).unwrap();
    std::os::unix::fs::symlink("sub/", folder.join("docs/link")).unwrap();
}

fn probe(name: &str, keys: &str) -> String {
    format!("[function.{name}]\npath = \"/{name}/*\"\nimage = {:?}\n{keys}\n", guest("fn-probe"))
}

/// The functions of all kinds of disks.
fn with_disks() -> String {
    let mut text = probe("docs", "disks = \"docs/\"\n");
    for (name, disks) in [("ro", "o.img,ro"), ("overlay", "o.img,overlay"), ("direct", "o.img,ro,direct")] {
        text += &probe(name, &format!("disks = {disks:?}"));
    }
    text
}

/// Each kind of disk is read, and written where that may be.
#[track_caller]
fn ask(serve: &Serve, names: &[&str]) {
    for name in names {
        // Twice: the second one finds a machine that was reset.
        for _ in 0..2 {
            let answer = serve.get(&format!("/{name}/disk")).expect(200).text();
            let first = if name.starts_with("docs") { 0xeb } else { 7 };
            assert_eq!(answer, format!("Ok(()) {first} Ok(())\n"), "{name}");
        }
    }
}

/// A server with disks: started, reloaded with a disk changed and one added, and ended.
#[track_caller]
fn served(platform: Platform, lacks: &[Lack]) {
    println!("a server without {lacks:?}");
    let serve = Serve::prepared(platform, &with_disks(), |command, folder| {
        files(folder);
        without(command, lacks);
    });
    let names = ["docs", "ro", "overlay", "direct"];
    ask(&serve, &names);
    serve.get("/metrics").expect(200);
    serve.reload(&with_disks());
    serve.said("reloaded", 1);
    let changed =
        with_disks().replace("o.img,ro\"", "o.img,ro,sector=4096\"").replace("docs/\"", "docs,overlay\"");
    serve.reload(&(changed + &probe("ro2", "disks = \"o.img,ro\"") + &probe("docs2", "disks = \"docs\"")));
    let said = serve.said("reloaded", 2);
    assert!(said.contains("4 functions deployed, 2 kept, 0 removed"), "{said}");
    ask(&serve, &names);
    ask(&serve, &["ro2", "docs2"]);
    let end = serve.end();
    assert!(!end.err.contains("hv: jail"), "{}", end.err);
}

#[guest_test]
fn a_server_with_disks_reloads_and_ends(platform: Platform) {
    served(platform, &[]);
}

#[guest_test]
fn a_server_with_disks_on_hosts_that_lack_something(platform: Platform) {
    for lack in LACKS {
        served(platform, &[lack]);
    }
    served(platform, &LACKS);
}

/// `hv ARGUMENTS` in a folder that has the files.
#[track_caller]
fn there(platform: Platform, folder: &Path, lacks: &[Lack], arguments: &[&str]) -> Finished {
    let mut command = platform.command();
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    without(&mut command, lacks);
    Running::new(&mut command).finish()
}

#[guest_test]
fn snapshots_are_made_and_restored_on_hosts_that_lack_something(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let (probe, disk) = (guest("fn-probe"), guest("disk"));
    let (probe, disk) = (probe.to_str().unwrap(), disk.to_str().unwrap());
    for (n, lacks) in LACKS.iter().map(std::slice::from_ref).chain([&LACKS[..]]).enumerate() {
        println!("a snapshot without {lacks:?}");
        let name = format!("{n}.snap");
        let there = |arguments: &[&str]| there(platform, folder.path(), lacks, arguments);
        there(&["snapshot", probe, "-o", &name, "--function", "--disk", "o.img,ro", "--stats"]).expect(0);
        let again = there(&["snapshot", probe, "-o", &name, "--function"]).expect(2);
        assert!(again.err.contains("something of that name"), "{}", again.err);
        // Restored by a path that starts elsewhere, too.
        let at_ready =
            there(&["snapshot", disk, "-o", &format!("{n}-disk.snap"), "--after", "0ms", "--disk", "docs"]);
        at_ready.expect(0);
        there(&["run", disk, "--disk", "o.img,overlay", "--stats"]).expect(0);
    }
}

/// What would answer 503 to everything is not ready: one clone is tried.
#[guest_test(kvm, "a call of KVM fails here")]
fn a_function_that_cannot_be_cloned_is_not_deployed(platform: Platform) {
    let no_registers = Lack {
        what: "setting registers",
        call: libc::SYS_ioctl,
        // KVM_SET_XSAVE
        argument: Some((1, 0x5000_aea5)),
        error: libc::EINVAL,
    };
    let (mut command, _folder) = checked(platform, &probe("f", ""), &["--listen", "127.0.0.1:0"]);
    without(&mut command, &[no_registers]);
    let end = Running::new(&mut command).finish().expect(2);
    assert!(end.err.contains("the function `f` cannot be deployed: KVM: KVM_SET_XSAVE"), "{}", end.err);
    let (mut command, _folder) = checked(platform, &probe("f", ""), &["--check", "--listen", "127.0.0.1:0"]);
    without(&mut command, &[no_registers]);
    Running::new(&mut command).finish().expect(2);
}

/// Where files are copied to another file system, the kernel may refuse to copy within itself.
#[guest_test]
fn a_folder_on_another_file_system_than_temporary_files(platform: Platform) {
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        hv_tests::skip("needs /dev/shm");
        return;
    };
    files(other.path());
    let serve = Serve::prepared(
        platform,
        &probe("docs", &format!("disks = {:?}", other.path().join("docs"))),
        |_, _| {},
    );
    ask(&serve, &["docs"]);
    serve.end();
}
