//! File systems that the host's own tools made, whole and damaged.

use crate::{Disk, Error, FileSystem, Inode};
use proptest::prelude::*;
use std::borrow::ToOwned;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::string::String;
use std::vec::Vec;
use std::{format, fs, vec};
use tempfile::TempDir;

/// A disk in memory.
struct Bytes(Vec<u8>);

impl Disk for Bytes {
    type Error = ();

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ()> {
        let from = usize::try_from(offset).ok().and_then(|from| self.0.get(from..)).ok_or(())?;
        buffer.copy_from_slice(from.get(..buffer.len()).ok_or(())?);
        Ok(())
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// Bytes of which no two blocks are the same.
fn noise(len: usize) -> Vec<u8> {
    (0..len as u32 / 4 + 1).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(len).collect()
}

/// A tree with everything that is stored in a way of its own.
fn tree(root: &Path) -> Files {
    let mut files = Files::new();
    let hole = |data: &[(usize, &[u8])], len| {
        let mut bytes = vec![0; len];
        for (at, piece) in data {
            bytes[*at..][..piece.len()].copy_from_slice(piece);
        }
        bytes
    };
    for (name, bytes) in [
        ("empty", vec![]),
        ("tiny", b"hi\n".to_vec()),
        ("inline", noise(100)),
        ("odd", noise(70_001)),
        ("big", noise(1_500_000)),
        ("hole", vec![0; 100 << 10]),
        // Holes as large as indirect and doubly indirect blocks, of 1 KiB and of 4 KiB.
        ("late", hole(&[(3 << 20, b"x")], 5 << 20)),
        ("later", hole(&[(0, b"a"), (70 << 20, b"x")], 72 << 20)),
        ("sparse", hole(&[(5000, &noise(300)), (100_000, &noise(9000)), (600_000, b"y")], 900_000)),
        ("dir/sub/deep", b"deep".to_vec()),
    ] {
        files.insert(name.into(), bytes);
    }
    for n in 0..300 {
        files.insert(format!("many/a name of some length {n}"), vec![n as u8; n]);
    }
    for (name, bytes) in &files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Only what is not zero is written, so that there are holes.
        let file = fs::File::create(path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (index, block) in
            bytes.chunks(1024).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0))
        {
            std::os::unix::fs::FileExt::write_all_at(&file, block, index as u64 * 1024).unwrap();
        }
    }
    for (link, target) in
        [("to-tiny", "tiny"), ("dir/up", "../odd"), ("to-dir", "dir/sub"), ("dir/abs", "/dir/sub/deep")]
    {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    let long = format!("{}tiny", "dir/../".repeat(20));
    std::os::unix::fs::symlink(&long, root.join("long-link")).unwrap();
    for (link, name) in
        [("to-tiny", "tiny"), ("dir/up", "odd"), ("to-dir/deep", "dir/sub/deep"), ("long-link", "tiny")]
    {
        files.insert(link.into(), files[name].clone());
    }
    files
}

/// A program that is found in the folders of administrators, too.
fn system_tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

fn has(tool: &str) -> bool {
    let found = system_tool(tool).arg("-V").output().is_ok();
    if !found {
        hv_skip::skip(format_args!("needs {tool}"));
    }
    found
}

fn mke2fs(root: &Path, image: &Path, size: &str, options: &str) -> Vec<u8> {
    let _ = fs::remove_file(image);
    fs::File::create(image).unwrap();
    let mut mke2fs = system_tool("mke2fs");
    mke2fs.args(["-q", "-F"]).args(options.split_whitespace()).arg("-d").arg(root).arg(image).arg(size);
    let made = mke2fs.output().unwrap();
    assert!(made.status.success(), "{options}: {}", String::from_utf8_lossy(&made.stderr));
    fs::read(image).unwrap()
}

fn open(image: Vec<u8>) -> Result<FileSystem<Bytes>, Error<()>> {
    FileSystem::open(Bytes(image))
}

fn whole(system: &FileSystem<Bytes>, inode: &Inode) -> Result<Vec<u8>, Error<()>> {
    let mut bytes = vec![0xee; inode.size() as usize];
    system.read(inode, 0, &mut bytes)?;
    Ok(bytes)
}

#[track_caller]
fn finds(files: &Files, image: Vec<u8>, what: &str) {
    let system = open(image).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let asked = files.iter().filter(|(name, _)| !name.starts_with("many/") || name.ends_with('7'));
    for (name, bytes) in asked {
        let inode = system.open_file(name).unwrap_or_else(|error| panic!("{what}: {name}: {error:?}"));
        let found = whole(&system, &inode).unwrap_or_else(|error| panic!("{what}: {name}: {error:?}"));
        assert!(found == *bytes, "{what}: {name} differs");
        // A part that starts and ends within blocks.
        if bytes.len() > 5000 {
            let mut part = [0; 3000];
            system.read(&inode, 1500, &mut part).unwrap();
            assert!(part == bytes[1500..4500], "{what}: a part of {name} differs");
        }
    }
    let many = system.entries(&system.find_path("many").unwrap()).unwrap();
    assert_eq!(many.len(), 300, "{what}");
    let mut names: Vec<_> = many.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
    names.sort();
    assert!(names.iter().all(|name| files.contains_key(&format!("many/{name}"))));
    for (path, error) in [
        ("none", Error::NotFound),
        ("dir", Error::IsADirectory),
        ("tiny/x", Error::NotADirectory),
        ("dir/sub/deep/x", Error::NotADirectory),
    ] {
        assert_eq!(system.open_file(path).unwrap_err(), error, "{what}: {path}");
    }
}

#[test]
fn what_linux_mounts_is_read() {
    if !has("mke2fs") {
        return;
    }
    let (root, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let files = tree(root.path());
    for options in [
        "-t ext2 -b 1024",
        "-t ext2 -b 4096",
        "-t ext2 -r 0",
        "-t ext3 -b 1024",
        "-t ext4 -b 1024",
        "-t ext4",
        "-t ext4 -I 128",
        "-t ext4 -I 1024",
        "-t ext4 -O ^extents,^64bit",
        "-t ext4 -O ^metadata_csum",
        "-t ext4 -O metadata_csum_seed",
        "-t ext4 -O inline_data",
        "-t ext4 -O inline_data -I 1024",
        "-t ext4 -O ^dir_index",
        "-t ext4 -O ^filetype",
        "-t ext4 -O large_dir,ea_inode,mmp",
        "-t ext4 -O bigalloc",
        "-t ext4 -O encrypt",
        "-t ext4 -O casefold",
        "-t ext4 -O ^flex_bg,^resize_inode",
        "-t ext4 -b 65536",
    ] {
        let image = mke2fs(root.path(), &scratch.path().join("image"), "64M", options);
        let mut files = files.clone();
        // A hole as large as a doubly indirect block is an ordinary one where blocks are larger, and takes long.
        files.retain(|name, _| name != "later" || options.contains("-b 1024"));
        if options.contains("inline_data") {
            // This tool forgets holes at the end where it has inline data.
            files.retain(|name, _| !matches!(name.as_str(), "late" | "sparse"));
        }
        finds(&files, image, options);
    }
}

#[test]
fn what_is_not_read_is_refused_by_the_name_of_the_feature() {
    if !has("mke2fs") {
        return;
    }
    let (root, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(root.path().join("a"), "a").unwrap();
    let image = scratch.path().join("image");
    let meta = mke2fs(root.path(), &image, "64M", "-t ext4 -O meta_bg,^resize_inode");
    assert_eq!(open(meta).err(), Some(Error::Feature("meta_bg")));
    let plain = mke2fs(root.path(), &image, "4M", "-t ext2");
    // All that say that nobody may read who does not know them: read, or refused by name.
    let read = [1, 2, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17];
    let names = [(0, "compression"), (3, "journal_dev"), (4, "meta_bg"), (12, "dirdata")];
    for bit in 0..32 {
        let mut image = plain.clone();
        let at = 1024 + 0x60;
        let features = u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) | 1 << bit;
        image[at..at + 4].copy_from_slice(&features.to_le_bytes());
        let name = names.iter().find(|(of, _)| *of == bit).map(|(_, name)| (*name).to_owned());
        let name = name.unwrap_or_else(|| format!("FEATURE_I{bit}"));
        match open(image) {
            Err(Error::Feature(found)) => assert!(found == name && !read.contains(&bit), "{bit}: {found}"),
            // What a feature says is not so here.
            Err(Error::Damaged(_)) | Ok(_) => assert!(read.contains(&bit), "{bit}"),
            Err(error) => panic!("{bit}: {error:?}"),
        }
    }
}

#[test]
fn a_journal_that_was_not_replayed_is_looked_into() {
    if !has("mke2fs") || !has("debugfs") {
        return;
    }
    let (root, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(root.path().join("file"), noise(12 << 10)).unwrap();
    let image = scratch.path().join("image");
    for (options, open_journal) in [
        ("-t ext3 -b 1024", "jo"),
        ("-t ext4 -b 1024", "jo -c -v 3"),
        ("-t ext4 -b 4096", "jo -c -v 2"),
        ("-t ext4", "jo"),
    ] {
        let plain = mke2fs(root.path(), &image, "32M", options);
        let system = open(plain).unwrap();
        let size = system.block_size() as usize;
        let block = system.map(&system.open_file("file").unwrap(), 1).unwrap().block.unwrap();
        let (new, commands) = (scratch.path().join("new"), scratch.path().join("commands"));
        fs::write(&new, vec![b'n'; size]).unwrap();
        let text = format!("{open_journal}\njw -b {block} {}\njc\n", new.display());
        fs::write(&commands, text).unwrap();
        let mut debugfs = system_tool("debugfs");
        let done = debugfs.arg("-w").arg("-f").arg(&commands).arg(&image).output().unwrap();
        let image = fs::read(&image).unwrap();
        assert!(image[1024 + 0x60] & 4 != 0, "{options}: {}", String::from_utf8_lossy(&done.stderr));
        let system = open(image).unwrap();
        let found = whole(&system, &system.open_file("file").unwrap()).unwrap();
        let mut expected = noise(12 << 10);
        expected[size..2 * size].fill(b'n');
        assert!(found == expected, "{options}, {open_journal}");
    }
}

/// Reads everything that can be read, and says nothing of it.
fn exhaust(image: Vec<u8>) {
    let Ok(system) = open(image) else { return };
    let mut left = vec![String::new()];
    let mut budget = 50;
    while let Some(path) = left.pop()
        && budget > 0
    {
        budget -= 1;
        let Ok(inode) = system.find_path(&path) else { continue };
        for entry in system.entries(&inode).unwrap_or_default().into_iter().take(20) {
            let _ = system.follow(&path, entry.inode);
            left.push(format!("{path}/{}", String::from_utf8_lossy(&entry.name)));
        }
        if inode.is_file() && system.check_map(&inode).is_ok() {
            let mut bytes = vec![0; inode.size().min(1 << 20) as usize];
            let _ = system.read(&inode, 0, &mut bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_image_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 2048..8192)) {
        let mut image = bytes;
        image[1024 + 0x38..][..2].copy_from_slice(&0xef53u16.to_le_bytes());
        exhaust(image);
    }
}

#[test]
fn no_damage_makes_it_panic() {
    if !has("mke2fs") {
        return;
    }
    let (root, scratch) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in ["a", "b", "dir/c", "dir/d"] {
        fs::create_dir_all(root.path().join("dir")).unwrap();
        fs::write(root.path().join(name), noise(20_000)).unwrap();
    }
    for options in
        ["-t ext2 -b 1024 -N 32", "-t ext4 -b 1024 -N 32 -O ^metadata_csum,inline_data,^has_journal"]
    {
        let plain = mke2fs(root.path(), &scratch.path().join("image"), "256K", options);
        let used: Vec<_> = (0..plain.len()).filter(|at| plain[*at] != 0).collect();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
        let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8);
        let outcome = runner.run(&damage, |damage| {
            let mut image = plain.clone();
            for (index, value) in damage {
                image[*index.get(&used)] = value;
            }
            exhaust(image);
            Ok(())
        });
        outcome.unwrap();
    }
}
