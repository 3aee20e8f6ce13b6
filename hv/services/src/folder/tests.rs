//! Folders, on a real file system.

use super::*;
use crate::store::version;

fn put(
    folder: &Arc<Folder>,
    key: &str,
    value: &[u8],
    condition: Condition,
    version: u64,
) -> Result<(), Refusal> {
    let mut file = folder.begin(key, value.len() as u64)?;
    file.write(value)?;
    file.finish(condition, version)
}

fn set(folder: &Arc<Folder>, key: &str, value: &[u8]) -> Result<(), Refusal> {
    put(folder, key, value, Condition::Always, 0)
}

fn status<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Status {
    match result.unwrap_err() {
        Refusal::Status(status, _) => status,
        other => panic!("{other:?}"),
    }
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_value_is_a_file_and_stays_in_the_folder() {
    let place = tempfile::tempdir().unwrap();
    let inner = place.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let folder = Folder::open(&inner, None).unwrap();
    for key in ["../outside", "/etc/passwd", "..", ".lock", "a\0b", "plain"] {
        set(&folder, key, key.as_bytes()).unwrap();
        assert_eq!(folder.get(key, 100).unwrap(), key.as_bytes());
    }
    assert_eq!(names(place.path()), ["inner"]);
    assert_eq!(std::fs::read(inner.join("plain")).unwrap(), b"plain");
    // A link that somebody has put there is not followed.
    std::os::unix::fs::symlink("/etc/passwd", inner.join("link")).unwrap();
    assert_eq!(status(folder.get("link", 1 << 20)), Status::Failed);
    assert_eq!(status(folder.get("none", 1)), Status::NotFound);
    assert_eq!(status(folder.get("plain", 4)), Status::TooLarge);
}

#[test]
fn changes_depend_on_what_is_there() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::open(place.path(), None).unwrap();
    let none = version(b"never");
    assert_eq!(status(put(&folder, "k", b"1", Condition::Version, none)), Status::Conflict);
    put(&folder, "k", b"1", Condition::Absent, 0).unwrap();
    assert_eq!(status(put(&folder, "k", b"2", Condition::Absent, 0)), Status::Conflict);
    assert_eq!(status(put(&folder, "k", b"2", Condition::Version, none)), Status::Conflict);
    put(&folder, "k", b"2", Condition::Version, version(b"1")).unwrap();
    assert_eq!(folder.get("k", 10).unwrap(), b"2");
    assert_eq!(status(folder.delete("k", Condition::Version, version(b"1"))), Status::Conflict);
    folder.delete("k", Condition::Version, version(b"2")).unwrap();
    assert_eq!(status(folder.delete("k", Condition::Always, 0)), Status::NotFound);
    assert_eq!(names(place.path()), [LOCK]);
}

#[test]
fn many_who_change_one_value_lose_no_change() {
    let place = tempfile::tempdir().unwrap();
    // Two folders: as two servers have the same one.
    let folders = [0, 1].map(|_| Folder::open(place.path(), None).unwrap());
    set(&folders[0], "n", b"0").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let folder = &folders[thread % 2];
            scope.spawn(move || {
                for _ in 0..25 {
                    loop {
                        let old = folder.get("n", 10).unwrap();
                        let new = String::from_utf8_lossy(&old).parse::<u32>().unwrap() + 1;
                        match put(folder, "n", new.to_string().as_bytes(), Condition::Version, version(&old))
                        {
                            Ok(()) => break,
                            Err(refusal) => assert_eq!(refusal, Refusal::new(Status::Conflict, "")),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(folders[0].get("n", 10).unwrap(), b"100");
}

#[test]
fn a_folder_has_so_many_bytes() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("before"), [0; 40]).unwrap();
    let folder = Folder::open(place.path(), Some(100)).unwrap();
    set(&folder, "a", &[0; 60]).unwrap();
    assert_eq!(status(set(&folder, "b", &[0; 1])), Status::Limited);
    folder.delete("before", Condition::Always, 0).unwrap();
    set(&folder, "b", &[0; 40]).unwrap();
    // The new value is written while the old one is there.
    assert_eq!(status(set(&folder, "a", &[0; 1])), Status::Limited);
    folder.delete("b", Condition::Always, 0).unwrap();
    set(&folder, "a", &[0; 1]).unwrap();
    set(&folder, "b", &[0; 99]).unwrap();
    // What is given up gives its bytes back.
    folder.delete("b", Condition::Always, 0).unwrap();
    drop(folder.begin("c", 99).unwrap());
    set(&folder, "c", &[0; 99]).unwrap();
}

#[test]
fn what_a_crash_has_left_is_removed_and_other_files_are_none_of_it() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    for name in [".new-1-1", ".new-1-2", ".hidden", "%41", "v"] {
        std::fs::write(path(name), "x").unwrap();
    }
    let old = std::fs::File::options().write(true).open(path(".new-1-1")).unwrap();
    old.set_modified(SystemTime::now() - 2 * LEFT).unwrap();
    let folder = Folder::open(place.path(), None).unwrap();
    assert_eq!(names(place.path()), ["%41", ".hidden", LOCK, ".new-1-2", "v"]);
    let page = folder.list("", Page::new(10, "")).unwrap();
    assert_eq!(page.keys().collect::<Vec<_>>(), ["v"]);
    let mut half = folder.begin("v", 5).unwrap();
    half.write(b"ab").unwrap();
    assert_eq!(status(half.finish(Condition::Always, 0)), Status::Invalid);
    assert_eq!(folder.get("v", 5).unwrap(), b"x");
    assert_eq!(status(folder.begin("v", 1).unwrap().write(b"ab")), Status::Invalid);
    assert!(
        Folder::open(&path("none"), None).is_err_and(|error| error.to_string().contains("make the folder"))
    );
}
