//! Files that guests write, on each file system of the SDK's module `fs`: a guest holds them against a model, and the host looks at what is left.

use hv_tests::{Platform, guest_test, has_tools, system_tool, tool};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What the guest leaves behind.
const KEPT: &str = "kept/in here/a long name.bin";

fn kept() -> Vec<u8> {
    (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect()
}

/// Kinds of FAT, with KiB, sectors to a cluster, and bytes of a sector.
const FAT: [(&str, u32, &str, &str); 4] = [
    ("12", 2_000, "1", "512"),
    ("16", 20_000, "4", "512"),
    ("32", 40_000, "1", "512"),
    ("16", 40_000, "1", "4096"),
];

/// A disk with this kind of FAT, and the value of `--disk` for it.
fn fat((kind, kib, cluster, sector): (&str, u32, &str, &str), folder: &TempDir) -> (PathBuf, String) {
    let image = folder.path().join(format!("fat{kind}-{sector}.img"));
    let mut make = system_tool("mkfs.fat");
    make.args(["-F", kind, "-s", cluster, "-S", sector, "-n", "DATA", "-C"]).arg(&image).arg(kib.to_string());
    tool(&mut make);
    let option = format!("{},sector={sector}", image.to_str().unwrap());
    (image, option)
}

/// The disk's file system is in order.
#[track_caller]
fn checks(image: &Path) {
    tool(system_tool("fsck.fat").args(["-n", "-v"]).arg(image));
}

fn copied_from(image: &Path, path: &str) -> Vec<u8> {
    let to = TempDir::new().unwrap();
    let mut copy = Command::new("mcopy");
    copy.env("MTOOLS_SKIP_CHECK", "1")
        .arg("-i")
        .arg(image)
        .arg(format!("::/{path}"))
        .arg(to.path().join("file"));
    tool(&mut copy);
    fs::read(to.path().join("file")).unwrap()
}

#[guest_test]
fn files_in_memory(platform: Platform) {
    platform.ran("files", &[], &["memory", "work", "work", "fill"]).expect(0);
}

#[guest_test]
fn files_in_a_share(platform: Platform) {
    let folder = TempDir::new().unwrap();
    let share = format!("{}=work", folder.path().to_str().unwrap());
    platform.ran("files", &["--share", &share], &["share", "work", "look"]).expect(0);
    assert_eq!(fs::read(folder.path().join(KEPT)).unwrap(), kept());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the guest has removed all else");
    let text = platform.ran("files", &["--share", &share], &["label=work", "look"]).expect(0).text();
    assert!(text.starts_with("share Some(\"work\") [\"kept\"]\n"), "{text}");
    fs::write(folder.path().join("a file"), "x").unwrap();
    platform.ran("files", &["--share", &format!("{share},ro")], &["share", "read-only"]).expect(0);
}

#[guest_test]
fn files_on_fat(platform: Platform) {
    if !has_tools(&["mkfs.fat", "fsck.fat", "mcopy"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    for kind in FAT {
        let (image, disk) = fat(kind, &folder);
        let text = platform.ran("files", &["--disk", &disk], &["disk", "work"]).expect(0).text();
        assert!(text.starts_with(&format!("FAT{}\n", kind.0)), "{text}");
        checks(&image);
        assert_eq!(copied_from(&image, KEPT), kept(), "{kind:?}");
        let text = platform.ran("files", &["--disk", &disk], &["label=DATA", "look"]).expect(0).text();
        assert!(text.contains("Some(\"DATA\") [\"kept\"]\n"), "{text}");
    }
}

#[guest_test]
fn a_full_fat_disk(platform: Platform) {
    if !has_tools(&["mkfs.fat", "fsck.fat"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let (image, disk) = fat(("12", 1000, "1", "512"), &folder);
    platform.ran("files", &["--disk", &disk], &["disk", "fill"]).expect(0);
    checks(&image);
}

#[guest_test]
fn what_cannot_be_written(platform: Platform) {
    if !has_tools(&["mkfs.fat", "mkfs.ext4", "mcopy"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("a file"), "x").unwrap();
    let (image, disk) = fat(FAT[1], &folder);
    let mut copy = Command::new("mcopy");
    tool(copy.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(&image).arg(root.path().join("a file")).arg("::/"));
    let before = fs::read(&image).unwrap();
    platform.ran("files", &["--disk", &format!("{disk},ro")], &["disk", "read-only"]).expect(0);
    assert!(fs::read(&image).unwrap() == before);
    // Smaller than FAT32 may be: its table ends early, and is only read.
    let (_, disk) = fat(("32", 20_000, "1", "512"), &folder);
    platform.ran("files", &["--disk", &disk], &["disk", "read-only"]).expect(0);
    // ext4, by its label.
    let ext = folder.path().join("ext4.img");
    fs::File::create(&ext).unwrap().set_len(8 << 20).unwrap();
    fs::remove_dir(root.path().join("lost+found")).ok();
    tool(system_tool("mkfs.ext4").args(["-q", "-L", "LINUX", "-d"]).arg(root.path()).arg(&ext));
    let ext = ext.to_str().unwrap();
    let text =
        platform.ran("files", &["--disk", ext], &["label=LINUX", "look", "read-only"]).expect(0).text();
    assert!(text.starts_with("ext2/3/4 Some(\"LINUX\") "), "{text}");
}

#[guest_test]
fn several_in_one_tree(platform: Platform) {
    if !has_tools(&["mkfs.fat", "fsck.fat"]) {
        return;
    }
    let folder = TempDir::new().unwrap();
    let shared = TempDir::new().unwrap();
    let (image, disk) = fat(FAT[1], &folder);
    let share = shared.path().to_str().unwrap();
    platform.ran("files", &["--disk", &disk, "--share", share], &["mounts", "together"]).expect(0);
    assert_eq!(fs::read(shared.path().join("a")).unwrap(), b"host");
    assert!(shared.path().join("folder").is_dir());
    assert_eq!(copied_from(&image, "b"), b"disk");
    checks(&image);
}
