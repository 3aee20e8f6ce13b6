//! Disks in qcow2 images, end to end: made and checked by QEMU's tools, used by guests.

use hv_tests::serve::{Serve, probe};
use hv_tests::snapshot::{restored, save};
use hv_tests::{Finished, Platform, Running, eventually, guest_test, has_tools, tool};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The word that the `disk` guest writes at a place.
fn pattern(seed: u64, index: u64) -> u64 {
    let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

fn filled(seed: u64, len: u64) -> Vec<u8> {
    (0..len / 8).flat_map(|index| pattern(seed, index).to_le_bytes()).collect()
}

/// A folder with images.
struct Images(TempDir);

impl Images {
    /// `None` without QEMU's tools.
    fn new() -> Option<Self> {
        has_tools(&["qemu-img", "qemu-io"]).then(|| Images(TempDir::new().unwrap()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// `qemu-img create`; the last arguments may name a backing file.
    fn create(&self, name: &str, options: &str, more: &[&str]) -> String {
        let path = self.path(name);
        let mut create = Command::new("qemu-img");
        create.current_dir(self.0.path()).args(["create", "-q", "-f", "qcow2"]);
        if !options.is_empty() {
            create.args(["-o", options]);
        }
        tool(create.arg(&path).args(more));
        path
    }

    /// What QEMU reads in it, after it has found neither errors nor leaks.
    fn content(&self, path: &str) -> Vec<u8> {
        tool(Command::new("qemu-img").args(["check", "-q", "-f", "qcow2", path]));
        self.read(path)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let raw = self.path("read");
        tool(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw", path, &raw]));
        fs::read(raw).unwrap()
    }
}

/// Runs a guest with a disk, by io_uring or threads.
fn with_disk(platform: Platform, guest: &str, disk: &str, uring: bool, arguments: &[&str]) -> Finished {
    let mut command = platform.run(guest, &["--disk", disk], arguments);
    if !uring {
        command.env("HV_NO_IO_URING", "1");
    }
    Running::new(&mut command).finish()
}

fn refused(platform: Platform, disk: &str, parts: &[&str]) {
    let end = platform.ran("hello", &["--disk", disk], &[]).expect(2);
    assert_eq!(end.err.lines().count(), 1, "{}", end.err);
    for part in parts {
        assert!(end.err.contains(part), "{part} in {}", end.err);
    }
}

#[guest_test]
fn a_guest_fills_a_qcow2_disk_and_finds_it_again(platform: Platform) {
    let Some(images) = Images::new() else { return };
    for (seed, options) in
        ["", "compat=0.10,cluster_size=4k", "extended_l2=on", "cluster_size=512", "lazy_refcounts=on"]
            .iter()
            .enumerate()
    {
        let text = seed.to_string();
        for uring in [true, false] {
            let disk = images.create("a.qcow2", options, &["4M"]);
            with_disk(platform, "disk", &disk, uring, &[&text]).expect(0);
            assert!(images.content(&disk) == filled(seed as u64, 4 << 20), "{options}, {uring}");
            // In place, by another way; and read by both.
            with_disk(platform, "disk", &disk, !uring, &[&text]).expect(0);
            for uring in [true, false] {
                let read_only = format!("{disk},ro");
                with_disk(platform, "disk", &read_only, uring, &["check", &text]).expect(0);
            }
            assert!(images.content(&disk) == filled(seed as u64, 4 << 20), "{options}, {uring}");
        }
    }
}

#[guest_test]
fn compressed_images_are_read_and_written_over(platform: Platform) {
    let Some(images) = Images::new() else { return };
    fs::write(images.file("raw"), filled(3, 3 << 20)).unwrap();
    for compression in ["zlib", "zstd"] {
        let (raw, disk) = (images.path("raw"), images.path("c.qcow2"));
        let option = format!("compression_type={compression}");
        tool(Command::new("qemu-img").args(["convert", "-c", "-O", "qcow2", "-o", &option, &raw, &disk]));
        for uring in [true, false] {
            with_disk(platform, "disk", &disk, uring, &["check", "3"]).expect(0);
        }
        with_disk(platform, "disk", &disk, true, &["5", "1"]).expect(0);
        let mut expected = filled(3, 3 << 20);
        expected[..1 << 20].copy_from_slice(&filled(5, 1 << 20));
        assert!(images.content(&disk) == expected, "{compression}");
    }
}

#[guest_test]
fn a_chain_is_read_through_and_its_top_is_written(platform: Platform) {
    let Some(images) = Images::new() else { return };
    fs::write(images.file("base.img"), filled(1, 2 << 20)).unwrap();
    images.create("one.qcow2", "", &["-F", "raw", "-b", "base.img", "3M"]);
    images.create("two.qcow2", "", &["-F", "qcow2", "-b", "one.qcow2"]);
    let top = images.create("top.qcow2", "cluster_size=4k", &["-F", "qcow2", "-b", "two.qcow2"]);
    for uring in [true, false] {
        with_disk(platform, "disk", &format!("{top},ro"), uring, &["check", "1", "2"]).expect(0);
        with_disk(platform, "disk", &format!("{top},overlay"), uring, &["9"]).expect(0);
        with_disk(platform, "disk", &format!("{top},ro"), uring, &["check", "1", "2"]).expect(0);
    }
    with_disk(platform, "disk", &top, true, &["7", "1"]).expect(0);
    let mut expected = filled(1, 2 << 20);
    expected[..1 << 20].copy_from_slice(&filled(7, 1 << 20));
    expected.resize(3 << 20, 0);
    assert!(images.content(&top) == expected);
    assert!(fs::read(images.file("base.img")).unwrap() == filled(1, 2 << 20), "the base stays");
}

#[guest_test]
fn what_an_image_names_is_opened_in_the_folders_that_are_named_only(platform: Platform) {
    let Some(images) = Images::new() else { return };
    let elsewhere = TempDir::new().unwrap();
    let secret = elsewhere.path().join("secret.img");
    fs::write(&secret, filled(2, 1 << 20)).unwrap();
    let secret = secret.to_str().unwrap();
    let disk = images.create("a.qcow2", "", &["-F", "raw", "-b", secret]);
    refused(platform, &disk, &[&disk, secret, "base=FOLDER"]);
    // By a link in its own folder, it leads out as well.
    symlink(secret, images.file("link")).unwrap();
    let linked = images.create("b.qcow2", "", &["-F", "raw", "-b", "link", "1M"]);
    refused(platform, &linked, &[&linked, "base=FOLDER"]);
    let folder = elsewhere.path().to_str().unwrap();
    with_disk(platform, "disk", &format!("{disk},base={folder}"), true, &["check", "2"]).expect(0);
    for name in ["json:{\"driver\":\"file\"}", "nbd://127.0.0.1/x", "fat:/etc"] {
        let named = images.create("c.qcow2", "", &["1M"]);
        tool(Command::new("qemu-img").args(["rebase", "-u", "-F", "raw", "-b", name, &named]));
        refused(platform, &named, &["which is no file"]);
    }
}

#[guest_test]
fn chains_that_loop_or_are_too_long_or_say_no_format_are_refused(platform: Platform) {
    let Some(images) = Images::new() else { return };
    images.create("a.qcow2", "", &["1M"]);
    let disk = images.create("b.qcow2", "", &["-F", "qcow2", "-b", "a.qcow2"]);
    tool(Command::new("qemu-img").args([
        "rebase",
        "-u",
        "-F",
        "qcow2",
        "-b",
        "b.qcow2",
        &images.path("a.qcow2"),
    ]));
    refused(platform, &disk, &["twice"]);
    images.create("0.qcow2", "", &["1M"]);
    for n in 1..66 {
        let base = format!("{}.qcow2", n - 1);
        images.create(&format!("{n}.qcow2"), "", &["-u", "-F", "qcow2", "-b", &base, "1M"]);
    }
    with_disk(platform, "disk", &images.path("64.qcow2"), true, &["1", "1"]).expect(0);
    refused(platform, &images.path("65.qcow2"), &["more than 64 backing files"]);
    fs::write(images.file("base"), vec![0; 1 << 20]).unwrap();
    let unsaid = images.create("u.qcow2", "compat=0.10", &["1M"]);
    // As qemu-img before 6.1 did: a name, and no format.
    let mut bytes = fs::read(&unsaid).unwrap();
    bytes[8..16].copy_from_slice(&0x100u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&4u32.to_be_bytes());
    bytes[0x100..0x104].copy_from_slice(b"base");
    fs::write(&unsaid, bytes).unwrap();
    refused(platform, &unsaid, &["does not say which format", "hv disk rebase"]);
}

#[guest_test]
fn neither_a_guest_nor_a_name_alone_makes_an_image_of_a_file(platform: Platform) {
    let Some(images) = Images::new() else { return };
    let image = images.create("real.qcow2", "", &["1M"]);
    let bytes = fs::read(&image).unwrap();
    // What a guest may have written to its raw disk.
    fs::write(images.file("disk.img"), &bytes).unwrap();
    fs::File::options().write(true).open(images.file("disk.img")).unwrap().set_len(256 << 10).unwrap();
    let disk = images.path("disk.img");
    for options in ["", ",ro", ",overlay"] {
        refused(
            platform,
            &format!("{disk}{options}"),
            &["a guest has written", "format=qcow2", "format=raw"],
        );
    }
    with_disk(platform, "hello", &format!("{disk},format=raw"), true, &[]).expect(0);
    with_disk(platform, "hello", &format!("{disk},format=qcow2"), true, &[]).expect(0);
    fs::write(images.file("raw.qcow2"), vec![0; 1 << 20]).unwrap();
    let named = images.path("raw.qcow2");
    refused(platform, &named, &["is none", "format=raw"]);
    with_disk(platform, "hello", &format!("{named},format=raw"), true, &[]).expect(0);
    refused(platform, &format!("{image},direct"), &["direct"]);
}

#[guest_test]
fn encrypted_and_unknown_images_are_refused_by_name(platform: Platform) {
    let Some(images) = Images::new() else { return };
    let disk = images.path("e.qcow2");
    tool(Command::new("qemu-img").args([
        "create",
        "-q",
        "-f",
        "qcow2",
        "--object",
        "secret,id=s,data=abc",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        &disk,
        "1M",
    ]));
    refused(platform, &disk, &["encrypted (LUKS)"]);
    let disk = images.create("f.qcow2", "", &["1M"]);
    let good = fs::read(&disk).unwrap();
    for (at, value, part) in [
        (7, 9, "version 9"),
        (23, 30, "cluster_bits = 30"),
        (72, 1, "features that hv does not know: bit 56"),
        (79, 1, "refcounts are not up to date"),
        (79, 2, "marked as corrupt"),
        (36, 0xff, "l1_size"),
        (99, 9, "refcount_order"),
        (44, 1, "L1 table ends behind the file"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        fs::write(&disk, bytes).unwrap();
        refused(platform, &disk, &[part]);
    }
}

#[guest_test]
fn qemu_and_hv_respect_each_other(platform: Platform) {
    let Some(images) = Images::new() else { return };
    let disk = images.create("l.qcow2", "", &["1M"]);
    let read_only = format!("{disk},ro");
    for (mode, hv_may_read) in [(vec![], false), (vec!["-r"], true)] {
        let mut qemu = Command::new("qemu-io")
            .args(mode)
            .args(["-f", "qcow2", &disk])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It answers once it has the image.
        std::io::Write::write_all(qemu.stdin.as_mut().unwrap(), b"length\n").unwrap();
        let mut line = String::new();
        BufReader::new(qemu.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        refused(platform, &disk, &["in use"]);
        if hv_may_read {
            with_disk(platform, "hello", &read_only, true, &[]).expect(0);
        } else {
            refused(platform, &read_only, &["in use"]);
        }
        drop(qemu.stdin.take());
        qemu.wait().unwrap();
    }
    for (options, qemu_may_read) in [("", false), (",ro", true)] {
        let mut hv = platform.run("echo", &["--disk", &format!("{disk}{options}")], &[]);
        let mut hv = Running::new(hv.stdin(Stdio::piped()));
        std::io::Write::write_all(hv.child.stdin.as_mut().unwrap(), b"there\n").unwrap();
        let mut line = String::new();
        BufReader::new(hv.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let read =
            Command::new("qemu-io").args(["-r", "-f", "qcow2", "-c", "read 0 512", &disk]).output().unwrap();
        assert_eq!(read.status.success(), qemu_may_read, "{options}: {read:?}");
        let written =
            Command::new("qemu-io").args(["-f", "qcow2", "-c", "write 0 512", &disk]).output().unwrap();
        assert!(!written.status.success(), "{options}: {written:?}");
        hv.signal(libc::SIGKILL);
        hv.wait();
    }
}

/// What probe's `disk-log` writes as record `n` of disk number `disk`.
fn record(n: u64, disk: u64) -> Vec<u8> {
    (0..512u64).flat_map(|at| ((n + 1) << 32 | at << 8 | disk).to_le_bytes()).collect()
}

#[guest_test]
fn flushed_writes_survive_a_killed_hv_and_the_image_stays_whole(platform: Platform) {
    let Some(images) = Images::new() else { return };
    for (round, options) in
        ["", "cluster_size=4k", "extended_l2=on", "cluster_size=512,refcount_bits=64"].iter().enumerate()
    {
        let disks = ["first.qcow2", "second.qcow2"].map(|name| images.create(name, options, &["64M"]));
        let mut log = platform.run("probe", &["--disk", &disks[0], "--disk", &disks[1]], &["disk-log"]);
        if round % 2 == 1 {
            log.env("HV_NO_IO_URING", "1");
        }
        let mut log = Running::new(&mut log);
        let mut output = BufReader::new(log.child.stdout.take().unwrap());
        let mut line = String::new();
        let enough = format!("{}\n", 40 + 23 * round);
        while line != enough {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself");
        }
        log.signal(libc::SIGKILL);
        log.wait();
        let mut acknowledged = 40 + 23 * round;
        line.clear();
        while output.read_line(&mut line).unwrap() > 0 {
            acknowledged =
                line.trim_end().parse().ok().filter(|_| line.ends_with('\n')).unwrap_or(acknowledged);
            line.clear();
        }
        for (number, disk) in disks.iter().enumerate() {
            // The kernel gives the locks of a killed process back a little late.
            let check = eventually("the lock", || {
                let check = Command::new("qemu-img").args(["check", "-f", "qcow2", disk]).output().unwrap();
                (!String::from_utf8_lossy(&check.stderr).contains("lock")).then_some(check)
            });
            // 0: all right; 3: clusters that nothing names.
            assert!(matches!(check.status.code(), Some(0 | 3)), "{options}: {check:?}");
            let bytes = images.read(disk);
            for (n, found) in bytes.chunks_exact(4096).take(acknowledged + 1).enumerate() {
                assert!(
                    found == record(n as u64, number as u64),
                    "{options}: record {n} of disk {number} is lost"
                );
            }
            // It is written as before.
            with_disk(platform, "disk", disk, true, &["4", "1"]).expect(0);
        }
    }
}

#[guest_test]
fn an_image_that_shrinks_gives_errors_to_the_guest(platform: Platform) {
    let Some(images) = Images::new() else { return };
    for uring in [true, false] {
        let disk = images.create("s.qcow2", "", &["8M"]);
        with_disk(platform, "disk", &disk, true, &["1"]).expect(0);
        let file = fs::File::options().write(true).open(&disk).unwrap();
        let length = file.metadata().unwrap().len();
        // Behind its tables, which are read first.
        file.set_len(length - (3 << 20)).unwrap();
        let end = with_disk(platform, "disk", &format!("{disk},ro"), uring, &["check", "1"]);
        // What was cut off before it is opened reads as zeroes, as with QEMU.
        assert_eq!(end.code(), Some(1), "{}", end.err);
        let mut log = Running::new(&mut platform.run("probe", &["--disk", &disk], &["disk-log"]));
        let mut output = BufReader::new(log.child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        file.set_len(0).unwrap();
        let end = log.finish();
        assert!(end.code().is_some_and(|code| code != 159), "{}", end.err);
    }
}

#[guest_test]
fn saved_guests_go_on_with_their_image(platform: Platform) {
    let Some(images) = Images::new() else { return };
    fs::write(images.file("base.img"), filled(1, 1 << 20)).unwrap();
    let disk = images.create("d.qcow2", "", &["-F", "raw", "-b", "base.img", "8M"]);
    let saved = images.file("saved");
    // In the middle of its records.
    save(platform, "probe", &saved, &["--after", "200ms", "--disk", &disk], &["disk-log"]);
    // It opens nothing by itself, and another one is refused.
    let other = images.create("other.qcow2", "", &["8M"]);
    for (options, part) in [(vec![], "--disk"), (vec!["--disk", other.as_str()], "has changed")] {
        let end = restored(platform, &saved, &options).expect(2);
        assert!(end.err.contains(part), "{part}: {}", end.err);
    }
    restored(platform, &saved, &["--disk", &format!("{disk},overlay")]).expect(0);
    restored(platform, &saved, &["--disk", &disk]).expect(0);
    let bytes = images.content(&disk);
    for (n, found) in bytes.chunks_exact(4096).enumerate() {
        assert!(found == record(n as u64, 0), "record {n}");
    }
    // What has changed since is refused, also what is behind it.
    restored(platform, &saved, &["--disk", &disk]).expect(2);
    fs::write(images.file("base.img"), filled(2, 1 << 20)).unwrap();
    let end = restored(platform, &saved, &["--disk", &disk]).expect(2);
    assert!(end.err.contains("has changed"), "{}", end.err);
}

#[guest_test]
fn a_server_has_images_with_chains(platform: Platform) {
    let Some(images) = Images::new() else { return };
    fs::create_dir(images.file("bases")).unwrap();
    fs::write(images.file("bases/base.img"), filled(1, 1 << 20)).unwrap();
    let elsewhere = TempDir::new().unwrap();
    let top = elsewhere.path().join("top.qcow2");
    let top = top.to_str().unwrap();
    tool(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&images.path("bases/base.img"), top]),
    );
    for options in ["ro", "overlay"] {
        let disk = format!("{top},{options},base={}", images.path("bases"));
        let serve = Serve::start(platform, &probe(&format!("disks = \"{disk}\"")));
        serve.get("/echo").expect(200);
        serve.end();
    }
}

#[guest_test]
fn a_full_disk_is_an_error_of_the_request_and_the_image_stays_whole(platform: Platform) {
    let Some(images) = Images::new() else { return };
    if !has_tools(&["unshare", "mount", "bash"]) {
        return;
    }
    let hv = hv_tests::hv().to_str().unwrap();
    let guest = hv_tests::guest("disk");
    for (number, options) in
        ["cluster_size=64k", "cluster_size=512", "extended_l2=on"].into_iter().enumerate()
    {
        // A file system with less room than the disk has; checked where it is, and again once there is room.
        let script = format!(
            "mount -t tmpfs -o size=6m none {folder} && cd {folder} && qemu-img create -q -f qcow2 -o {options} a.qcow2 64M \
             && {{ {hv} run {guest} --disk a.qcow2 -- 3 2; echo first $?; {hv} run {guest} --disk a.qcow2 -- 4 60; echo second $?; }} \
             && {{ qemu-img check -f qcow2 a.qcow2; echo checked $?; }} && mount -o remount,size=100m {folder} \
             && {hv} run {guest} --disk a.qcow2 -- 5 16; echo third $?; qemu-img check -f qcow2 a.qcow2; echo checked again $?",
            folder = images.0.path().display(),
            guest = guest.display(),
        );
        let mut shell = Command::new("unshare");
        shell.args(["-m", "bash", "-c", &script]).stdin(Stdio::null());
        shell.env("HV_NO_IO_URING", (number % 2).to_string());
        let end = Running::new(platform.apply(&mut shell)).finish();
        if end.err.contains("unshare:") || end.err.contains("mount:") {
            return hv_tests::skip(format_args!("needs the right to mount: {}", end.err.trim()));
        }
        let text = end.text();
        for part in ["first 0\n", "second 1\n", "third 0\n"] {
            assert!(text.contains(part), "{options}: {part} in {text} {}", end.err);
        }
        assert!(end.err.contains("no space"), "{}", end.err);
        for line in text.lines().filter(|line| line.starts_with("checked")) {
            assert!(line.ends_with(" 0") || line.ends_with(" 3"), "{options}: {text}");
        }
    }
}

#[guest_test]
fn what_was_not_flushed_is_there_after_the_end(platform: Platform) {
    let Some(images) = Images::new() else { return };
    for uring in [true, false] {
        let disk = images.create("n.qcow2", "", &["8M"]);
        // Ends without a flush.
        with_disk(platform, "reads", &disk, uring, &["sequential-write", "65536", "4", "128"]).expect(0);
        assert!(images.content(&disk).iter().all(|byte| *byte == 1), "uring: {uring}");
    }
    // Nor is anything lost when it is told to end.
    let disk = images.create("t.qcow2", "", &["64M"]);
    let mut writing = Running::new(&mut platform.run("probe", &["--disk", &disk], &["disk-log"]));
    let mut line = String::new();
    BufReader::new(writing.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    writing.signal(libc::SIGTERM);
    assert_eq!(writing.finish().code(), Some(143));
    images.content(&disk);
}
