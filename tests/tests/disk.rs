//! Disks, end to end: images made by the host's own tools, used by guests.

use hv_tests::serve::{Serve, probe};
use hv_tests::{Finished, Platform, Running, guest, guest_test, has_tools, system_tool, tool};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A folder for images, where `O_DIRECT` is more likely to work than in /tmp.
fn folder() -> TempDir {
    let target = guest("disk")
        .parent()
        .map(Path::to_path_buf)
        .filter(|folder| fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & 0o200 != 0));
    target.and_then(|folder| TempDir::new_in(folder).ok()).unwrap_or_else(|| TempDir::new().unwrap())
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("folders for temporary files have plain names").to_owned()
}

/// A raw image made by qemu-img.
fn raw(folder: &TempDir, name: &str, size: &str) -> String {
    let path = path(folder, name);
    tool(Command::new("qemu-img").args(["create", "-q", "-f", "raw", &path, size]));
    path
}

/// The ways to work on a disk: options and environment.
const WAYS: [(&str, bool); 8] = [
    ("", true),
    ("", false),
    (",sector=4096", true),
    (",sector=4096", false),
    (",direct,sector=4096", true),
    (",direct,sector=4096", false),
    (",direct", true),
    (",direct", false),
];

/// Runs a guest with disks in one of the [`WAYS`]; `None` where the host's
/// file system cannot do it.
fn in_way(
    platform: Platform,
    name: &str,
    disks: &[&str],
    way: (&str, bool),
    arguments: &[&str],
) -> Option<Command> {
    let values: Vec<String> = disks.iter().map(|disk| format!("{disk}{}", way.0)).collect();
    let options: Vec<&str> = values.iter().flat_map(|value| ["--disk", value.as_str()]).collect();
    if way.0.contains("direct") {
        // Refused before anything is run, with the reason.
        let tried = platform.ran("probe", &options, &["exit"]);
        if tried.code() == Some(2) {
            assert!(tried.err.contains("page cache"), "{}", tried.err);
            hv_tests::skip(format_args!("needs a file system with O_DIRECT: {}", tried.err.trim()));
            return None;
        }
    }
    let mut command = platform.run(name, &options, arguments);
    if !way.1 {
        command.env("HV_NO_IO_URING", "1");
    }
    Some(command)
}

fn finished(mut command: Command) -> Finished {
    Running::new(&mut command).finish()
}

/// The word that the `disk` guest writes at a place.
fn pattern(seed: u64, index: u64) -> u64 {
    let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

#[guest_test]
fn a_guest_fills_a_disk_and_finds_it_again(platform: Platform) {
    if !has_tools(&["qemu-img"]) {
        return;
    }
    let folder = folder();
    let disk = raw(&folder, "disk.img", "12M");
    for (seed, way) in WAYS.into_iter().enumerate() {
        let seed = seed.to_string();
        let Some(fill) = in_way(platform, "disk", &[&disk], way, &[&seed]) else { continue };
        let text = finished(fill).expect(0).text();
        assert!(text.starts_with(&format!("{} bytes", 12 << 20)) && text.contains("written in"), "{text}");
        // The host finds the same bytes in the file.
        let bytes = fs::read(&disk).unwrap();
        for (index, word) in (0..).zip(bytes.chunks_exact(8)) {
            let expected = pattern(seed.parse().unwrap(), index);
            assert_eq!(u64::from_le_bytes(word.try_into().unwrap()), expected, "{way:?}, word {index}");
        }
        // So does a second guest, and through every other way.
        for other in WAYS {
            let Some(check) = in_way(platform, "disk", &[&disk], other, &["check", &seed]) else { continue };
            finished(check).expect(0);
        }
        // A byte that is different is found.
        let file = fs::File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&[!bytes[10_000_001]], 10_000_001).unwrap();
        let check = in_way(platform, "disk", &[&disk], way, &["check", &seed]).unwrap();
        let text = finished(check).expect(1).text();
        assert!(text.contains(&format!("DIFFERENT from byte {}", 10_000_001 / 8 * 8)), "{text}");
    }
}

#[guest_test]
fn disks_come_in_the_order_of_the_command_line(platform: Platform) {
    if !has_tools(&["qemu-img"]) {
        return;
    }
    let folder = folder();
    let names = ["zeta", "alpha", "mid", "beta", "omega"];
    let disks: Vec<String> = names.iter().map(|name| raw(&folder, name, "1M")).collect();
    for (disk, name) in disks.iter().zip(names) {
        let file = fs::File::options().write(true).open(disk).unwrap();
        file.write_all_at(format!("this is {name}\n").as_bytes(), 0).unwrap();
    }
    let values: Vec<String> = disks
        .iter()
        .zip(["", ",ro", ",sector=4096", ",sector=4096,ro", ""])
        .map(|(disk, options)| format!("{disk}{options}"))
        .collect();
    let options: Vec<&str> = values.iter().flat_map(|value| ["--disk", value.as_str()]).collect();
    let text = platform.ran("probe", &options, &["disks"]).expect(0).text();
    assert_eq!(
        text,
        "0: 2048 x 512 rw this is zeta\n\
         1: 2048 x 512 ro this is alpha\n\
         2: 256 x 4096 rw this is mid\n\
         3: 256 x 4096 ro this is beta\n\
         4: 2048 x 512 rw this is omega\n"
    );
}

#[guest_test]
fn a_read_only_disk_refuses_writes(platform: Platform) {
    if !has_tools(&["qemu-img"]) {
        return;
    }
    let folder = folder();
    let disk = raw(&folder, "disk.img", "1M");
    fs::write(&disk, [0x5a; 1 << 20]).unwrap();
    let errors = |options: &str, uring| {
        finished(in_way(platform, "probe", &[&disk], (options, uring), &["disk-errors"]).unwrap())
            .expect(0)
            .text()
    };
    let common = "flush: done\nread: done\nread at the end: Invalid\nread far behind: Invalid\n";
    for uring in [true, false] {
        for options in [",ro", ",ro,sector=4096"] {
            assert_eq!(
                errors(options, uring),
                format!(
                    "write: ReadOnly\nwrite-zeroes: ReadOnly\ndiscard: ReadOnly\n{common}\
                     write at the end: Invalid\nread of half a sector: Invalid\n\
                     write-zeroes across the end: ReadOnly\n"
                )
            );
            assert!(fs::read(&disk).unwrap() == [0x5a; 1 << 20], "the disk has changed");
        }
    }
    let fill = finished(in_way(platform, "disk", &[&disk], (",ro", true), &[]).unwrap()).expect(1);
    assert!(fill.err.contains("write:") && fill.err.contains("read-only"), "{}", fill.err);
    assert!(fs::read(&disk).unwrap() == [0x5a; 1 << 20], "the disk has changed");

    // The same on a disk that can be written.
    for uring in [true, false] {
        let text = errors("", uring);
        assert!(text.starts_with("write: done\nwrite-zeroes: done\n"), "{text}");
        assert!(text.contains(common) && text.contains("write at the end: Invalid\n"), "{text}");
        assert!(text.ends_with("write-zeroes across the end: Invalid\n"), "{text}");
        assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 20, "the disk has grown");
        let bytes = fs::read(&disk).unwrap();
        assert!(bytes[512..].iter().all(|&byte| byte == 0x5a), "more than was asked for has changed");
    }
}

#[guest_test(kvm, "the memory of a guest in a process is a file as well")]
fn writes_beyond_the_limit_of_file_sizes_fail_and_nothing_else_does(platform: Platform) {
    let folder = folder();
    let disk = path(&folder, "disk.img");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    for uring in [true, false] {
        let limited = |arguments: &[&str]| {
            let mut command = in_way(platform, "disk", &[&disk], ("", uring), arguments).unwrap();
            let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
            // SAFETY: the call is async-signal-safe, and only reads the limit that the closure owns.
            unsafe {
                command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                })
            };
            finished(command)
        };
        let end = limited(&["7", "4"]).expect(1);
        assert!(end.err.contains("write:"), "{}", end.err);
        limited(&["7", "1"]).expect(0);
        limited(&["check", "7", "1"]).expect(0);
    }
}

/// What probe's `disk-log` writes as record `n` of disk number `disk`.
fn record(n: u64, disk: u64) -> Vec<u8> {
    (0..512u64).flat_map(|at| ((n + 1) << 32 | at << 8 | disk).to_le_bytes()).collect()
}

#[guest_test]
fn acknowledged_writes_survive_a_killed_hv(platform: Platform) {
    if !has_tools(&["qemu-img"]) {
        return;
    }
    let folder = folder();
    for way in WAYS {
        let disks = [raw(&folder, "first", "64M"), raw(&folder, "second", "64M")];
        let Some(mut log) = in_way(platform, "probe", &[&disks[0], &disks[1]], way, &["disk-log"]) else {
            continue;
        };
        let mut log = Running::new(&mut log);
        let mut output = BufReader::new(log.child.stdout.take().unwrap());
        let mut line = String::new();
        while line != "100\n" {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself");
        }
        log.signal(libc::SIGKILL);
        assert_eq!(log.wait().code(), None);
        // What it had said before the end, as far as a whole line arrived.
        let mut acknowledged = 100;
        line.clear();
        while output.read_line(&mut line).unwrap() > 0 {
            acknowledged =
                line.trim_end().parse().ok().filter(|_| line.ends_with('\n')).unwrap_or(acknowledged);
            line.clear();
        }
        let files: Vec<_> = disks.iter().map(|disk| fs::read(disk).unwrap()).collect();
        for (disk, file) in files.iter().enumerate() {
            for (n, found) in file.chunks_exact(4096).take(acknowledged + 1).enumerate() {
                assert!(found == record(n as u64, disk as u64), "{way:?}: record {n} of disk {disk} is lost");
            }
        }
        // Nothing was written to the second disk before the first had it, or far ahead of it.
        let count = |file: &[u8]| file.chunks_exact(4096).take_while(|block| block[..8] != [0; 8]).count();
        let (first, second) = (count(&files[0]), count(&files[1]));
        assert!(first == second || first == second + 1, "{way:?}: {first} records and {second}");
        // The disks are free again at once.
        let options = ["--disk", &disks[0], "--disk", &disks[1]];
        platform.ran("probe", &options, &["disks"]).expect(0);
    }
}

/// FNV-1a of some bytes, as probe's `files` has it.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Makes files of many sizes in folders within folders; what probe's `files` should say of them.
fn tree(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut tree = BTreeMap::new();
    for folder in ["/empty", "/docs", "/docs/deeper", "/docs/deeper/and deeper"] {
        fs::create_dir_all(root.join(&folder[1..])).unwrap();
        tree.insert(folder.to_owned(), None);
    }
    let long = format!("/docs/{}.txt", "a long name ".repeat(15));
    let names = [
        "/a",
        "/b.txt",
        "/Mixed Case.Md",
        "/docs/.hidden",
        "/docs/two.dots.gz",
        "/docs/deeper/ünïcödé – 猫.txt",
        "/docs/deeper/and deeper/leaf",
        &long,
    ];
    let sizes = [0, 1, 511, 512, 4096, 70_001, 300_000, 1_500_000];
    for (name, size) in names.into_iter().zip(sizes) {
        let bytes: Vec<u8> = (0..size).map(|at| pattern(size as u64, at as u64) as u8).collect();
        fs::write(root.join(&name[1..]), &bytes).unwrap();
        tree.insert(name.to_owned(), Some(bytes));
    }
    for n in 0..200 {
        let name = format!("/docs/file number {n}.dat");
        fs::write(root.join(&name[1..]), name.as_bytes()).unwrap();
        tree.insert(name.clone(), Some(name.into_bytes()));
    }
    tree
}

/// Runs probe's `files` on a disk, and compares.
#[track_caller]
fn finds(platform: Platform, tree: &BTreeMap<String, Option<Vec<u8>>>, disk: &str, kind: &str) {
    let text = platform.ran("probe", &["--disk", disk], &["files"]).expect(0).text();
    let (found_kind, found) = text.split_once('\n').unwrap();
    assert!(found_kind.starts_with(kind), "{found_kind} instead of {kind}");
    let mut found: Vec<&str> = found.lines().filter(|line| *line != "/lost+found/").collect();
    found.sort_unstable();
    let mut expected: Vec<String> = tree
        .iter()
        .map(|(path, file)| match file {
            None => format!("{path}/"),
            Some(bytes) => format!("{path} {} {:016x}", bytes.len(), hash(bytes)),
        })
        .collect();
    expected.sort_unstable();
    assert_eq!(found, expected, "{disk}");
}

#[guest_test]
fn folders_are_disks(platform: Platform) {
    let folder = TempDir::new().unwrap();
    let tree = tree(folder.path());
    let disk = folder.path().to_str().unwrap();
    for options in ["", ",ro", ",sector=4096"] {
        finds(platform, &tree, &format!("{disk}{options}"), "FAT");
    }
    let disks = platform.ran("probe", &["--disk", disk], &["disks"]).expect(0).text();
    assert!(disks.starts_with("0: ") && disks.contains(" x 512 ro "), "{disks}");
    let empty = TempDir::new().unwrap();
    finds(platform, &BTreeMap::new(), empty.path().to_str().unwrap(), "FAT");
}

#[guest_test]
fn fat_made_by_mkfs(platform: Platform) {
    if !has_tools(&["mkfs.fat", "mcopy"]) {
        return;
    }
    let (folder, root) = (folder(), TempDir::new().unwrap());
    let tree = tree(root.path());
    // Kind, KiB, and sector size.
    for (kind, kib, sector) in
        [("12", 8_000, 512), ("16", 32_000, 512), ("32", 64_000, 512), ("32", 300_000, 4096)]
    {
        let disk = path(&folder, &format!("fat{kind}-{sector}"));
        let sector = sector.to_string();
        let options = ["-F", kind, "-S", &sector, "-C", &disk, &kib.to_string()];
        tool(system_tool("mkfs.fat").args(options));
        let mut copy = Command::new("mcopy");
        copy.env("MTOOLS_SKIP_CHECK", "1").env("LC_ALL", "C.UTF-8").args(["-s", "-i", &disk]);
        copy.args(fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path())).arg("::/");
        tool(&mut copy);
        let value = if sector == "512" { disk } else { format!("{disk},sector=4096") };
        finds(platform, &tree, &value, &format!("FAT{kind}"));
    }
}

/// Puts a file into the empty root folder of a FAT32 volume with sectors of 512 bytes and clusters of one.
fn put_into_fat32(image: &str, name: &[u8; 11], content: &[u8]) {
    let file = fs::File::options().read(true).write(true).open(image).unwrap();
    let mut boot = [0; 512];
    file.read_exact_at(&mut boot, 0).unwrap();
    assert_eq!((&boot[11..14], &boot[22..24]), (&[0, 2, 1][..], &[0, 0][..]));
    let reserved = u64::from(u16::from_le_bytes([boot[14], boot[15]]));
    let (tables, table) =
        (u64::from(boot[16]), u64::from(u32::from_le_bytes(boot[36..40].try_into().unwrap())));
    for index in 0..tables {
        file.write_all_at(&0x0fff_ffff_u32.to_le_bytes(), (reserved + index * table) * 512 + 3 * 4).unwrap();
    }
    let data = (reserved + tables * table) * 512;
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = 0x20;
    entry[26] = 3;
    entry[28..].copy_from_slice(&(content.len() as u32).to_le_bytes());
    file.write_all_at(&entry, data).unwrap();
    file.write_all_at(content, data + 512).unwrap();
}

#[guest_test]
fn fat32_that_is_smaller_than_it_should_be(platform: Platform) {
    if !has_tools(&["mkfs.fat"]) {
        return;
    }
    let folder = folder();
    for kib in [1 << 10, 16 << 10, 32 << 10, 34 << 10] {
        let disk = path(&folder, &format!("{kib}"));
        tool(system_tool("mkfs.fat").args(["-F", "32", "-s", "1", "-C", &disk, &kib.to_string()]));
        put_into_fat32(&disk, b"A       TXT", b"hi\n");
        finds(platform, &[("/A.TXT".to_owned(), Some(b"hi\n".to_vec()))].into(), &disk, "FAT32");
    }
}

#[guest_test]
fn short_names_beyond_ascii_are_told_apart(platform: Platform) {
    if !has_tools(&["mkfs.fat"]) {
        return;
    }
    let folder = folder();
    let names = [("Ä", 0x8e), ("Ö", 0x99), ("ß", 0xe1), ("░", 0xb0), ("σ", 0x05)];
    for (name, byte) in names {
        let disk = path(&folder, name);
        tool(system_tool("mkfs.fat").args(["-F", "32", "-s", "1", "-C", &disk, "34000"]));
        put_into_fat32(
            &disk,
            &[byte, b' ', b' ', b' ', b' ', b' ', b' ', b' ', b'T', b'X', b'T'],
            name.as_bytes(),
        );
        finds(platform, &[(format!("/{name}.TXT"), Some(name.as_bytes().to_vec()))].into(), &disk, "FAT32");
    }
}

#[guest_test]
fn ext4_made_by_mkfs(platform: Platform) {
    if !has_tools(&["mkfs.ext4"]) {
        return;
    }
    let (folder, root) = (folder(), TempDir::new().unwrap());
    let mut tree = tree(root.path());
    // A hole that is larger than what one block of block numbers covers.
    let mut sparse = vec![0; 5 << 20];
    sparse[3 << 20] = b'x';
    let file = fs::File::create(root.path().join("sparse")).unwrap();
    file.set_len(sparse.len() as u64).unwrap();
    file.write_all_at(b"x", 3 << 20).unwrap();
    tree.insert("/sparse".into(), Some(sparse));
    for (n, options) in [
        &[][..],
        &["-t", "ext2"],
        &["-t", "ext3", "-b", "1024"],
        &["-I", "128"],
        &["-b", "1024"],
        &["-O", "^extents,^64bit"],
        &["-O", "^has_journal"],
        &["-I", "128", "-O", "^metadata_csum"],
    ]
    .into_iter()
    .enumerate()
    {
        let disk = path(&folder, &format!("ext4-{n}"));
        let mut mkfs = system_tool("mkfs.ext4");
        mkfs.args(["-q", "-F"]).args(options).arg("-d").arg(root.path()).args([&disk, "32M"]);
        tool(&mut mkfs);
        finds(platform, &tree, &disk, "ext");
        finds(platform, &tree, &format!("{disk},ro"), "ext");
        finds(platform, &tree, &format!("{disk},sector=4096"), "ext");
    }
}

#[guest_test]
fn ext4_with_a_feature_that_is_not_read_is_refused_by_its_name(platform: Platform) {
    if !has_tools(&["mkfs.ext4"]) {
        return;
    }
    let (folder, root) = (folder(), TempDir::new().unwrap());
    fs::write(root.path().join("a"), "a").unwrap();
    let disk = path(&folder, "meta_bg");
    let mut mkfs = system_tool("mkfs.ext4");
    mkfs.args(["-q", "-F", "-O", "meta_bg,^resize_inode", "-d"]).arg(root.path()).args([&disk, "64M"]);
    tool(&mut mkfs);
    let end = platform.ran("probe", &["--disk", &format!("{disk},ro")], &["files"]).expect(101);
    assert!(end.err.contains("meta_bg"), "{}", end.err);
}

#[guest_test]
fn disks_that_hold_no_file_system(platform: Platform) {
    if !has_tools(&["qemu-img"]) {
        return;
    }
    let folder = folder();
    for size in ["512", "1M"] {
        let disk = raw(&folder, size, size);
        let end = platform.ran("probe", &["--disk", &disk], &["files"]).expect(101);
        assert!(end.err.contains("Unsupported"), "{}", end.err);
    }
    for (name, at, magic) in [
        ("GPT", 512, &b"EFI PART"[..]),
        ("MBR", 446, &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]),
        ("XFS", 0, b"XFSB"),
        ("btrfs", 0x1_0040, b"_BHRfS_M"),
    ] {
        let disk = raw(&folder, name, "1M");
        let file = fs::File::options().write(true).open(&disk).unwrap();
        file.write_all_at(magic, at).unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();
        let end = platform.ran("probe", &["--disk", &disk], &["files"]).expect(101);
        assert!(end.err.contains("Foreign") && end.err.contains(name), "{}", end.err);
    }
}

#[guest_test]
fn the_disk_of_an_hv_that_was_killed_is_usable_at_once(platform: Platform) {
    let folder = folder();
    let disk = path(&folder, "disk.img");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    for _ in 0..10 {
        let mut killed = Running::new(&mut platform.run("disk", &["--disk", &disk], &["1"]));
        // It says the size of the disk first, and then works on it.
        let mut line = String::new();
        BufReader::new(killed.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        killed.signal(libc::SIGKILL);
        killed.wait();
        platform.ran("hello", &["--disk", &disk], &[]).expect(0);
    }
}

#[guest_test]
fn a_server_has_images_and_waits_for_one_that_is_still_locked(platform: Platform) {
    let folder = folder();
    let disk = path(&folder, "disk.img");
    let file = fs::File::create(&disk).unwrap();
    file.set_len(1 << 20).unwrap();
    for options in ["ro", "overlay", "ro,format=raw", "ro,sector=4096"] {
        file.lock().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(500));
                file.unlock().unwrap();
            });
            let serve = Serve::start(platform, &probe(&format!("disks = \"{disk},{options}\"")));
            serve.get("/echo").expect(200);
            serve.end();
        });
    }
}
