//! Snapshots in folders: saved, restored, refused.

use hv::snapshot::Features;
use hv::{Builder, Image, Snapshot};
use hv_abi::ABI_VERSION;
use hv_tests::refusal::{refused, text};
use hv_tests::serve::Serve;
use hv_tests::snapshot::{folder, restore, restored, save, snapshot};
use hv_tests::{Platform, Running, free_port, guest, guest_test, has_tools, hv, tool};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A disk of so many bytes that are not all alike.
fn disk(folder: &Path, size: usize) -> PathBuf {
    let path = folder.join("disk.img");
    fs::write(&path, (0..size).map(|n| (n * 7 + n / 512) as u8).collect::<Vec<_>>()).unwrap();
    path
}

/// What a folder holds, hidden names too.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(folder).unwrap().map(name).collect()
}

#[guest_test]
fn a_guest_goes_on_any_number_of_times(platform: Platform) {
    let (_folder, path) = folder();
    let saved = save(platform, "snap", &path, &["--memory", "4M"], &["ready", "Ada"]);
    assert_eq!(saved.text(), "before\n");
    assert!(saved.err.starts_with("hv: saved ") && saved.err.lines().count() == 1, "{}", saved.err);
    for _ in 0..3 {
        let end = restored(platform, &path, &[]).expect(0);
        assert_eq!((end.text().as_str(), end.err.as_str()), ("after, Ada\n", ""));
    }
    // What a guest remembers may be secret.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for name in names(&path) {
        assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (_folder, path) = folder();
    let saved = save(platform, "snap", &path, &["--memory", "4M", "--format", "json"], &["ready"]);
    let report: serde_json::Value = serde_json::from_str(&saved.err).unwrap();
    assert_eq!(report["bytes"]["memory"], 4 << 20);
    assert!(report["phases_ns"]["capture"].as_u64() > Some(0), "{report}");
}

/// The values of a line of the test guest.
fn values(output: &str, name: &str) -> Vec<Vec<String>> {
    let lines = output.lines().filter_map(|line| line.strip_prefix(name));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[guest_test]
fn no_two_clones_are_the_same_guest(platform: Platform) {
    let (_folder, path) = folder();
    let saved = save(platform, "snap", &path, &[], &["clone"]).text();
    std::thread::sleep(Duration::from_millis(1500));
    let clones = [(); 3].map(|()| restored(platform, &path, &[]).expect(0).text());
    let mut random: Vec<_> = values(&saved, "random ");
    for name in ["generation ", "random ", "reseeded "] {
        let found: Vec<_> = clones.iter().flat_map(|clone| values(clone, name)).collect();
        assert_eq!(found.len(), 3, "{clones:?}");
        random.extend(found);
    }
    let count = random.len();
    random.sort();
    random.dedup();
    assert_eq!(random.len(), count, "something came twice: {random:?}");

    let time = |output: &str| -> Vec<u64> {
        values(output, "time ")[0].iter().map(|number| number.parse().unwrap()).collect()
    };
    let before = time(&saved);
    for clone in &clones {
        let after = time(clone);
        // The guest's own clock stood still meanwhile; the world's did not.
        let own = after[0].checked_sub(before[0]).expect("the clock goes on");
        assert!(own < 1_000_000_000, "{own} ns of its own");
        assert!(after[1] - before[1] >= 1_500_000_000, "{} ns in the world", after[1] - before[1]);
    }
}

#[guest_test]
fn disk_requests_are_neither_lost_nor_doubled(platform: Platform) {
    for (n, after) in [7, 23, 41, 66, 98, 140].into_iter().enumerate() {
        let (folder, path) = folder();
        let disk = folder.path().join("disk.img");
        fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        let after = format!("{after}ms");
        let mut options = vec!["--disk", text(&disk), "--after", &after];
        if n % 2 == 1 {
            // From a state that is past the start for sure.
            options.extend(["--memory", "8M"]);
        }
        let mut command = snapshot(platform, "snap", &path, &options, &["sectors", "6000"]);
        if n % 3 == 2 {
            command.env("HV_NO_IO_URING", "1");
        }
        let saved = Running::new(&mut command).finish();
        if saved.code() == Some(2) && saved.err.contains("ended with exit code 0") {
            println!("{after}: the guest was done before");
            continue;
        }
        saved.expect(0);
        let same = ["--disk", text(&disk)];
        let end = restored(platform, &path, &same).expect(0).text();
        assert!(end.ends_with("6000 rounds, 0 wrong\n"), "{after}: {end}");
        // Now its memory and its disk do not belong together any more.
        refused(
            &mut restore(platform, &path, &same),
            &["it has changed since the snapshot was made", "--disk-overlay"],
        );
    }
}

#[guest_test]
fn an_overlay_leaves_the_disk_as_it_is(platform: Platform) {
    let (folder, path) = folder();
    let disk = disk(folder.path(), 1 << 20);
    let sum = || Sha256::digest(fs::read(&disk).unwrap());
    let before = sum();
    save(platform, "snap", &path, &["--disk", text(&disk)], &["overlay"]);
    for _ in 0..2 {
        let options = ["--disk", text(&disk), "--disk-overlay"];
        assert_eq!(restored(platform, &path, &options).expect(0).text(), "right\n");
        assert_eq!(sum(), before);
    }
    let over = format!("{},overlay", text(&disk));
    assert_eq!(restored(platform, &path, &["--disk", &over]).expect(0).text(), "right\n");
    let run = platform.ran("snap", &["--disk", &over], &["overlay"]).expect(0);
    assert!(run.text().ends_with("right\n"));
    assert_eq!(sum(), before);
    // What is only in an overlay would be missing.
    let (_folder, other) = self::folder();
    let mut command =
        snapshot(platform, "snap", &other, &["--disk", &over, "--after", "500ms"], &["sectors", "100000"]);
    let end = Running::new(&mut command).finish().expect(2);
    assert!(end.err.contains("overlay, which a snapshot does not keep"), "{}", end.err);
    assert!(!other.exists());

    // Without an overlay the disk is the guest's, once.
    assert_eq!(restored(platform, &path, &["--disk", text(&disk)]).expect(0).text(), "right\n");
    assert_ne!(sum(), before);
    for options in [&["--disk", text(&disk), "--disk-overlay"][..], &["--trust-record"]] {
        refused(&mut restore(platform, &path, options), &["it has changed since the snapshot was made"]);
    }
}

#[guest_test]
fn a_restored_server_serves_its_disk_on_its_network(platform: Platform) {
    if !has_tools(&["curl"]) {
        return;
    }
    let (folder, path) = folder();
    let site = folder.path().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("index.html"), "<p>from a snapshot").unwrap();
    save(platform, "web", &path, &["--net", "--disk", text(&site)], &[]);
    // Two at once: each has an address of its own.
    let servers: Vec<_> = (0..2)
        .map(|_| {
            let port = free_port();
            let publish = format!("127.0.0.1:{port}:80");
            (
                Running::new(&mut restore(platform, &path, &["--disk", text(&site), "--publish", &publish])),
                port,
            )
        })
        .collect();
    for (server, port) in servers {
        let url = format!("http://127.0.0.1:{port}/index.html");
        let retries = ["--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--max-time", "60"];
        let answer = tool(Command::new("curl").args(["--silent", "--fail"]).args(retries).arg(url));
        assert_eq!(answer.text(), "<p>from a snapshot");
        server.signal(libc::SIGTERM);
        server.finish().expect(0);
    }
    fs::write(site.join("index.html"), "<p>something else").unwrap();
    refused(
        &mut restore(platform, &path, &["--disk", text(&site), "--net"]),
        &["site: it has changed since the snapshot was made"],
    );
}

#[guest_test]
fn what_is_no_whole_snapshot_is_refused_in_one_line(platform: Platform) {
    let (folder, path) = folder();
    save(platform, "snap", &path, &["--memory", "4M"], &["ready"]);
    let here = text(&path);
    let read = |name: &str| fs::read(path.join(name)).unwrap();
    let (state, memory, image) = (read("state"), read("memory"), read("image"));
    let with = |name: &str, bytes: &[u8], part: &str| {
        let whole = read(name);
        fs::write(path.join(name), bytes).unwrap();
        let end = refused(&mut restore(platform, &path, &[]), &[part]);
        assert!(end.err.starts_with(&format!("hv: error: {here}")), "{}", end.err);
        fs::write(path.join(name), whole).unwrap();
    };
    let changed = |bytes: &[u8], at: usize, to: u8| {
        let mut bytes = bytes.to_vec();
        assert_ne!(bytes[at], to);
        bytes[at] = to;
        bytes
    };
    // Checksums and addresses differ from run to run, and may be any byte.
    let damaged = |bytes: &[u8], at: usize| changed(bytes, at, !bytes[at]);
    with("state", &state[..100], "snap/state: truncated: at least ");
    with("state", &state[..state.len() - 8], "snap/state: truncated: at least ");
    with("state", b"", "snap: not a snapshot of hv");
    with("state", &image, "snap: not a snapshot of hv");
    with("state", &damaged(&state, 60), "snap/state: damaged: the header");
    with("state", &damaged(&state, 300), "snap/state: damaged: the virtual CPU");
    with(
        "state",
        &changed(&state, 8, 2),
        "snap: made by a newer version of hv (format 2; this version reads up to 1); restore it with that version",
    );
    with(
        "state",
        &changed(&state, 16, 9),
        &format!(
            "snap: made by a newer version of hv (ABI 9.{}; this version has {ABI_VERSION})",
            ABI_VERSION.minor
        ),
    );
    with("memory", &memory[..1 << 20], "snap/memory: truncated: at least 3145728 bytes are missing");
    with("memory", &[&memory[..], b"x"].concat(), "snap/memory: damaged: 1 bytes too long");
    let data = memory.iter().position(|&byte| byte != 0).unwrap();
    with(
        "memory",
        &changed(&memory, data, 0),
        "snap/memory: damaged: the memory from offset 0x0 to 0x100000",
    );
    with(
        "memory",
        &changed(&memory, (4 << 20) - 1, 1),
        "damaged: the memory from offset 0x300000 to 0x400000",
    );
    with("image", &image[..500], "snap/image: truncated: at least ");
    with("image", &damaged(&image, 700), "snap/image: damaged: its checksum is wrong");
    for name in ["memory", "image"] {
        let aside = path.join("aside");
        fs::rename(path.join(name), &aside).unwrap();
        refused(&mut restore(platform, &path, &[]), &[&format!("snap/{name}: truncated")]);
        fs::create_dir(path.join(name)).unwrap();
        refused(
            &mut restore(platform, &path, &[]),
            &[&format!("snap/{name}: damaged: not an ordinary file")],
        );
        fs::remove_dir(path.join(name)).unwrap();
        fs::rename(&aside, path.join(name)).unwrap();
    }
    refused(&mut restore(platform, folder.path(), &[]), &["not a snapshot of hv"]);
    refused(
        &mut restore(platform, &folder.path().join("none"), &[]),
        &["no such snapshot; `hv snapshot IMAGE -o FOLDER`"],
    );
    refused(&mut restore(platform, &path.join("image"), &[]), &["no such snapshot"]);
    // All is as it was.
    assert_eq!(restored(platform, &path, &[]).expect(0).text(), "after, nobody\n");
    refused(
        &mut restore(platform, &path, &["--net"]),
        &["the guest was saved without a network; leave out --net"],
    );
    refused(
        &mut restore(platform, &path, &["--disk", "a.img"]),
        &["the guest was saved with no disks, and gets 1; leave out --disk"],
    );
    refused(&mut restore(platform, &path, &["--weight", "0"]), &["weight"]);
}

#[guest_test]
fn other_disks_than_the_guest_had_are_refused(platform: Platform) {
    let (folder, path) = folder();
    let disk = disk(folder.path(), 1 << 20);
    save(platform, "snap", &path, &["--disk", text(&disk)], &["overlay"]);
    let other = folder.path().join("other.img");
    fs::write(&other, vec![0; 2 << 20]).unwrap();
    let with = |spec: &str, parts: &[&str]| refused(&mut restore(platform, &path, &["--disk", spec]), parts);
    with(text(&other), &["other.img: it has 2097152 bytes, and had 1048576 when the snapshot was made"]);
    with(&format!("{},sector=4096", text(&disk)), &["append \",sector=512\""]);
    with(
        &format!("{},ro", text(&disk)),
        &["disk.img: it is read-only, and was writable when the snapshot was made; leave out \",ro\""],
    );
    with("/nowhere/at/all.img", &["there is no such file"]);
    // A copy that kept its time is as good.
    tool(Command::new("cp").arg("-p").arg(&disk).arg(folder.path().join("copy.img")));
    fs::remove_file(&disk).unwrap();
    refused(&mut restore(platform, &path, &["--trust-record"]), &["disk.img: there is no such file"]);
    assert_eq!(
        restored(platform, &path, &["--disk", text(&folder.path().join("copy.img"))]).expect(0).text(),
        "right\n"
    );
}

#[guest_test]
fn without_a_guest_to_save_nothing_is_written(platform: Platform) {
    let (folder, path) = folder();
    let fails = |name: &str, options: &[&str], arguments: &[&str], part: &str| {
        let end = Running::new(&mut snapshot(platform, name, &path, options, arguments)).finish().expect(2);
        let error = end.err.lines().last().unwrap();
        assert!(error.starts_with("hv: error: ") && error.contains(part), "{}", end.err);
        // At a timeout hv says before it where the guest is.
        let is_late = options.contains(&"--timeout");
        assert_eq!(end.err.lines().count() > 1, is_late, "{}", end.err);
        assert_eq!(names(folder.path()), [] as [&str; 0]);
    };
    fails(
        "snap",
        &["--ready-timeout", "300ms"],
        &["never"],
        "the guest was not ready within 300ms: it has to call hv_guest::ready()",
    );
    fails("hello", &[], &[], "the guest ended with exit code 0 before it was saved");
    fails("hello", &["--after", "20s"], &[], "the guest ended with exit code 0 before it was saved");
    fails("hostile", &[], &["port-write"], "the guest crashed before it was saved");
    fails("snap", &["--timeout", "200ms"], &["never"], "--timeout ended the guest before it was saved");
    fails("snap", &["--disk", "none.img"], &["ready"], "none.img: there is no such file");
    fs::create_dir(&path).unwrap();
    refused(
        &mut snapshot(platform, "snap", &path, &[], &["ready"]),
        &["snap: there is something of that name already"],
    );
    let nowhere = folder.path().join("no/such/snap");
    refused(
        &mut snapshot(platform, "snap", &nowhere, &[], &["ready"]),
        &["no/such: no such folder to put the snapshot in"],
    );
}

#[guest_test]
fn a_function_is_for_hv_serve(platform: Platform) {
    let (_folder, path) = folder();
    save(platform, "fn-hello", &path, &["--function"], &[]);
    refused(
        &mut restore(platform, &path, &[]),
        &["a function, which needs requests: name it in a configuration of `hv serve`"],
    );
}

#[guest_test]
fn functions_answer_from_a_folder(platform: Platform) {
    let (_folder, path) = folder();
    save(platform, "fn-hello", &path, &["--function", "--memory", "8M"], &[]);
    let serve = Serve::start(platform, &format!("[function.hello]\npath = \"/*\"\nsnapshot = {path:?}\n"));
    // It was read at the start, and is not needed any more.
    fs::remove_dir_all(&path).unwrap();
    for _ in 0..5 {
        let answer = serve.get("/hello");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.body.is_empty());
    }
}

#[guest_test]
fn a_full_disk_leaves_nothing(platform: Platform) {
    if !has_tools(&["unshare", "mount"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let here = text(folder.path());
    let script = |size: &str, then: &str| {
        let mut command = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size={size} hv-test {here} && {then}");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).stdin(Stdio::null());
        platform.apply(&mut command);
        command
    };
    let possible = Running::new(&mut script("1M", "true")).finish();
    if possible.code() != Some(0) {
        hv_tests::skip(format_args!("needs user and mount namespaces: {}", possible.err.trim()));
        return;
    }
    let save = format!("{} snapshot {} -o {here}/snap --memory 64M -- big", text(hv()), text(&guest("snap")));
    let after = format!("{save}; code=$?; ls -A {here}; exit $code");
    for size in ["64K", "8M", "24900K"] {
        let end = Running::new(&mut script(size, &after)).finish().expect(2);
        assert_eq!(end.text(), "filled\n", "with {size}, something is left");
        assert!(end.err.contains("No space left on device") && end.err.lines().count() == 1, "{}", end.err);
    }
    let fits = Running::new(&mut script("64M", &after)).finish().expect(0);
    assert_eq!(fits.text(), "filled\nsnap\n");
}

#[guest_test]
fn killed_while_it_writes_leaves_nothing_that_looks_whole(platform: Platform) {
    let mut caught = 0;
    for round in 0..8u64 {
        let (folder, path) = folder();
        let mut writer = Running::new(&mut snapshot(platform, "snap", &path, &["--memory", "64M"], &["big"]));
        let patience = Instant::now() + Duration::from_secs(60);
        while names(folder.path()).is_empty() {
            assert!(Instant::now() < patience, "nothing was written");
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(round * 2));
        writer.signal(libc::SIGKILL);
        writer.wait();
        for name in names(folder.path()) {
            let left = folder.path().join(&name);
            if name == "snap" {
                // It was quick, and is whole.
                restored(platform, &left, &[]).expect(0);
                continue;
            }
            assert!(name.starts_with(".snap.partial-"), "{name}");
            caught += 1;
            if left.join("state").exists() && restored(platform, &left, &[]).code() == Some(0) {
                // Only the name was missing.
                continue;
            }
            refused(&mut restore(platform, &left, &[]), &[]);
        }
    }
    println!("killed in the middle {caught} times");
    assert!(caught > 0);
}

/// The snapshot that every later version has to read.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/snapshot-v1")
}

#[guest_test]
fn the_golden_snapshot_goes_on(platform: Platform) {
    let end = restored(platform, &golden(), &[]).expect(7);
    assert_eq!((end.text().as_str(), end.err.as_str()), ("golden: went on\n", ""));
}

/// Makes the golden snapshot of this version; `tests/golden/README.md` says when.
#[guest_test(kvm, "there is one file, and it was made on KVM")]
#[ignore = "makes a file that is kept"]
fn make_the_golden_snapshot(platform: Platform) {
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("golden");
    tool(Command::new("strip").arg("-o").arg(&stripped).arg(guest("golden")));
    let mut image = fs::read(&stripped).unwrap();
    // A note (name of 3 bytes, descriptor of 16, type 1, "hv") that asks for a small stack.
    let note = [3_u32.to_le_bytes(), 16_u32.to_le_bytes(), 1_u32.to_le_bytes(), *b"hv\0\0"].concat();
    let at = image.windows(16).position(|bytes| bytes == note).expect("an image has a note") + 16;
    image[at + 4..at + 8].copy_from_slice(&(24_u32 << 10).to_le_bytes());
    let engine = platform.engine(0);
    let image = Image::parse(image).unwrap();
    let builder = Builder::new(image).name("golden").argument("kept").memory(164 << 10).pause_at_ready();
    let guest = builder.spawn(&engine).unwrap();
    assert!(guest.wait_paused(Duration::from_secs(10)) && guest.outcome().is_none());
    let mut snapshot: Snapshot = guest.capture().unwrap();
    // It looks for no feature of the processor.
    snapshot.set_features(Features::default());
    println!("{:?}", snapshot.write(&golden()).unwrap());
}
