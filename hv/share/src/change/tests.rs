use super::*;
use crate::{Folder, RelativePath, XattrName};
use hv_abi::io::share::{
    OPEN_CREATE, OPEN_DIRECTORY, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE, ROOT,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder, shared to be written.
struct Work {
    folder: TempDir,
    share: Share,
}

impl Work {
    fn new(options: &str) -> Work {
        let folder = TempDir::new().unwrap();
        let spec = format!("{}=t{options}", folder.path().to_str().unwrap());
        let share = Share::new(Folder::open(&spec.parse().unwrap()).unwrap()).unwrap();
        Work { folder, share }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self, name: &str, flags: u16) -> Result<u64, Errno> {
        self.share.open(ROOT, Some(&path(name)), flags, 0o640)
    }

    fn rename(&self, from: &str, to: &str, flags: u16) -> Result<(), Errno> {
        self.share.rename((ROOT, Some(&path(from))), (ROOT, Some(&path(to))), flags)
    }

    fn remove(&self, name: &str, flags: u16) -> Result<(), Errno> {
        self.share.remove(ROOT, Some(&path(name)), flags)
    }

    fn change(&self, name: &str, change: &ShareChange) -> Result<(), Errno> {
        self.share.change(ROOT, Some(&path(name)), true, change)
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn path(name: &str) -> RelativePath {
    RelativePath::new(name.as_bytes().to_vec()).unwrap()
}

#[test]
fn files_are_made_emptied_and_written_as_the_flags_say() {
    let work = Work::new("");
    let made = OPEN_WRITE | OPEN_CREATE;
    assert_eq!(work.open("new", OPEN_WRITE), Err(Errno::NotFound));
    let file = work.open("new", made | OPEN_READ).unwrap();
    rustix::io::pwrite(work.share.file_to_write(file).unwrap(), b"text", 0).unwrap();
    assert_eq!(fs::read(work.at("new")).unwrap(), b"text");
    work.share.sync(file, true).unwrap();
    work.share.sync(file, false).unwrap();
    assert_eq!(work.open("new", made | OPEN_EXCLUSIVE), Err(Errno::Exists));
    let again = work.open("new", made).unwrap();
    assert_eq!(work.share.file(again).map(drop), Err(Errno::BadHandle), "not opened to be read");
    assert_eq!(fs::read(work.at("new")).unwrap(), b"text", "opening leaves it as it is");
    work.open("new", OPEN_WRITE | OPEN_TRUNCATE).unwrap();
    assert_eq!(fs::read(work.at("new")).unwrap(), b"");
    let reader = work.open("new", OPEN_READ).unwrap();
    assert_eq!(work.share.file_to_write(reader).map(drop), Err(Errno::BadHandle));
    assert_eq!(work.share.sync(work.open("new", 0).unwrap(), true), Err(Errno::BadHandle));
    for flags in [OPEN_CREATE, OPEN_TRUNCATE | OPEN_READ, OPEN_WRITE | OPEN_EXCLUSIVE, made | OPEN_DIRECTORY]
    {
        assert_eq!(work.open("x", flags), Err(Errno::Invalid), "{flags}");
    }
    fs::create_dir(work.at("folder")).unwrap();
    assert_eq!(work.open("folder", OPEN_WRITE), Err(Errno::IsDirectory));
    assert_eq!(work.open("folder/a/b", made), Err(Errno::NotFound));
    work.open("folder/a", made).unwrap();
}

#[test]
fn names_are_made_moved_and_removed() {
    let work = Work::new("");
    work.share.make_dir(ROOT, Some(&path("a")), 0o755).unwrap();
    work.share.make_dir(ROOT, Some(&path("a/b/")), 0o755).unwrap();
    assert_eq!(work.share.make_dir(ROOT, Some(&path("a")), 0o755), Err(Errno::Exists));
    fs::write(work.at("one"), "1").unwrap();
    fs::write(work.at("two"), "2").unwrap();
    assert_eq!(work.rename("one", "two", RENAME_NO_REPLACE), Err(Errno::Exists));
    work.rename("one", "two", RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(work.at("one")).unwrap(), b"2");
    work.rename("one", "a/b/three", 0).unwrap();
    let folder = work.open("a/b", OPEN_READ).unwrap();
    work.share.rename((folder, Some(&path("three"))), (ROOT, Some(&path("four"))), 0).unwrap();
    work.share.link((ROOT, Some(&path("four"))), (folder, Some(&path("five")))).unwrap();
    assert_eq!(fs::metadata(work.at("four")).unwrap().nlink(), 2);
    work.share.symlink(ROOT, Some(&path("link")), b"../\xff anything").unwrap();
    assert_eq!(work.share.symlink(ROOT, Some(&path("link")), b"x"), Err(Errno::Exists));
    assert_eq!(work.share.symlink(ROOT, Some(&path("l")), b""), Err(Errno::Invalid));
    assert_eq!(work.share.symlink(ROOT, Some(&path("l")), b"a\0b"), Err(Errno::Invalid));
    assert_eq!(work.remove("a", REMOVE_DIRECTORY), Err(Errno::NotEmpty));
    assert_eq!(work.remove("a", 0), Err(Errno::IsDirectory));
    assert_eq!(work.remove("four", REMOVE_DIRECTORY), Err(Errno::NotDirectory));
    for name in ["a/b/five", "four", "two", "link"] {
        work.remove(name, 0).unwrap();
    }
    for name in ["a/b", "a"] {
        work.remove(name, REMOVE_DIRECTORY).unwrap();
    }
    assert!(work.names().is_empty(), "{:?}", work.names());
    assert_eq!(work.remove("a", 1 << 7), Err(Errno::Invalid));
    assert_eq!(work.rename("a", "b", 3), Err(Errno::Invalid));
}

#[test]
fn nothing_outside_is_made_changed_or_removed() {
    let work = Work::new("");
    let outside = TempDir::new().unwrap();
    let there = |name: &str| outside.path().join(name);
    fs::write(there("file"), "outside").unwrap();
    fs::create_dir(work.at("a")).unwrap();
    fs::write(work.at("mine"), "").unwrap();
    symlink(outside.path(), work.at("out")).unwrap();
    symlink(there("file"), work.at("file")).unwrap();
    symlink(there("new"), work.at("new")).unwrap();
    symlink("..", work.at("a/up")).unwrap();
    let made = OPEN_WRITE | OPEN_CREATE | OPEN_TRUNCATE;
    for name in ["out/x", "file", "new", "a/../../x", "../x", "out/file"] {
        assert_eq!(work.open(name, made), Err(Errno::Outside), "{name}");
    }
    let change = ShareChange { what: SET_SIZE | SET_MODE, ..ShareChange::default() };
    for name in ["file", "out/file", "out", "../x"] {
        assert_eq!(work.change(name, &change), Err(Errno::Outside), "{name}");
    }
    for name in ["out/x", "a/../../x", "../x"] {
        assert_eq!(work.share.make_dir(ROOT, Some(&path(name)), 0o700), Err(Errno::Outside), "{name}");
        assert_eq!(work.share.symlink(ROOT, Some(&path(name)), b"x"), Err(Errno::Outside), "{name}");
        assert_eq!(work.rename("mine", name, 0), Err(Errno::Outside), "{name}");
        let (from, to) = ((ROOT, Some(&path("mine"))), (ROOT, Some(&path(name))));
        assert_eq!(work.share.link(from, to), Err(Errno::Outside), "{name}");
        assert_eq!(work.share.link(to, from), Err(Errno::Outside), "{name}");
    }
    for name in ["out/file", "../x", "a/../../x"] {
        assert_eq!(work.remove(name, 0), Err(Errno::Outside), "{name}");
    }
    for name in [".", "..", "a/..", "a/.", "a/../."] {
        assert_eq!(work.remove(name, REMOVE_DIRECTORY), Err(Errno::Invalid), "{name}");
        assert_eq!(work.rename(name, "b", 0), Err(Errno::Invalid), "{name}");
        assert_eq!(work.rename("a", name, 0), Err(Errno::Invalid), "{name}");
    }
    assert_eq!(work.share.remove(ROOT, None, 0), Err(Errno::Invalid));
    // The links themselves are the guest's to remove.
    work.remove("out", 0).unwrap();
    work.remove("file", 0).unwrap();
    assert_eq!(fs::read(there("file")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn a_read_only_share_is_not_changed_by_any_operation() {
    let work = Work::new(",ro");
    fs::write(work.at("file"), "kept").unwrap();
    let name = path("file");
    let (one, new) = ((ROOT, Some(&name)), path("new"));
    let refused = Err(Errno::ReadOnly);
    for flags in [OPEN_WRITE, OPEN_WRITE | OPEN_CREATE, OPEN_WRITE | OPEN_TRUNCATE] {
        assert_eq!(work.open("file", flags), Err(Errno::ReadOnly));
    }
    assert_eq!(work.share.make_dir(ROOT, Some(&new), 0o755), refused);
    assert_eq!(work.share.remove(ROOT, Some(&name), 0), refused);
    assert_eq!(work.share.rename(one, (ROOT, Some(&new)), 0), refused);
    assert_eq!(work.share.link(one, (ROOT, Some(&new))), refused);
    assert_eq!(work.share.symlink(ROOT, Some(&new), b"x"), refused);
    assert_eq!(work.change("file", &ShareChange { what: SET_SIZE, ..ShareChange::default() }), refused);
    assert_eq!(
        (work.names(), fs::read(work.at("file")).unwrap()),
        (vec!["file".to_owned()], b"kept".to_vec())
    );
}

#[test]
fn attributes_are_changed_and_set_id_bits_are_not_given() {
    let work = Work::new("");
    fs::write(work.at("file"), "0123456789").unwrap();
    let everything = ShareChange {
        what: SET_MODE | SET_SIZE | SET_ACCESSED | SET_MODIFIED,
        mode: 0o604,
        size: 4,
        accessed: 5,
        modified: -6,
        modified_ns: 7,
        ..ShareChange::default()
    };
    work.change("file", &everything).unwrap();
    let stat = fs::metadata(work.at("file")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.size(), stat.atime(), stat.mtime()), (0o604, 4, 5, -6));
    assert_eq!(stat.mtime_nsec(), 7);
    let now = ShareChange { what: SET_MODIFIED, modified_ns: TIME_NOW, ..ShareChange::default() };
    work.change("file", &now).unwrap();
    assert!(fs::metadata(work.at("file")).unwrap().mtime() > 1_000_000_000);
    for mode in [0o4755, 0o2755, 0o6000] {
        let change = ShareChange { what: SET_MODE, mode, ..ShareChange::default() };
        assert_eq!(work.change("file", &change), Err(Errno::Denied), "{mode:o}");
        assert_eq!(work.share.make_dir(ROOT, Some(&path("d")), mode), Err(Errno::Denied), "{mode:o}");
        let made = work.share.open(ROOT, Some(&path("f")), OPEN_WRITE | OPEN_CREATE, mode);
        assert_eq!(made, Err(Errno::Denied), "{mode:o}");
    }
    for bad in [
        ShareChange { what: 1 << 9, ..everything },
        ShareChange { mode: 1 << 16, ..everything },
        ShareChange { size: 1 << 63, ..everything },
        ShareChange { modified_ns: 1_000_000_000, ..everything },
    ] {
        assert_eq!(work.change("file", &bad), Err(Errno::Invalid), "{bad:?}");
    }
    rustix::fs::mkfifoat(rustix::fs::CWD, work.at("fifo"), Mode::RUSR).unwrap();
    assert_eq!(work.change("fifo", &everything), Err(Errno::NotSupported));
    assert_eq!(work.names(), ["fifo", "file"]);
    let space = work.share.space(ROOT).unwrap();
    assert!(space.block_size > 0 && space.blocks >= space.free);
}

#[test]
fn names_of_extended_attributes_are_those_of_users() {
    let name = |bytes: &[u8]| XattrName::new(bytes.to_vec()).map(drop);
    assert_eq!(name(b"user.mime_type"), Ok(()));
    assert_eq!(name(b"user.\xff\n"), Ok(()));
    assert_eq!(name(b"user."), Err(Errno::Invalid));
    assert_eq!(name(b"user.a\0"), Err(Errno::Invalid));
    for other in [&b""[..], b"user", b"security.capability", b"system.posix_acl_default", b"trusted.x", b"a"]
    {
        assert_eq!(name(other), Err(Errno::NotSupported));
    }
    assert_eq!(name(&[b"user.".to_vec(), vec![b'n'; 250]].concat()), Ok(()));
    assert_eq!(name(&[b"user.".to_vec(), vec![b'n'; 251]].concat()), Err(Errno::NameTooLong));
}

#[test]
fn attributes_of_the_host_are_not_shown() {
    let work = Work::new("");
    fs::write(work.at("file"), "x").unwrap();
    let handle = work.open("file", OPEN_READ | OPEN_WRITE).unwrap();
    let name = XattrName::new(b"user.a".to_vec()).unwrap();
    match work.share.set_xattr(handle, &name, b"1", 0) {
        Err(Errno::NotSupported) => return,
        set => set.unwrap(),
    }
    // For root alone.
    let _ = rustix::fs::setxattr(work.at("file"), "trusted.b", b"2", rustix::fs::XattrFlags::empty());
    assert_eq!(work.share.list_xattrs(handle).unwrap(), b"user.a\0");
    assert_eq!(work.share.xattr(handle, &name).unwrap(), b"1");
}
