//! A guest that works on files, and holds each file system against a model in its memory.
//!
//! The arguments are a file system, `memory`, `share`, `disk`, `label=NAME` or `mounts`, and what to do with it: `work`, `fill`, `look`, `together`.
#![no_std]
#![no_main]

use hv_guest::fs::{self, Error, File, FileSystem, Mounts, OpenOptions, SeekFrom};
use hv_guest::prelude::*;
use hv_guest::{block, block_on, share, time};

#[hv_guest::entry]
fn main() {
    let mut arguments = env::args().skip(1);
    let kind = arguments.next().expect("the test names a file system");
    for what in arguments {
        let files = open(kind);
        match what {
            "work" => block_on(work(&files)),
            "fill" => block_on(fill(&files)),
            "look" => look(&files),
            "read-only" => block_on(read_only(&files)),
            "together" => block_on(together(&files)),
            _ => panic!("no such work: {what}"),
        }
    }
    println!("survived");
}

fn open(kind: &str) -> FileSystem {
    let first_share = || fs::open_share(share::shares().next().expect("the test gives a share"));
    let first_disk = || fs::open_root(block::disk(0).expect("the test gives a disk")).unwrap();
    match kind {
        "memory" => fs::memory(4 << 20),
        "share" => first_share(),
        "disk" => first_disk(),
        "mounts" => {
            let root = fs::memory(1 << 20);
            root.create_dir_all("host/deep").unwrap();
            root.create_dir("disk").unwrap();
            let mounts = Mounts::new(root).mount("/host/deep", first_share());
            mounts.and_then(|mounts| mounts.mount("disk/", first_disk())).unwrap().into()
        }
        _ => fs::open_labelled(kind.strip_prefix("label=").expect("a kind")).unwrap(),
    }
}

/// What files are named that the test looks at afterwards.
const KEPT: &str = "kept/in here/a long name.bin";

/// Pseudo-random numbers (xorshift64), the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

async fn content(files: &FileSystem, path: &str) -> Vec<u8> {
    files.read(path).await.unwrap()
}

fn names(files: &FileSystem, path: &str) -> Vec<String> {
    let mut names: Vec<_> = files.read_dir(path).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

/// All that can be done with files that are written.
async fn work(files: &FileSystem) {
    println!("{}", files.kind());
    folders(files).await;
    handles(files).await;
    renames(files).await;
    like_a_model(files).await;
    files.create_dir_all("/kept/in here").unwrap();
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    files.write(KEPT, &bytes).await.unwrap();
    files.open_with(KEPT, OpenOptions::new().append(true)).unwrap().sync_all().await.unwrap();
    files.sync().unwrap();
    assert_eq!(content(files, KEPT).await, bytes);
    // FAT counts in steps of two seconds.
    let (modified, now) =
        (files.metadata(KEPT).unwrap().modified, (time::wall_nanos() / 1_000_000_000) as i64);
    assert!((now - 60..=now + 2).contains(&modified), "changed at {modified}, and now it is {now}");
}

async fn folders(files: &FileSystem) {
    let before = names(files, "/");
    files.create_dir_all("one/two/three").unwrap();
    files.create_dir_all("one/two/three").unwrap();
    assert_eq!(files.create_dir("one/two"), Err(Error::Exists));
    assert_eq!(files.create_dir("no/such"), Err(Error::NotFound));
    assert_eq!(files.create("no/such").err(), Some(Error::NotFound));
    files.write("one/file", b"1").await.unwrap();
    assert_eq!(names(files, "one"), ["file", "two"]);
    assert!(files.metadata("/one/two/").unwrap().is_dir && !files.metadata("one/file").unwrap().is_dir);
    assert_eq!(files.read_dir("one/file").err(), Some(Error::NotAFolder));
    assert_eq!(files.open("one/two").err(), Some(Error::IsAFolder));
    assert_eq!(files.create("one/two").err(), Some(Error::IsAFolder));
    assert_eq!(files.create("one/file/below").err(), Some(Error::NotAFolder));
    assert_eq!(files.remove_dir("one/two"), Err(Error::NotEmpty));
    assert_eq!(files.remove_dir("one/file"), Err(Error::NotAFolder));
    assert_eq!(files.remove_file("one/two"), Err(Error::IsAFolder));
    assert_eq!(files.remove_file("one/none"), Err(Error::NotFound));
    assert_eq!(files.create("one/../out").err(), Some(Error::NotFound));
    for folder in ["one/two/three", "one/two"] {
        files.remove_dir(folder).unwrap();
    }
    files.remove_file("one/file").unwrap();
    files.remove_dir("one").unwrap();
    assert_eq!(names(files, "/"), before);
}

async fn handles(files: &FileSystem) {
    let all = OpenOptions::new().read(true).write(true);
    assert_eq!(files.open_with("x", all).err(), Some(Error::NotFound));
    for bad in
        [OpenOptions::new(), OpenOptions::new().read(true).create(true), all.truncate(true).append(true)]
    {
        assert_eq!(files.open_with("x", bad).err(), Some(Error::Invalid));
    }
    files.open_with("x", all.create_new(true)).unwrap().write_all(b"0123456789").await.unwrap();
    assert_eq!(files.open_with("x", all.create_new(true)).err(), Some(Error::Exists));
    assert_eq!(files.open("x").unwrap().write_all(b"x").await, Err(Error::ReadOnly));
    assert_eq!(files.open("x").unwrap().set_len(0), Err(Error::ReadOnly));
    let mut some = [0; 4];
    assert_eq!(files.create("y").unwrap().read(&mut some).await, Err(Error::Invalid));

    let mut file = files.open_with("x", all).unwrap();
    assert_eq!(file.seek(SeekFrom::End(-3)), Ok(7));
    assert_eq!(file.seek(SeekFrom::Current(-8)), Err(Error::Invalid));
    assert_eq!((file.read(&mut some).await, &some[..3]), (Ok(3), &b"789"[..]));
    file.seek(SeekFrom::Start(2)).unwrap();
    file.write_all(b"ab").await.unwrap();
    assert_eq!((file.read(&mut some).await, &some), (Ok(4), b"4567"));
    file.write_all_at_blocking(12, b"end").unwrap();
    assert_eq!(file.len(), 15);
    drop(file);
    assert_eq!(content(files, "x").await, b"01ab456789\0\0end");

    let mut log = files.open_with("x", OpenOptions::new().append(true)).unwrap();
    log.write_all(b"+1").await.unwrap();
    log.write_all_at_blocking(0, b"+2").unwrap();
    assert_eq!(log.len(), 19);
    log.set_len(3).unwrap();
    log.write_all(b"+3").await.unwrap();
    let mut second = files.open_with("x", OpenOptions::new().append(true)).unwrap();
    second.write_all(b"+4").await.unwrap();
    log.write_all(b"+5").await.unwrap();
    drop((log, second));
    assert_eq!(content(files, "x").await, b"01a+3+4+5");
    assert!(files.create("x").unwrap().is_empty());
    assert!(content(files, "x").await.is_empty());
    files.remove_file("x").unwrap();
    files.remove_file("y").unwrap();
}

async fn renames(files: &FileSystem) {
    files.create_dir("from").unwrap();
    files.write("from/a", b"a").await.unwrap();
    files.write("from/b", b"b").await.unwrap();
    files.rename("from/a", "from/c").unwrap();
    files.rename("from/c", "from/b").unwrap();
    assert_eq!(names(files, "from"), ["b"]);
    assert_eq!(content(files, "from/b").await, b"a");
    files.rename("from/b", "from/b").unwrap();
    assert_eq!(files.rename("from/none", "from/d"), Err(Error::NotFound));
    files.create_dir("to").unwrap();
    files.rename("from/b", "to/moved").unwrap();
    assert_eq!(content(files, "to/moved").await, b"a");
    assert!(files.rename("to", "to/moved").is_err());
    files.rename("from", "empty").unwrap();
    files.rename("to", "empty").unwrap();
    assert_eq!(names(files, "empty"), ["moved"]);
    match files.rename("empty", "empty/inside") {
        Err(Error::Invalid | Error::Unsupported) => {}
        other => panic!("into itself: {other:?}"),
    }
    files.remove_file("empty/moved").unwrap();
    files.remove_dir("empty").unwrap();
}

/// Random changes of a file, with all of it compared after each.
async fn like_a_model(files: &FileSystem) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut model: Vec<u8> = Vec::new();
    let options = OpenOptions::new().read(true).write(true).create(true);
    let mut file: File = files.open_with("model", options).unwrap();
    for step in 0..150 {
        let at = random.below(20_000) as usize;
        match random.below(4) {
            0 => {
                file.set_len(at as u64).unwrap();
                model.resize(at, 0);
            }
            1 => file = files.open_with("model", options).unwrap(),
            _ => {
                let bytes: Vec<u8> = (0..random.below(9000)).map(|_| random.next() as u8).collect();
                file.write_all_at(at as u64, &bytes).await.unwrap();
                // A write of nothing behind the end changes nothing.
                if !bytes.is_empty() {
                    model.resize(model.len().max(at + bytes.len()), 0);
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
        let mut found = vec![0xee; model.len() + 10];
        assert_eq!(file.read_at(0, &mut found).await, Ok(model.len()), "step {step}");
        assert!(found[..model.len()] == model, "step {step}");
        assert_eq!(file.len(), model.len() as u64, "step {step}");
        assert_eq!(files.metadata("model").unwrap().len, model.len() as u64, "step {step}");
        if let Some(at) = model.len().checked_sub(1).map(|last| random.below(last as u64 + 1) as usize) {
            let mut some = vec![0; random.below(5000) as usize];
            let count = file.read_at_blocking(at as u64, &mut some).unwrap();
            assert!(some[..count] == model[at..][..count], "step {step}");
        }
    }
    drop(file);
    files.remove_file("model").unwrap();
}

/// Writes until there is no room, and again after that is removed.
async fn fill(files: &FileSystem) {
    let bytes = vec![7; 50_000];
    let mut sizes = Vec::new();
    for _ in 0..2 {
        let mut file = files.open_with("big", OpenOptions::new().append(true).create(true)).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&bytes).await {
                break error;
            }
        };
        assert_eq!(error, Error::NoSpace);
        sizes.push(file.len());
        assert_eq!(files.metadata("big").unwrap().len, file.len());
        drop(file);
        files.remove_file("big").unwrap();
    }
    assert!(sizes[0] == sizes[1] && sizes[0] > 500_000, "{sizes:?}");
    println!("filled {}", sizes[0]);
}

/// Prints what there is.
fn look(files: &FileSystem) {
    println!("{} {:?} {:?}", files.kind(), files.label(), names(files, "/"));
}

/// Nothing can be changed.
async fn read_only(files: &FileSystem) {
    assert_eq!(files.create("new").err(), Some(Error::ReadOnly));
    assert_eq!(files.create_dir("new"), Err(Error::ReadOnly));
    for name in names(files, "/") {
        if !files.metadata(&name).unwrap().is_dir {
            let write = OpenOptions::new().write(true);
            assert_eq!(files.open_with(&name, write).err(), Some(Error::ReadOnly));
            assert_eq!(files.remove_file(&name), Err(Error::ReadOnly));
            assert!(!content(files, &name).await.is_empty());
        }
        assert_eq!(files.rename(&name, "new"), Err(Error::ReadOnly));
    }
    files.sync().unwrap();
}

/// Several file systems in one tree.
async fn together(files: &FileSystem) {
    assert_eq!(names(files, "/"), ["disk", "host"]);
    assert_eq!(names(files, "host"), ["deep"]);
    files.write("top", b"memory").await.unwrap();
    files.write("/host/deep/a", b"host").await.unwrap();
    files.write("/disk/a", b"disk").await.unwrap();
    files.create_dir("/host/deep/folder").unwrap();
    assert_eq!(names(files, "/host/deep"), ["a", "folder"]);
    assert_eq!(content(files, "host/deep/a").await, b"host");
    assert_eq!(content(files, "disk/a").await, b"disk");
    assert_eq!(files.rename("/disk/a", "/host/deep/b"), Err(Error::CrossesFileSystems));
    for used in ["/", "host", "host/deep", "disk"] {
        assert_eq!(files.remove_dir(used), Err(Error::Busy), "{used}");
        assert_eq!(files.rename(used, "elsewhere"), Err(Error::Busy), "{used}");
        assert_eq!(files.rename("top", used), Err(Error::Busy), "{used}");
    }
    assert_eq!(files.create_dir("disk"), Err(Error::Exists));
    files.rename("/disk/a", "/disk/b").unwrap();
    assert_eq!(names(files, "disk"), ["b"]);
    // What covers a folder is seen instead of it, and may be any file system, a part of the same one too.
    let over = fs::memory(10_000);
    over.create_dir("only").unwrap();
    let covered: FileSystem = Mounts::new(files.clone()).mount("host", over).unwrap().into();
    assert_eq!(names(&covered, "host"), ["only"]);
    assert_eq!(names(&covered, "disk"), ["b"]);
    assert!(Mounts::new(files.clone()).mount("top", fs::memory(0)).is_err(), "a file");
    files.remove_file("top").unwrap();
    files.sync().unwrap();
}
