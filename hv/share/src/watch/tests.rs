use super::super::folder::Folder;
use super::super::path::RelativePath;
use super::*;
use hv_abi::io::share::{OPEN_DIRECTORY, OPEN_READ, READ_DIR_MAX, ROOT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use tempfile::TempDir;
use zerocopy::FromBytes;

/// An event: what happened, whether it is one of a pair, and the name.
type Seen = (u32, bool, String);

fn shared() -> (TempDir, Share) {
    let folder = TempDir::new().unwrap();
    let spec = format!("{}=t", folder.path().to_str().unwrap());
    let share = Share::new(Folder::open(&spec.parse().unwrap()).unwrap()).unwrap();
    (folder, share)
}

fn open(share: &Share, name: &str, flags: u16) -> u64 {
    share.open(ROOT, Some(&RelativePath::new(name.into()).unwrap()), OPEN_READ | flags, 0).unwrap()
}

fn decode(mut bytes: &[u8]) -> Vec<(ShareEvent, String)> {
    let mut events = Vec::new();
    while !bytes.is_empty() {
        let (head, body) = ShareEvent::read_from_prefix(bytes).unwrap();
        let (name, padding) =
            body[..usize::from(head.len) - size_of::<ShareEvent>()].split_at(head.name_len.into());
        assert!(head.len % 8 == 0 && padding.len() < 8 && padding.iter().all(|byte| *byte == 0));
        events.push((head, String::from_utf8(name.to_vec()).unwrap()));
        bytes = &bytes[head.len.into()..];
    }
    events
}

/// Reads all that the kernel has, without waiting: events are there when the call returns that made them.
fn read_all(share: &Share) {
    while share.read_changes() {}
}

fn seen(share: &Share, handle: u64) -> Vec<Seen> {
    read_all(share);
    let bytes = share.changes(handle, READ_DIR_MAX as usize).unwrap();
    decode(&bytes).into_iter().map(|(head, name)| (head.what, head.pair != 0, name)).collect()
}

fn of(what: u32, name: &str) -> Seen {
    (what, false, name.into())
}

#[test]
fn what_changes_in_a_folder_is_told_in_its_order() {
    let (folder, share) = shared();
    let path = |name: &str| folder.path().join(name);
    let root = open(&share, ".", OPEN_DIRECTORY);
    assert!(share.change_events().is_none());
    share.watch(root).unwrap();
    share.watch(root).unwrap();
    assert_eq!(seen(&share, root), []);
    fs::write(path("new"), "text").unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::rename(path("new"), path("other")).unwrap();
    let readable = share.change_events().unwrap();
    let soon = Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&readable, PollFlags::IN)], Some(&soon)).unwrap(), 1);
    assert_eq!(
        seen(&share, root),
        [
            of(EVENT_MADE, "new"),
            of(EVENT_WRITTEN, "new"),
            of(EVENT_CLOSED, "new"),
            of(EVENT_MADE | EVENT_DIRECTORY, "folder"),
            (EVENT_REMOVED, true, "new".into()),
            (EVENT_MADE, true, "other".into()),
        ]
    );
    // What lies below is another folder's.
    fs::write(path("folder/below"), "").unwrap();
    fs::set_permissions(path("other"), fs::metadata(path("folder")).unwrap().permissions()).unwrap();
    fs::remove_file(path("other")).unwrap();
    assert_eq!(seen(&share, root), [of(EVENT_ATTRIBUTES, "other"), of(EVENT_REMOVED, "other")]);
}

#[test]
fn handles_of_one_folder_are_told_each() {
    let (folder, share) = shared();
    let (one, other) = (open(&share, ".", OPEN_DIRECTORY), open(&share, ".", OPEN_DIRECTORY));
    share.watch(one).unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    read_all(&share);
    share.watch(other).unwrap();
    fs::create_dir(folder.path().join("b")).unwrap();
    let (a, b) = (of(EVENT_MADE | EVENT_DIRECTORY, "a"), of(EVENT_MADE | EVENT_DIRECTORY, "b"));
    assert_eq!((seen(&share, one), seen(&share, other)), (vec![a, b.clone()], vec![b]));
    share.close(one).unwrap();
    assert_eq!(share.changes(one, 512), Err(Errno::BadHandle));
    fs::create_dir(folder.path().join("c")).unwrap();
    assert_eq!(seen(&share, other), [of(EVENT_MADE | EVENT_DIRECTORY, "c")]);
    share.close(other).unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    read_all(&share);
    let again = open(&share, ".", OPEN_DIRECTORY);
    share.watch(again).unwrap();
    assert_eq!(seen(&share, again), [], "what went before is nobody's");
}

#[test]
fn a_file_is_watched_by_itself() {
    let (folder, share) = shared();
    fs::write(folder.path().join("file"), "").unwrap();
    let file = open(&share, "file", 0);
    share.watch(file).unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    assert_eq!(seen(&share, file), [of(EVENT_WRITTEN, ""), of(EVENT_CLOSED, "")]);
    fs::remove_file(folder.path().join("file")).unwrap();
    assert_eq!(seen(&share, file), [of(EVENT_ATTRIBUTES, "")], "it has a name less");
}

#[test]
fn events_are_fetched_as_many_as_fit() {
    let (folder, share) = shared();
    let root = open(&share, ".", OPEN_DIRECTORY);
    share.watch(root).unwrap();
    for number in 0..10 {
        fs::create_dir(folder.path().join(format!("{number:0>40}"))).unwrap();
    }
    read_all(&share);
    let mut names = Vec::new();
    loop {
        let bytes = share.changes(root, 512).unwrap();
        assert!(bytes.len() <= 512);
        if bytes.is_empty() {
            break;
        }
        names.extend(decode(&bytes).into_iter().map(|(_, name)| name.trim_start_matches('0').len()));
    }
    assert_eq!(names.len(), 10);
}

#[test]
fn who_fetches_nothing_is_told_that_events_are_lost() {
    let (folder, share) = shared();
    let (root, other) = (open(&share, ".", OPEN_DIRECTORY), open(&share, ".", OPEN_DIRECTORY));
    share.watch(root).unwrap();
    share.watch(other).unwrap();
    let name = folder.path().join("n".repeat(250));
    for _ in 0..1500 {
        fs::create_dir(&name).unwrap();
        fs::remove_dir(&name).unwrap();
        read_all(&share);
    }
    let mut all = 0;
    let mut last = Vec::new();
    loop {
        let bytes = share.changes(root, READ_DIR_MAX as usize).unwrap();
        if bytes.is_empty() {
            break;
        }
        all += bytes.len();
        last = decode(&bytes);
    }
    assert_eq!(last.last().unwrap().0.what, EVENT_LOST);
    assert!(all > KEPT / 3 && all <= KEPT, "{all}");
    fs::create_dir(&name).unwrap();
    assert_eq!(seen(&share, root).len(), 1, "and then it goes on");
    assert!(share.changes(other, 512).is_ok_and(|bytes| !bytes.is_empty()));
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let (_folder, share) = shared();
    let place = share.open(ROOT, None, OPEN_DIRECTORY, 0).unwrap();
    for handle in [ROOT, 12345, place] {
        assert_eq!(share.watch(handle), Err(Errno::BadHandle));
    }
    assert_eq!(share.changes(place, 512), Err(Errno::Invalid));
    let most: Vec<_> = (0..WATCHED_MAX).map(|_| open(&share, ".", OPEN_DIRECTORY)).collect();
    most.iter().for_each(|handle| share.watch(*handle).unwrap());
    let more = open(&share, ".", OPEN_DIRECTORY);
    assert_eq!(share.watch(more), Err(Errno::TooManyOpen));
    share.close(most[3]).unwrap();
    assert_eq!(share.watch(more), Ok(()));
    share.clear();
    assert!(share.change_events().is_none());
    assert_eq!(share.changes(more, 512), Err(Errno::BadHandle));
}
