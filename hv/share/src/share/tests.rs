use super::super::handles::MAX_HANDLES;
use super::*;
use hv_abi::io::share::{READ_DIR_MAX, READ_DIR_MIN, ShareEntry};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use tempfile::TempDir;
use zerocopy::FromBytes;

/// A folder, shared.
struct Shared {
    folder: TempDir,
    share: Share,
}

fn shared_as(options: &str) -> Shared {
    let folder = TempDir::new().unwrap();
    let spec = format!("{}=t,ro{options}", folder.path().to_str().unwrap());
    let share = Share::new(Folder::open(&spec.parse().unwrap()).unwrap()).unwrap();
    Shared { folder, share }
}

fn shared() -> Shared {
    shared_as("")
}

fn path(bytes: impl AsRef<[u8]>) -> RelativePath {
    RelativePath::new(bytes.as_ref().to_vec()).unwrap()
}

impl Shared {
    fn file(&self, name: &str, content: &str) {
        fs::write(self.folder.path().join(name), content).unwrap();
    }

    fn open(&self, name: &str, flags: u16) -> Result<u64, Errno> {
        self.share.open(ROOT, Some(&path(name)), flags, 0o644)
    }

    fn read(&self, handle: u64) -> Result<String, Errno> {
        let node = self.share.file(handle)?;
        let mut bytes = [0; 64];
        let count = rustix::io::pread(node, &mut bytes, 0).unwrap();
        Ok(String::from_utf8(bytes[..count].to_vec()).unwrap())
    }

    /// Names with kinds and sizes, `limit` bytes at a time.
    fn list(&self, handle: u64, with_attributes: bool, limit: u32) -> BTreeMap<Vec<u8>, (u32, u64)> {
        let mut found = BTreeMap::new();
        let mut cookie = 0;
        loop {
            let bytes = self.share.read_dir(handle, cookie, with_attributes, limit as usize).unwrap();
            assert!(bytes.len() <= limit as usize);
            if bytes.is_empty() {
                return found;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (entry, tail) = rest.split_at(ShareEntry::ref_from_prefix(rest).unwrap().0.len.into());
                let (head, mut more) =
                    ShareEntry::read_from_prefix(entry).map(|(h, m)| (h, m.to_vec())).unwrap();
                let mut size = 0;
                if with_attributes {
                    let (attributes, name) = ShareAttributes::read_from_prefix(&more).unwrap();
                    assert_eq!((attributes.inode, attributes.mode >> 12), (head.inode, head.kind));
                    size = attributes.size;
                    more = name.to_vec();
                }
                more.truncate(head.name_len.into());
                assert_eq!(found.insert(more, (head.kind, size)), None, "each name once");
                (cookie, rest) = (head.cookie, tail);
            }
        }
    }
}

#[test]
fn files_are_opened_read_and_closed() {
    let shared = shared();
    fs::create_dir(shared.folder.path().join("a")).unwrap();
    shared.file("a/b", "content");
    let file = shared.open("a/b", OPEN_READ).unwrap();
    assert_eq!(shared.read(file).unwrap(), "content");
    let folder = shared.open("a", OPEN_DIRECTORY).unwrap();
    let again = shared.share.open(folder, Some(&path("b")), OPEN_READ, 0).unwrap();
    assert_eq!(shared.read(again).unwrap(), "content");
    assert_eq!(shared.read(folder), Err(Errno::BadHandle), "it was not opened to be read");
    let readable = shared.share.open(folder, None, OPEN_READ, 0).unwrap();
    assert_eq!(shared.read(readable), Err(Errno::IsDirectory));
    let attributes = shared.share.attributes(file, None, 0).unwrap();
    assert_eq!((attributes.size, kind(attributes.mode)), (7, kind::FILE));
    assert_eq!(shared.share.attributes(ROOT, Some(&path("a/b")), 0).unwrap().inode, attributes.inode);
    shared.share.close(file).unwrap();
    assert_eq!(shared.share.close(file), Err(Errno::BadHandle));
    assert_eq!(shared.read(file), Err(Errno::BadHandle));
    assert_eq!(shared.share.close(ROOT), Err(Errno::Invalid));
    assert_eq!(shared.open("a/b/c", OPEN_READ), Err(Errno::NotDirectory));
    assert_eq!(shared.open("a/c", OPEN_READ), Err(Errno::NotFound));
    assert_eq!(shared.open("a/b", OPEN_DIRECTORY), Err(Errno::NotDirectory));
    assert_eq!(shared.open("a/b", 1 << 15), Err(Errno::Invalid));
}

#[test]
fn nothing_outside_is_found_by_any_name() {
    let shared = shared();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let at = shared.folder.path();
    fs::create_dir(at.join("a")).unwrap();
    symlink(outside.path(), at.join("absolute")).unwrap();
    symlink("../..", at.join("a/up")).unwrap();
    symlink("/proc/self/root", at.join("magic")).unwrap();
    symlink("a/../a/inside", at.join("within")).unwrap();
    shared.file("a/inside", "inside");
    for name in
        ["..", "a/../..", "a/../../x", "absolute", "absolute/secret", "a/up", "a/up/x", "magic", "magic/etc"]
    {
        for flags in [0, OPEN_READ, OPEN_DIRECTORY] {
            assert_eq!(shared.open(name, flags), Err(Errno::Outside), "{name}");
        }
        assert_eq!(shared.share.attributes(ROOT, Some(&path(name)), 0), Err(Errno::Outside), "{name}");
    }
    // Nor from a folder within.
    let folder = shared.open("a", OPEN_READ).unwrap();
    for name in ["..", "up", "up/x"] {
        assert_eq!(shared.share.open(folder, Some(&path(name)), OPEN_READ, 0), Err(Errno::Outside), "{name}");
    }
    let within = shared.open("within", OPEN_READ).unwrap();
    assert_eq!(shared.read(within).unwrap(), "inside");
}

#[test]
fn links_are_read_and_not_followed_where_that_is_asked_for() {
    let shared = shared();
    symlink("/outside\nof it", shared.folder.path().join("link")).unwrap();
    symlink("loop", shared.folder.path().join("loop")).unwrap();
    shared.file("file", "");
    let read = |name: &str| shared.share.read_link(ROOT, Some(&path(name)));
    assert_eq!(read("link").unwrap(), b"/outside\nof it");
    assert_eq!(read("file"), Err(Errno::Invalid));
    assert_eq!(read("nothing"), Err(Errno::NotFound));
    assert_eq!(shared.open("loop", OPEN_READ), Err(Errno::TooManyLinks));
    assert_eq!(shared.open("link", OPEN_READ | NO_FOLLOW), Err(Errno::TooManyLinks));
    let link = shared.open("link", NO_FOLLOW).unwrap();
    assert_eq!(shared.share.read_link(link, None).unwrap(), b"/outside\nof it");
    let attributes = shared.share.attributes(ROOT, Some(&path("link")), NO_FOLLOW).unwrap();
    assert_eq!((kind(attributes.mode), attributes.size), (kind::LINK, 14));
}

/// A FIFO would make who opens it wait, and a device may do anything.
#[test]
fn fifos_sockets_and_devices_have_attributes_and_are_not_opened() {
    let shared = shared();
    let at = shared.folder.path();
    rustix::fs::mkfifoat(rustix::fs::CWD, at.join("fifo"), Mode::RUSR).unwrap();
    let _socket = UnixListener::bind(at.join("socket")).unwrap();
    let mut expected = vec![("fifo", kind::FIFO), ("socket", kind::SOCKET)];
    let null = rustix::fs::makedev(1, 3);
    let device = rustix::fs::FileType::CharacterDevice;
    // Needs root.
    if rustix::fs::mknodat(rustix::fs::CWD, at.join("null"), device, Mode::RUSR, null).is_ok() {
        expected.push(("null", kind::CHARACTER_DEVICE));
    }
    for (name, kind) in expected {
        assert_eq!(shared.open(name, OPEN_READ), Err(Errno::NotSupported), "{name}");
        let place = shared.open(name, 0).unwrap();
        assert_eq!(shared.share.attributes(place, None, 0).unwrap().mode >> 12, kind);
        assert_eq!(shared.share.file(place).map(drop), Err(Errno::BadHandle));
    }
}

#[test]
fn folders_are_listed_whole_whatever_the_names_and_however_little_is_taken() {
    let shared = shared();
    let at = shared.folder.path();
    let mut expected = BTreeMap::new();
    for index in 0..500_usize {
        let name = format!("{index:03}{}", "x".repeat(index % 250));
        fs::write(at.join(&name), "y".repeat(index)).unwrap();
        expected.insert(name.into_bytes(), (kind::FILE, index as u64));
    }
    let odd = b"\xff\xfe not \x1b UTF-8\n";
    fs::write(at.join(OsStr::from_bytes(odd)), "").unwrap();
    expected.insert(odd.to_vec(), (kind::FILE, 0));
    fs::create_dir(at.join("folder")).unwrap();
    symlink("folder", at.join("link")).unwrap();
    let handle = shared.share.open(ROOT, None, OPEN_READ | OPEN_DIRECTORY, 0).unwrap();
    for limit in [READ_DIR_MIN, 4096, READ_DIR_MAX] {
        let mut listed = shared.list(handle, true, limit);
        assert_eq!(listed.remove(&b"folder"[..]).map(|(kind, _)| kind), Some(kind::DIRECTORY));
        assert_eq!(listed.remove(&b"link"[..]), Some((kind::LINK, 6)));
        assert!(listed == expected, "{limit}");
        assert_eq!(shared.list(handle, false, limit).len(), expected.len() + 2);
    }
    assert!(shared.open(std::str::from_utf8(b"000").unwrap(), OPEN_READ).is_ok());
    assert!(shared.share.open(ROOT, Some(&path(odd)), OPEN_READ, 0).is_ok());
    let place = shared.share.open(ROOT, None, 0, 0).unwrap();
    assert_eq!(shared.share.read_dir(place, 0, false, 4096), Err(Errno::BadHandle));
    assert_eq!(shared.share.read_dir(ROOT, 0, false, 4096), Err(Errno::BadHandle));
    assert_eq!(shared.share.read_dir(handle, u64::MAX, false, 4096), Err(Errno::Invalid));
    let file = shared.open("000", OPEN_READ).unwrap();
    assert_eq!(shared.share.read_dir(file, 0, false, 4096), Err(Errno::NotDirectory));
}

#[test]
fn made_up_cookies_give_entries_or_an_error() {
    let shared = shared();
    for index in 0..100 {
        shared.file(&format!("{index}"), "");
    }
    let handle = shared.share.open(ROOT, None, OPEN_READ, 0).unwrap();
    for cookie in [1, 3, 77, 1 << 31, 1 << 62, i64::MAX as u64] {
        if let Ok(bytes) = shared.share.read_dir(handle, cookie, true, 4096) {
            assert!(bytes.len() <= 4096);
        }
    }
    assert_eq!(shared.list(handle, false, 4096).len(), 100, "and the folder is whole afterwards");
}

#[test]
fn a_folder_that_is_removed_underneath_has_nothing_in_it() {
    let shared = shared();
    shared.file("file", "kept");
    let file = shared.open("file", OPEN_READ).unwrap();
    fs::remove_dir_all(shared.folder.path()).unwrap();
    assert_eq!(shared.open("file", OPEN_READ), Err(Errno::NotFound));
    assert_eq!(shared.read(file).unwrap(), "kept", "who has a file open keeps it");
    assert_eq!(shared.share.attributes(ROOT, None, 0).unwrap().links, 0);
    let root = shared.share.open(ROOT, None, OPEN_READ, 0).unwrap();
    assert!(shared.list(root, true, 4096).is_empty());
}

#[test]
fn who_renames_while_another_opens_never_leads_outside() {
    let shared = shared();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("file"), "secret").unwrap();
    let at = shared.folder.path().to_owned();
    fs::create_dir_all(at.join("a/real")).unwrap();
    fs::write(at.join("a/real/file"), "inside").unwrap();
    symlink(outside.path(), at.join("a/link")).unwrap();
    symlink("real", at.join("a/name")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for target in [outside.path(), std::path::Path::new("real")] {
                    symlink(target, at.join("a/new")).unwrap();
                    fs::rename(at.join("a/new"), at.join("a/name")).unwrap();
                }
            }
        });
        let mut seen = BTreeMap::new();
        for _ in 0..5000 {
            let outcome = match shared.open("a/../a/name/file", OPEN_READ) {
                Ok(file) => {
                    let content = shared.read(file).unwrap();
                    shared.share.close(file).unwrap();
                    content
                }
                Err(error) => format!("{error:?}"),
            };
            *seen.entry(outcome).or_insert(0) += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let allowed = ["inside", "Outside", "Again", "NotFound"];
        assert!(seen.keys().all(|outcome| allowed.contains(&&outcome[..])), "{seen:?}");
    });
}

#[test]
fn all_handles_taken_open_nothing_more() {
    let shared = shared();
    shared.file("file", "");
    let all: Vec<_> = (0..MAX_HANDLES).map(|_| shared.open("file", OPEN_READ).unwrap()).collect();
    assert_eq!(shared.open("file", OPEN_READ), Err(Errno::TooManyOpen));
    shared.share.close(all[3]).unwrap();
    shared.open("file", OPEN_READ).unwrap();
    shared.share.clear();
    assert_eq!(shared.read(all[4]), Err(Errno::BadHandle));
}

#[test]
fn files_belong_to_the_user_that_was_named() {
    let shared = shared_as(",uid=4321");
    shared.file("file", "");
    assert_eq!(shared.share.attributes(ROOT, Some(&path("file")), 0).unwrap().uid, 4321);
    assert_eq!(shared.share.attributes(ROOT, None, 0).unwrap().uid, 4321);
}

#[test]
fn what_is_no_folder_is_not_shared() {
    let shared = shared();
    shared.file("file", "");
    let spec =
        |name: &str| format!("{}/{name}=t,ro", shared.folder.path().to_str().unwrap()).parse().unwrap();
    assert!(matches!(Folder::open(&spec("file")), Err(super::super::FolderError::NotAFolder { .. })));
    assert!(matches!(Folder::open(&spec("nothing")), Err(super::super::FolderError::Open { .. })));
}

/// On a host that says what it has in memory; None where it does not.
fn now(shared: &Shared, at: u64, name: Option<&str>, flags: u16) -> Option<Result<ShareAttributes, Errno>> {
    shared.share.attributes_now(at, name.map(path).as_ref(), flags)
}

#[test]
fn attributes_that_need_no_wait_are_the_same() {
    let shared = shared();
    let here = shared.folder.path();
    fs::create_dir(here.join("inner")).unwrap();
    shared.file("inner/file", "content");
    symlink("inner/file", here.join("link")).unwrap();
    symlink("/etc", here.join("outside")).unwrap();
    symlink("..", here.join("up")).unwrap();
    if now(&shared, ROOT, None, 0).is_none() {
        hv_skip::skip("needs a folder on a local file system");
        return;
    }
    let folder = shared.open("inner", OPEN_READ | OPEN_DIRECTORY).unwrap();
    let file = shared.open("inner/file", OPEN_READ).unwrap();
    for (at, name, flags) in [
        (ROOT, None, 0),
        (ROOT, Some("inner/file"), 0),
        (ROOT, Some("link"), 0),
        (ROOT, Some("link"), NO_FOLLOW),
        (ROOT, Some("outside"), NO_FOLLOW),
        (ROOT, Some("inner/../link"), 0),
        (folder, Some("file"), 0),
        (folder, None, 0),
        (file, None, 0),
    ] {
        let slowly = shared.share.attributes(at, name.map(path).as_ref(), flags);
        assert_eq!(now(&shared, at, name, flags), Some(slowly), "{at} {name:?} {flags}");
    }
    let gone = shared.share.attributes(ROOT, Some(&path("nothing")), 0);
    assert_eq!(
        (gone, now(&shared, ROOT, Some("nothing"), 0)),
        (Err(Errno::NotFound), Some(Err(Errno::NotFound)))
    );
    // What is wrong, and what leads out, is for the threads to find.
    for (at, name, flags) in [
        (ROOT, Some("outside"), 0),
        (ROOT, Some("up"), 0),
        (ROOT, Some("../x"), 0),
        (ROOT, Some("inner"), !NO_FOLLOW),
        (12345, Some("inner"), 0),
        (file, Some("x"), 0),
    ] {
        assert_eq!(now(&shared, at, name, flags), None, "{at} {name:?} {flags}");
    }
}

#[test]
fn other_file_systems_beneath_the_folder_may_have_to_be_waited_for() {
    let share = Share::new(Folder::open(&"/=t,ro".parse().unwrap()).unwrap()).unwrap();
    if share.attributes_now(ROOT, None, 0).is_none() {
        hv_skip::skip("needs a root file system that is a local one");
        return;
    }
    assert!(share.attributes(ROOT, Some(&path("proc/version")), 0).is_ok());
    assert_eq!(share.attributes_now(ROOT, Some(&path("proc/version")), 0), None);
    let open = share.open(ROOT, Some(&path("proc")), OPEN_DIRECTORY, 0).unwrap();
    assert_eq!(share.attributes_now(open, None, 0), None);
}
