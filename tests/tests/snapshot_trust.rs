//! Snapshots that a stranger wrote: they open no file and no network of this host.

use hv::Snapshot;
use hv::device::block::{Disk, DiskRecord, DiskSpec};
use hv_tests::refusal::{refused, text};
use hv_tests::serve::Serve;
use hv_tests::snapshot::{folder, restore, restored, save};
use hv_tests::{Platform, guest, guest_test};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECRET: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";

/// With the jail, and without.
const JAILS: [&[&str]; 2] = [&[], &["--no-jail"]];

/// A file that a forger would like to have opened: as large as a disk.
fn secret(path: &Path) -> Vec<u8> {
    let mut bytes = format!("{SECRET}\nb3BlbnNzaC1rZXktdjEA\n").into_bytes();
    bytes.resize(1 << 20, b'x');
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Saves a guest with a disk of its own, and forges the snapshot: its disk is the file at `path`,
/// of the right size and time.
fn forge(platform: Platform, at: &Path, options: &[&str], name: &str, arguments: &[&str], path: &Path) {
    let parent = at.parent().unwrap();
    let (honest, own) = (parent.join("honest"), parent.join("own.img"));
    fs::write(&own, vec![0; 1 << 20]).unwrap();
    // Times of files can be as coarse as a tick of the kernel's clock.
    let file = fs::File::options().write(true).open(&own).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    save(platform, name, &honest, &[&["--disk", text(&own), "--memory", "8M"], options].concat(), arguments);
    let mut snapshot = Snapshot::open(&honest, &platform.engine(0)).unwrap();
    let spec = DiskSpec::new(path);
    snapshot.set_disks(vec![DiskRecord::new(&spec, &Disk::open(&spec).unwrap()).unwrap()]);
    snapshot.write(at).unwrap();
    fs::remove_dir_all(honest).unwrap();
}

#[guest_test]
fn a_path_in_a_snapshot_opens_nothing(platform: Platform) {
    let (folder, path) = folder();
    let victim = folder.path().join("id_ed25519");
    let before = secret(&victim);
    forge(platform, &path, &[], "snap", &["show"], &victim);
    for jail in JAILS {
        let said = refused(
            &mut restore(platform, &path, jail),
            &[
                "the guest was saved with a disk (",
                "id_ed25519\", 1048576 bytes), and gets none; name each with --disk",
            ],
        );
        assert!(!said.err.contains("BEGIN"), "{}", said.err);
        // Another file than the record's, or the user's own word for it.
        let own = folder.path().join("own.img");
        refused(
            &mut restore(platform, &path, &[&["--disk", text(&own)], jail].concat()),
            &["own.img: it has changed"],
        );
        let trusted = restored(platform, &path, &[&["--trust-record"], jail].concat()).expect(0);
        assert_eq!(trusted.text(), format!("{SECRET}\n"));
    }
    assert!(fs::read(&victim).unwrap() == before);
}

#[guest_test]
fn a_path_in_a_snapshot_is_not_written(platform: Platform) {
    let (folder, path) = folder();
    let victim = folder.path().join("authorized_keys");
    let before = secret(&victim);
    forge(platform, &path, &[], "snap", &["overlay"], &victim);
    for jail in JAILS {
        refused(&mut restore(platform, &path, &[&["--disk-overlay"], jail].concat()), &["and gets none"]);
        // Compared with what it saw before, all is wrong; that it could write is what counts.
        for options in [&["--trust-record"][..], &["--trust-record", "--disk-overlay"]] {
            let end = restored(platform, &path, &[options, jail].concat());
            assert!(end.text() == "right\n" || end.text() == "WRONG\n", "{end:?}");
            assert!(fs::read(&victim).unwrap() == before, "{options:?}");
        }
    }
}

#[guest_test]
fn a_name_in_a_snapshot_moves_no_cursor(platform: Platform) {
    let (folder, path) = folder();
    let victim = folder.path().join("a\u{1b}[2Jb\nhv: error: c\u{202e}");
    secret(&victim);
    forge(platform, &path, &[], "snap", &["show"], &victim);
    let said = refused(
        &mut restore(platform, &path, &[]),
        &[r#"a\u{1b}[2Jb\nhv: error: c\u{202e}", 1048576 bytes"#],
    );
    assert!(!said.err.trim_end().contains(char::is_control), "{:?}", said.err);
}

#[guest_test]
fn a_network_is_there_if_somebody_asks_for_it(platform: Platform) {
    let (folder, path) = folder();
    save(platform, "snap", &path, &["--net", "--memory", "8M"], &["ready"]);
    for jail in JAILS {
        let said = "the guest was saved with a network, and gets none; connect it with --net";
        refused(&mut restore(platform, &path, jail), &[said]);
        refused(&mut restore(platform, &path, &[&["--pcap", "x.pcap"], jail].concat()), &[said]);
        for net in [&["--net"][..], &["--publish", "127.0.0.1:0:80"]] {
            let end = restored(platform, &path, &[net, jail].concat()).expect(0);
            assert_eq!(end.text(), "after, nobody\n");
        }
    }
    // All that is missing is said at once.
    let (_other, path) = self::folder();
    forge(platform, &path, &["--net"], "snap", &["show"], &{
        let victim = folder.path().join("x");
        secret(&victim);
        victim
    });
    refused(
        &mut restore(platform, &path, &[]),
        &["and gets none; name each with --disk", "connect it with --net"],
    );
    refused(&mut restore(platform, &path, &["--trust-record"]), &["saved with a network, and gets none"]);
}

#[guest_test]
fn a_link_in_a_snapshot_leads_nowhere(platform: Platform) {
    let (folder, path) = folder();
    save(platform, "snap", &path, &["--memory", "4M"], &["ready"]);
    for name in ["state", "memory", "image"] {
        let (file, elsewhere) = (path.join(name), folder.path().join(name));
        fs::rename(&file, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        refused(
            &mut restore(platform, &path, &[]),
            &[&format!("snap/{name}: damaged: not an ordinary file")],
        );
        fs::remove_file(&file).unwrap();
        fs::rename(&elsewhere, &file).unwrap();
    }
    assert_eq!(restored(platform, &path, &[]).expect(0).text(), "after, nobody\n");
}

/// A configuration of a function at `/f`, in a file of its own.
fn config(folder: &Path, snapshot: &Path, keys: &str) -> PathBuf {
    let file = folder.join("hv.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nlog = \"off\"\n[function.f]\npath = \"/f\"\nsnapshot = {snapshot:?}\n{keys}\n"
    );
    fs::write(&file, text).unwrap();
    file
}

fn serve(platform: Platform, config: &Path, options: &[&str]) -> Command {
    let mut command = platform.command();
    command.args(["serve", "--config", text(config)]).args(options);
    command
}

#[guest_test]
fn a_function_gets_the_disks_of_the_configuration(platform: Platform) {
    let (folder, path) = folder();
    let victim = folder.path().join("id_ed25519");
    let before = secret(&victim);
    forge(platform, &path, &["--function"], "fn-hello", &[], &victim);
    let lacks = [
        "`f` cannot be deployed: the guest was saved with a disk (",
        "id_ed25519\"",
        "and gets none; `disks` names all of them",
    ];
    for jail in JAILS {
        refused(&mut serve(platform, &config(folder.path(), &path, ""), jail), &lacks);
    }
    assert!(fs::read(&victim).unwrap() == before);
    let two = format!("disks = [{0:?}, {0:?}]", text(&folder.path().join("own.img,ro")));
    refused(
        &mut serve(platform, &config(folder.path(), &path, &two), &[]),
        &["and gets 2; `disks` names all of them"],
    );

    // Neither without a function device nor with a network.
    let (_folder, plain) = self::folder();
    save(platform, "snap", &plain, &["--memory", "4M"], &["ready"]);
    refused(
        &mut serve(platform, &config(folder.path(), &plain, ""), &[]),
        &["is no function", "hv snapshot --function"],
    );
    let (_folder, net) = self::folder();
    save(platform, "fn-hello", &net, &["--function", "--net", "--memory", "8M"], &[]);
    refused(
        &mut serve(platform, &config(folder.path(), &net, ""), &[]),
        &["saved with a network, and functions get none"],
    );
}

#[guest_test]
fn a_function_reads_the_folder_that_it_was_saved_with(platform: Platform) {
    let (folder, path) = folder();
    let site = folder.path().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("index.html"), "one").unwrap();
    save(platform, "fn-wasm", &path, &["--function", "--disk", text(&site)], &[]);
    let keys = format!("disks = {site:?}");
    let server =
        Serve::start(platform, &format!("[function.f]\npath = \"/f\"\nsnapshot = {path:?}\n{keys}\n"));
    // There is no such module: it has looked.
    assert_eq!(server.get("/f?module=other.wasm&call=add&args=1,2").status, 404);
    server.end();
    fs::write(site.join("index.html"), "two").unwrap();
    refused(&mut serve(platform, &config(folder.path(), &path, &keys), &[]), &["site: it has changed since"]);
}

#[guest_test]
fn a_path_in_a_snapshot_opens_no_folder_for_a_server(platform: Platform) {
    // Not where temporary files are, which a server may make and read.
    let elsewhere = tempfile::tempdir_in("/var/tmp").unwrap();
    let copy = elsewhere.path().join("fn-hello");
    fs::copy(guest("fn-hello"), &copy).unwrap();
    let (folder, path) = folder();
    let site = folder.path().join("site");
    fs::create_dir(&site).unwrap();
    save(platform, "fn-hello", &path, &["--function", "--memory", "8M", "--disk", text(&site)], &[]);
    // The same folder by what is in it, recorded at another place.
    let mut snapshot = Snapshot::open(&path, &platform.engine(0)).unwrap();
    let same = elsewhere.path().join("site");
    fs::create_dir(&same).unwrap();
    for folder in [&site, &same] {
        fs::File::open(folder).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    let spec = DiskSpec::new(&same);
    snapshot.set_disks(vec![DiskRecord::new(&spec, &Disk::open(&spec).unwrap()).unwrap()]);
    let forged = folder.path().join("forged");
    snapshot.write(&forged).unwrap();
    let server = Serve::start(
        platform,
        &format!("[function.f]\npath = \"/f\"\nsnapshot = {forged:?}\ndisks = {site:?}\n"),
    );
    server.get("/f").expect(200);
    server.reload(&format!("[function.g]\npath = \"/g\"\nimage = {copy:?}\n"));
    let said = server.said("restart it", 1);
    if !said.contains("Permission denied") {
        hv_tests::skip("needs Landlock");
        return;
    }
    assert!(said.contains(text(&copy)), "{said}");
    server.get("/f").expect(200);
    server.end();
}
