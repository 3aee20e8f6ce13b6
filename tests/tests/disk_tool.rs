//! `hv disk` beside `qemu-img`: each understands what the other has made.

use hv_tests::{Finished, Running, has_tools, tool};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// A folder that both work in.
struct Folder(TempDir);

impl Folder {
    /// `None` without QEMU's tools.
    fn new() -> Option<Self> {
        has_tools(&["qemu-img", "qemu-io"]).then(|| Folder(TempDir::new().unwrap()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `hv disk …`
    fn hv(&self, line: &str) -> Finished {
        let mut command = Command::new(hv_tests::hv());
        command.current_dir(self.0.path()).arg("disk").args(line.split(' '));
        Running::new(&mut command).finish()
    }

    fn hv_json(&self, line: &str) -> Value {
        let end = self.hv(&format!("{line} --format json"));
        serde_json::from_str(&end.text()).unwrap_or_else(|error| panic!("{line}: {error}: {}", end.err))
    }

    /// `qemu-img …`, which has to succeed.
    fn qemu(&self, line: &str) -> String {
        tool(Command::new("qemu-img").current_dir(self.0.path()).args(line.split(' '))).text()
    }

    fn qemu_json(&self, line: &str) -> Value {
        serde_json::from_str(&self.qemu(&format!("{line} --output=json"))).unwrap()
    }

    fn io(&self, image: &str, commands: &[&str]) {
        let mut io = Command::new("qemu-io");
        io.current_dir(self.0.path()).args(["-f", "qcow2"]);
        for command in commands {
            io.args(["-c", command]);
        }
        tool(io.arg(image));
    }
}

/// Options of `hv disk create` and the same of `qemu-img create -o`.
const OPTIONS: [(&str, &str); 9] = [
    ("", ""),
    ("--qcow2-version 2", "compat=0.10"),
    ("--cluster-size 512", "cluster_size=512"),
    ("--cluster-size 2M", "cluster_size=2M"),
    ("--refcount-bits 1", "refcount_bits=1"),
    ("--refcount-bits 64 --cluster-size 4K", "refcount_bits=64,cluster_size=4k"),
    ("--extended-l2", "extended_l2=on"),
    ("--extended-l2 --cluster-size 16K", "extended_l2=on,cluster_size=16k"),
    ("--compression zstd", "compression_type=zstd"),
];

#[test]
fn images_that_hv_creates_are_those_that_qemu_img_creates() {
    let Some(folder) = Folder::new() else { return };
    for (ours, theirs) in OPTIONS {
        for size in ["1M", "3G"] {
            for file in ["ours.qcow2", "theirs.qcow2"] {
                let _ = fs::remove_file(folder.path(file));
            }
            folder.hv(format!("create ours.qcow2 {size} {ours}").trim()).expect(0);
            let options = if theirs.is_empty() { String::new() } else { format!("-o {theirs} ") };
            folder.qemu(&format!("create -q -f qcow2 {options}theirs.qcow2 {size}"));
            folder.qemu("check -q ours.qcow2");
            let by_qemu = |file: &str| folder.qemu_json(&format!("info {file}"));
            let by_hv = |file: &str| folder.hv_json(&format!("info {file}"));
            for key in ["format-specific", "virtual-size", "cluster-size", "format"] {
                let wanted = &by_qemu("theirs.qcow2")[key];
                for found in
                    [&by_qemu("ours.qcow2")[key], &by_hv("ours.qcow2")[key], &by_hv("theirs.qcow2")[key]]
                {
                    assert_eq!(found, wanted, "{ours} {size}: {key}");
                }
            }
        }
    }
}

#[test]
fn disks_are_converted_compared_and_checked_alike() {
    let Some(folder) = Folder::new() else { return };
    let mut bytes = vec![0; 6 << 20];
    for (at, word) in bytes[1 << 20..3 << 20].chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes[5_000_000..5_000_100].fill(7);
    fs::write(folder.path("disk.img"), &bytes).unwrap();
    for (number, (ours, _)) in OPTIONS.into_iter().enumerate() {
        for compress in ["", "--compress "] {
            let name = format!("{number}{}.qcow2", compress.len());
            folder.hv(format!("convert {compress}disk.img {name} {ours}").trim()).expect(0);
            folder.qemu(&format!("check -q {name}"));
            folder.qemu(&format!("compare -q -f raw -F qcow2 disk.img {name}"));
            let end = folder.hv(&format!("compare disk.img {name}")).expect(0);
            assert_eq!(end.text(), "they are the same\n");
            let (ours, theirs) =
                (folder.hv_json(&format!("check {name}")), folder.qemu_json(&format!("check {name}")));
            for key in ["total-clusters", "allocated-clusters", "compressed-clusters"] {
                assert_eq!(ours[key].as_u64().unwrap(), theirs[key].as_u64().unwrap_or(0), "{name}: {key}");
            }
            folder.hv(&format!("convert {name} back.img")).expect(0);
            assert!(fs::read(folder.path("back.img")).unwrap() == bytes, "{name}");
            fs::remove_file(folder.path("back.img")).unwrap();
        }
    }
    // A byte that is different is found, by both.
    folder.io("00.qcow2", &["write -P 8 5000050 1"]);
    let end = folder.hv("compare disk.img 00.qcow2").expect(1);
    assert_eq!(end.text(), "they differ from byte 5000050 on\n");
    folder.hv("resize 20.qcow2 7M").expect(0);
    folder.hv("compare disk.img 20.qcow2").expect(0);
    folder.hv("compare --strict disk.img 20.qcow2").expect(1);
    folder.hv("convert disk.img 20.qcow2").expect(2);
}

#[test]
fn maps_say_where_data_is_as_qemu_img_does() {
    let Some(folder) = Folder::new() else { return };
    fs::write(folder.path("base.img"), vec![5; 1 << 20]).unwrap();
    folder.qemu("create -q -f qcow2 -F raw -b base.img one.qcow2 4M");
    folder.qemu("create -q -f qcow2 -F qcow2 -b one.qcow2 top.qcow2");
    folder.io("one.qcow2", &["write 256k 128k", "write 2M 64k"]);
    folder.io("top.qcow2", &["write 0 64k", "write -z 512k 64k", "write -c 3M 64k"]);
    // Every 4 KiB: data or zeroes, and the image that has it.
    let pieces = |map: &Value| {
        let mut pieces = vec![None; 1024];
        for row in map.as_array().unwrap() {
            let (start, length) = (row["start"].as_u64().unwrap(), row["length"].as_u64().unwrap());
            let data = row["zero"] == Value::Bool(false);
            let of = if data { row["depth"].as_u64() } else { None };
            pieces[(start >> 12) as usize..((start + length) >> 12) as usize].fill(Some((data, of)));
        }
        pieces
    };
    let (ours, theirs) = (folder.hv_json("map top.qcow2"), folder.qemu_json("map top.qcow2"));
    assert_eq!(pieces(&ours), pieces(&theirs));
}

#[test]
fn damage_is_found_and_repaired() {
    let Some(folder) = Folder::new() else { return };
    folder.qemu("create -q -f qcow2 good.qcow2 4M");
    folder.io("good.qcow2", &["write -P 3 0 1M", "write 2M 64k", "write 3M 64k", "discard 2M 64k"]);
    let good = fs::read(folder.path("good.qcow2")).unwrap();
    let long = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let (l1, table) = (long(40), long(48));
    let (l2, block) = (long(l1) & 0xff_ffff_ffff_fe00, long(table));
    // A cluster within the file that nothing names.
    let unused =
        (0..good.len() >> 16).find(|at| good[block + 2 * at..][..2] == [0, 0]).expect("what was discarded");
    // What is changed, the codes of hv and qemu-img, and whether all of it can be repaired.
    let cases: [(&str, usize, u8, i32, i32); 6] = [
        ("a leak", block + 2 * unused + 1, 1, 3, 3),
        ("a cluster that is not counted", block + 2 * 6 + 1, 0, 1, 2),
        ("a cluster that is counted twice", block + 2 * 6 + 1, 2, 1, 2),
        ("a mark", l2, 0, 1, 2),
        ("a reserved bit", l2 + 7, 2, 1, 2),
        ("a cluster behind the end", l2 + 2, 9, 1, 2),
    ];
    for (what, at, value, ours, theirs) in cases {
        let mut bytes = good.clone();
        bytes[at] = value;
        fs::write(folder.path("bad.qcow2"), &bytes).unwrap();
        let checked = Command::new("qemu-img")
            .current_dir(folder.0.path())
            .args(["check", "bad.qcow2"])
            .output()
            .unwrap();
        let end = folder.hv("check bad.qcow2").expect(ours);
        if what != "a reserved bit" {
            assert_eq!(checked.status.code(), Some(theirs), "{what}: {checked:?}");
        }
        if ours == 3 || what.contains("counted") || what == "a mark" {
            folder.hv("check --repair all bad.qcow2").expect(0);
            folder.qemu("check -q bad.qcow2");
            folder.qemu("compare -q good.qcow2 bad.qcow2");
            folder.hv("check bad.qcow2").expect(0);
        }
        assert!(!end.text().is_empty());
    }
}

#[test]
fn chains_are_committed_and_rebased() {
    let Some(folder) = Folder::new() else { return };
    for (format, base) in [("raw", "base.img"), ("qcow2", "base.qcow2")] {
        for file in ["top.qcow2", "other.img", "flat.img"] {
            let _ = fs::remove_file(folder.path(file));
        }
        folder.hv(&format!("create {base} 4M")).expect(0);
        folder.hv(&format!("create top.qcow2 --backing {base} --backing-format {format}")).expect(0);
        folder.io("top.qcow2", &["write -P 1 0 1M", "write -z 128k 128k", "write -P 2 3M 10k"]);
        folder.hv("convert top.qcow2 flat.img").expect(0);
        folder.qemu("compare -q -f qcow2 -F raw top.qcow2 flat.img");
        // Another base with other content.
        fs::write(folder.path("other.img"), vec![9; 3 << 20]).unwrap();
        folder.hv("rebase top.qcow2 --backing other.img --backing-format raw").expect(0);
        folder.qemu("check -q top.qcow2");
        folder.qemu("compare -q -f qcow2 -F raw top.qcow2 flat.img");
        folder.hv(&format!("rebase top.qcow2 --backing {base} --backing-format {format}")).expect(0);
        folder.qemu("compare -q -f qcow2 -F raw top.qcow2 flat.img");
        folder.hv("commit top.qcow2").expect(0);
        folder.qemu("check -q top.qcow2");
        folder.qemu(&format!("compare -q -f {format} -F raw {base} flat.img"));
        folder.qemu("compare -q -f qcow2 -F raw top.qcow2 flat.img");
        assert_eq!(folder.hv_json("check top.qcow2")["allocated-clusters"], 0, "it has nothing of its own");
        folder.hv("rebase top.qcow2").expect(0);
        folder.qemu("check -q top.qcow2");
        assert_eq!(folder.hv_json("info top.qcow2").get("backing-filename"), None);
        folder.qemu("compare -q -f qcow2 -F raw top.qcow2 flat.img");
    }
}

#[test]
fn sizes_change() {
    let Some(folder) = Folder::new() else { return };
    for (number, options) in
        ["", "--cluster-size 512", "--extended-l2", "--qcow2-version 2"].into_iter().enumerate()
    {
        let name = format!("{number}.qcow2");
        folder.hv(format!("create {name} 8M {options}").trim()).expect(0);
        folder.io(&name, &["write -P 5 0 1M", "write -P 6 7M 1M"]);
        folder.hv(&format!("resize {name} 64M")).expect(0);
        folder.qemu(&format!("check -q {name}"));
        folder.io(&name, &["read -P 6 7M 1M", "read -P 0 8M 56M", "write -P 7 63M 1M"]);
        let end = folder.hv(&format!("resize {name} 1M")).expect(2);
        assert!(end.err.contains("--shrink"), "{}", end.err);
        folder.hv(&format!("resize --shrink {name} 7M")).expect(0);
        folder.qemu(&format!("check -q {name}"));
        assert_eq!(folder.qemu_json(&format!("info {name}"))["virtual-size"], 7 << 20);
        folder.hv(&format!("resize {name} 8M")).expect(0);
        folder.io(&name, &["read -P 5 0 1M", "read -P 0 7M 1M"]);
    }
}

#[test]
fn snapshots_inside_are_listed() {
    let Some(folder) = Folder::new() else { return };
    folder.qemu("create -q -f qcow2 a.qcow2 1M");
    folder.qemu("snapshot -c first a.qcow2");
    folder.io("a.qcow2", &["write 0 64k"]);
    folder.qemu("snapshot -c second a.qcow2");
    let (ours, theirs) = (folder.hv_json("snapshot a.qcow2"), &folder.qemu_json("info a.qcow2")["snapshots"]);
    for (ours, theirs) in ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        for key in ["id", "name", "date-sec", "date-nsec", "vm-state-size"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
    }
    assert_eq!(ours.as_array().unwrap().len(), 2);
    folder.hv("check a.qcow2").expect(0);
}

#[test]
fn snapshots_inside_are_made_applied_and_deleted_as_qemu_img_does() {
    let Some(folder) = Folder::new() else { return };
    for (number, options) in
        ["", "--cluster-size 4K", "--extended-l2", "--qcow2-version 2"].into_iter().enumerate()
    {
        let name = format!("s{number}.qcow2");
        folder.hv(format!("create {name} 8M {options}").trim()).expect(0);
        let pattern =
            |value: u8| [format!("write -P {value} 0 1M"), format!("write -P {value} {value}M 64k")];
        for (value, by_hv) in [(1, true), (2, false), (3, true)] {
            folder.io(&name, &pattern(value).each_ref().map(String::as_str));
            match by_hv {
                true => drop(folder.hv(&format!("snapshot {name} --create at{value}")).expect(0)),
                false => drop(folder.qemu(&format!("snapshot -c at{value} {name}"))),
            }
            folder.qemu(&format!("check -q {name}"));
            folder.hv(&format!("check {name}")).expect(0);
        }
        folder.io(&name, &["write -P 9 0 8M"]);
        folder.qemu(&format!("check -q {name}"));
        let reads = |value: u8| format!("read -P {value} 0 1M");
        folder.hv(&format!("snapshot {name} --apply at2")).expect(0);
        folder.qemu(&format!("check -q {name}"));
        folder.io(&name, &[&reads(2), "read -P 1 1M 64k", "read -P 0 4M 4M"]);
        folder.qemu(&format!("snapshot -a at3 {name}"));
        folder.io(&name, &[&reads(3)]);
        folder.hv(&format!("snapshot {name} --delete at2")).expect(0);
        folder.qemu(&format!("check -q {name}"));
        folder.qemu(&format!("snapshot -d at1 {name}"));
        folder.hv(&format!("check {name}")).expect(0);
        folder.hv(&format!("snapshot {name} --apply at3")).expect(0);
        folder.io(&name, &[&reads(3)]);
        folder.hv(&format!("snapshot {name} --delete at3")).expect(0);
        folder.qemu(&format!("check -q {name}"));
        assert_eq!(folder.hv_json(&format!("snapshot {name}")).as_array().unwrap().len(), 0);
        for (action, part) in [("--apply none", "no such snapshot"), ("--delete none", "no such snapshot")] {
            let end = folder.hv(&format!("snapshot {name} {action}")).expect(2);
            assert!(end.err.contains(part), "{}", end.err);
        }
    }
}

#[test]
fn what_is_wrong_is_one_line_and_leaves_no_file() {
    let Some(folder) = Folder::new() else { return };
    fs::write(folder.path("raw.img"), vec![0; 4096]).unwrap();
    for (line, part) in [
        ("create a.qcow2 1M --cluster-size 100", "a power of two"),
        ("create a.qcow2 1000", "multiple of 512"),
        ("create a.qcow2 1M --qcow2-version 2 --extended-l2", "version 2"),
        ("create a.qcow2 1M --cluster-size 4K --extended-l2", "16 KiB"),
        ("create a.qcow2 1000000G --cluster-size 512", "too large"),
        ("create a.qcow2 --backing none.img --backing-format raw", "none.img"),
        ("create a.img 1M --backing raw.img --backing-format raw", "no backing file"),
        ("convert --compress raw.img a.img", "no compressed clusters"),
        ("convert none.img a.qcow2", "none.img"),
        ("check raw.img", "a raw image has none of that"),
        ("commit raw.img", "a raw image has none of that"),
        ("info --input-format qcow2 raw.img", "does not begin as a qcow2 image"),
    ] {
        let end = folder.hv(line).expect(2);
        assert_eq!(end.err.lines().count(), 1, "{line}: {}", end.err);
        assert!(end.err.contains(part), "{line}: {part} in {}", end.err);
    }
    assert!(!folder.path("a.qcow2").exists() && !folder.path("a.img").exists());
}
