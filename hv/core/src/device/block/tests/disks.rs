//! Opening disks: files, folders, and what cannot be one.

use super::*;
use crate::device::block::folder::{FolderError, MAX_ENTRIES};
use crate::device::block::{DiskError, disk::MAX_TRANSFER};
use fatfs::{Dir, FileSystem, FsOptions};
use hv_abi::io::block::BlockFeatures;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::process::Command;

fn open(path: &Path, options: &str) -> Result<Disk, DiskError> {
    Disk::open(&format!("{}{options}", path.display()).parse().unwrap())
}

/// The error, which must be one line that names the file.
fn refusal(path: &Path, options: &str) -> DiskError {
    let error = open(path, options).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
    error
}

#[test]
fn a_disk_tells_what_it_is() {
    let folder = folder();
    let path = file(&folder, &[7; 8192]);
    let config = open(&path, "").unwrap().config();
    assert_eq!((config.sectors, config.sector_size, config.max_transfer), (16, 512, MAX_TRANSFER));
    assert_eq!(config.features, BlockFeatures::DISCARD.bits());
    let config = open(&path, ",ro,sector=4096").unwrap().config();
    assert_eq!((config.sectors, config.sector_size), (2, 4096));
    assert_eq!(config.features, BlockFeatures::READ_ONLY.bits());
}

#[test]
fn what_cannot_be_a_disk_is_refused_in_one_line_with_a_remedy() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    assert!(matches!(refusal(&at("none"), ""), DiskError::Missing { .. }));
    assert!(refusal(&at("none"), ",rw").to_string().contains("\",ro\""), "a misspelt option");
    fs::write(at("empty"), "").unwrap();
    assert!(matches!(refusal(&at("empty"), ""), DiskError::Empty { .. }));
    assert!(matches!(refusal(&at("empty/x"), ""), DiskError::Missing { .. }));
    fs::write(at("uneven"), [0; 1024]).unwrap();
    assert!(matches!(refusal(&at("uneven"), ",sector=4096"), DiskError::Uneven { size: 1024, .. }));
    open(&at("uneven"), "").unwrap();
    assert!(matches!(Disk::open(&DiskSpec::new("/dev/null")), Err(DiskError::NotADisk { .. })));
    assert!(matches!(refusal(folder.path(), ",direct"), DiskError::DirectFolder { .. }));
}

#[test]
fn a_file_that_may_not_be_written_is_a_disk_only_with_ro() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = file(&folder, &[0; 512]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        hv_skip::skip("needs a user who is not root: this one may write every file");
        return;
    }
    assert!(matches!(refusal(&path, ""), DiskError::NotWritable { .. }));
    open(&path, ",ro").unwrap();
}

#[test]
fn a_writable_disk_belongs_to_one_guest_and_a_read_only_one_to_many() {
    let folder = folder();
    let path = file(&folder, &[0; 512]);
    let reader = open(&path, ",ro").unwrap();
    let other = open(&path, ",ro").unwrap();
    assert!(matches!(refusal(&path, ""), DiskError::Locked { .. }));
    drop((reader, other));
    let writer = open(&path, "").unwrap();
    std::thread::scope(|scope| {
        for options in ["", ",ro"] {
            let path = &path;
            scope.spawn(move || assert!(matches!(refusal(path, options), DiskError::Locked { .. })));
        }
    });
    drop(writer);
    open(&path, "").unwrap();
}

#[test]
fn a_disk_that_is_still_locked_is_waited_for() {
    let folder = folder();
    let path = file(&folder, &[0; 512]);
    let writer = open(&path, "").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| open(&path, ""));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(writer);
        waiting.join().unwrap().unwrap();
    });
}

/// All bytes of a disk.
fn bytes(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pread(disk.as_fd(), &mut bytes[done..], done as u64).unwrap();
    }
    bytes
}

fn collect(dir: Dir<'_, Cursor<&mut Vec<u8>>>, at: &str, found: &mut BTreeMap<String, Option<Vec<u8>>>) {
    for entry in dir.iter() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let path = format!("{at}/{name}");
        if entry.is_dir() {
            found.insert(path.clone(), None);
            collect(entry.to_dir(), &path, found);
        } else {
            let mut content = Vec::new();
            entry.to_file().read_to_end(&mut content).unwrap();
            assert_eq!(content.len() as u64, entry.len());
            found.insert(path, Some(content));
        }
    }
}

/// What a guest finds on the disk: folders, and files with their content.
fn contents(disk: &Disk) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut image = bytes(disk);
    let mut found = BTreeMap::new();
    let system = FileSystem::new(Cursor::new(&mut image), FsOptions::new()).unwrap();
    assert_eq!(system.volume_label(), "HV FOLDER");
    collect(system.root_dir(), "", &mut found);
    found
}

/// Has the host's own checker look at the image, if there is one.
fn check(disk: &Disk, scratch: &Path) {
    let image = scratch.join("checked.img");
    fs::write(&image, bytes(disk)).unwrap();
    // It is in a folder of administrators.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    match Command::new("fsck.fat").env("PATH", path).arg("-n").arg(&image).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(e) => hv_skip::skip(format_args!("needs fsck.fat: {e}")),
    }
}

#[test]
fn a_folder_becomes_a_fat_disk_with_the_same_files() {
    let folder = folder();
    let at = |name: &str| folder.path().join("top").join(name);
    let mut expected = BTreeMap::new();
    for dir in ["", "web", "web/deep", "web/deep/er", "nothing in here"] {
        fs::create_dir(at(dir)).unwrap();
        if !dir.is_empty() {
            expected.insert(format!("/{dir}"), None);
        }
    }
    let long = format!("web/{}.html", "a long name ".repeat(20));
    for (name, len) in [
        ("index.html", 5000),
        ("EMPTY", 0),
        ("web/deep/er/one cluster.bin", 4096),
        ("web/Übermäßig größer Name mit Umlauten.txt", 100),
        ("web/deep/big", 300_000),
        (&long, 1),
        (".hidden", 12),
        ("a.b.c.d", 4097),
    ] {
        let content = pattern(name.len() as u64, len);
        fs::write(at(name), &content).unwrap();
        expected.insert(format!("/{name}"), Some(content));
    }
    for i in 0..200 {
        let name = format!("web/deep/er/{i} of many files with a name of some length");
        fs::write(at(&name), name.as_bytes()).unwrap();
        expected.insert(format!("/{name}"), Some(name.into_bytes()));
    }
    symlink("web/deep/big", at("link to big")).unwrap();
    expected.insert("/link to big".into(), expected["/web/deep/big"].clone());
    symlink("deep/er", at("web/link to er")).unwrap();
    for name in
        expected.keys().filter_map(|k| k.strip_prefix("/web/deep/er")).map(String::from).collect::<Vec<_>>()
    {
        let content = expected[&format!("/web/deep/er{name}")].clone();
        expected.insert(format!("/web/link to er{name}"), content);
    }
    let top = at("");
    for options in ["", ",sector=4096"] {
        let disk = open(&top, options).unwrap();
        assert_eq!(disk.config().features, BlockFeatures::READ_ONLY.bits());
        assert!(contents(&disk) == expected, "{:?}", contents(&disk).keys());
        check(&disk, folder.path());
        assert!(bytes(&disk) == bytes(&open(&top, options).unwrap()), "the same folder, the same image");
    }
}

#[test]
fn an_empty_folder_is_an_empty_disk() {
    let folder = folder();
    let top = folder.path().join("top");
    fs::create_dir(&top).unwrap();
    let disk = open(&top, "").unwrap();
    assert!(contents(&disk).is_empty());
    check(&disk, folder.path());
}

#[test]
fn a_folder_that_does_not_fit_is_refused_by_the_name_of_the_file() {
    let folder = folder();
    let top = folder.path();
    let refusal = || match open(top, "").unwrap_err() {
        DiskError::Folder(e) => (e.to_string(), e),
        other => panic!("{other}"),
    };
    let refused = |name: &str, make: &dyn Fn(&Path)| {
        let path = top.join(name);
        make(&path);
        let (text, error) = refusal();
        fs::remove_file(&path).unwrap();
        assert!(text.contains(name) && !text.contains('\n'), "{text}");
        error
    };
    let sparse = |len: u64| move |path: &Path| fs::File::create(path).unwrap().set_len(len).unwrap();
    assert!(matches!(refused("huge", &sparse(4 << 30)), FolderError::FileTooLarge { .. }));
    assert!(matches!(refused("out", &|p| symlink("/etc/passwd", p).unwrap()), FolderError::Outside { .. }));
    assert!(matches!(refused("self", &|p| symlink(".", p).unwrap()), FolderError::Loop { .. }));
    fs::write(top.join("readme"), "").unwrap();
    assert!(matches!(refused("README", &sparse(1)), FolderError::SameName { .. }));

    for i in 0..2 {
        sparse((1 << 30) + 1)(&top.join(format!("half {i}")));
    }
    assert!(matches!(refusal().1, FolderError::TooLarge { .. }));
}

#[test]
fn what_a_disk_cannot_have_is_left_out_of_a_folder() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder();
    let top = folder.path();
    fs::write(top.join("there"), "1").unwrap();
    for name in
        [&b"a:b"[..], b"ends with a dot.", "smile \u{1f600}".as_bytes(), b"no \xff text", b"line\nbreak"]
    {
        fs::write(top.join(std::ffi::OsStr::from_bytes(name)), "2").unwrap();
    }
    symlink("none", top.join("broken")).unwrap();
    symlink("circle", top.join("circle")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap());
    assert!(Command::new("mkfifo").arg(top.join("pipe")).status().unwrap().success());
    let disk = open(top, "").unwrap();
    assert_eq!(contents(&disk).into_keys().collect::<Vec<_>>(), ["/there"]);
    check(&disk, folder.path());
}

#[test]
fn a_folder_of_too_many_files_is_refused() {
    let folder = folder();
    for i in 0..=MAX_ENTRIES {
        fs::File::create(folder.path().join(i.to_string())).unwrap();
    }
    let error = open(folder.path(), "").unwrap_err();
    assert!(matches!(error, DiskError::Folder(FolderError::TooMany { .. })), "{error}");
}
