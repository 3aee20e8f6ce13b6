//! Locks and extended attributes.

use core::cell::Cell;
use hv_guest::abi::Errno;
use hv_guest::block_on;
use hv_guest::embassy_futures::select::select;
use hv_guest::embassy_futures::yield_now;
use hv_guest::fs::{self, Error, OpenOptions};
use hv_guest::prelude::*;
use hv_guest::share::{
    LOCK_EXCLUSIVE, LOCK_SHARED, LOCK_TEST, OPEN_READ, OPEN_WRITE, ROOT, Share, XATTR_CREATE, XATTR_MAX,
    XATTR_REPLACE,
};

fn open(share: &Share, name: &str, flags: u16) -> u64 {
    share.create(ROOT, name.as_bytes(), flags, 0).block().unwrap()
}

/// Locks of two handles; at the end one of them has all of the file.
pub(crate) fn locks(share: Share) {
    let [one, other] = [(); 2].map(|()| open(&share, "file", OPEN_READ | OPEN_WRITE));
    let lock = |handle, flags, start, len| share.lock(handle, flags, start, len).block().map(drop);
    assert_eq!(lock(one, LOCK_EXCLUSIVE, 0, 10), Ok(()));
    assert_eq!(lock(other, LOCK_EXCLUSIVE, 5, 1), Err(Errno::Busy));
    assert_eq!(lock(other, LOCK_SHARED | LOCK_TEST, 9, 1), Err(Errno::Busy));
    assert_eq!(lock(other, LOCK_EXCLUSIVE | LOCK_TEST, 10, 0), Ok(()));
    assert_eq!(lock(other, LOCK_EXCLUSIVE, 10, 0), Ok(()));
    assert_eq!(lock(one, LOCK_SHARED, 0, 10), Ok(()), "instead of its own");
    assert_eq!(lock(other, LOCK_SHARED, 0, 10), Ok(()));
    assert_eq!(lock(one, LOCK_EXCLUSIVE, 3, 1), Err(Errno::Busy));
    assert_eq!(lock(other, 0, 0, 0), Ok(()));
    assert_eq!(lock(one, LOCK_EXCLUSIVE, 3, 1), Ok(()));
    let (reader, place) = (open(&share, "file", OPEN_READ), open(&share, "file", 0));
    assert_eq!(lock(reader, LOCK_EXCLUSIVE, 20, 1), Err(Errno::BadHandle));
    assert_eq!(lock(reader, LOCK_SHARED, 20, 1), Ok(()));
    assert_eq!(lock(place, LOCK_SHARED, 20, 1), Err(Errno::BadHandle));
    assert_eq!(lock(ROOT, LOCK_SHARED, 20, 1), Err(Errno::BadHandle));
    assert_eq!(lock(reader, 0, 0, 0), Ok(()));
    for (flags, start, len) in [
        (LOCK_SHARED | LOCK_EXCLUSIVE, 0, 1),
        (LOCK_TEST, 0, 1),
        (8, 0, 1),
        (LOCK_SHARED, u64::MAX, 1),
        (LOCK_SHARED, 0, u64::MAX),
        (LOCK_SHARED, u64::MAX >> 1, u64::MAX >> 1),
    ] {
        assert_eq!(lock(one, flags, start, len), Err(Errno::Invalid), "{flags} {start} {len}");
    }
    // They go with the handle, which is given back a moment later.
    share.close(one);
    while lock(other, LOCK_EXCLUSIVE, 0, 0) == Err(Errno::Busy) {}
    let files = fs::open_share(share);
    let file = files.open_with("folder/inner", OpenOptions::new().read(true).write(true)).unwrap();
    file.try_lock().unwrap();
    let second = files.open("folder/inner").unwrap();
    assert_eq!((second.try_lock_shared(), second.try_lock()), (Err(Error::Busy), Err(Error::Invalid)));
    file.unlock().unwrap();
    second.try_lock_shared().unwrap();
    assert_eq!(fs::memory(9999).create("x").unwrap().try_lock(), Err(Error::Unsupported));
    println!("locked");
}

/// Extended attributes of a file and a folder.
pub(crate) fn xattrs(share: Share) {
    let file = open(&share, "file", OPEN_READ);
    let folder = open(&share, "folder", OPEN_READ);
    let mut buffer = vec![0; XATTR_MAX as usize];
    let set = |handle, name: &[u8], value: &[u8], flags| {
        share.set_xattr(handle, name, value, flags).block().map(drop)
    };
    assert_eq!(share.xattr(file, b"user.none", &mut buffer).block(), Err(Errno::NotFound));
    assert_eq!(set(file, b"user.a", b"one", XATTR_REPLACE), Err(Errno::NotFound));
    assert_eq!(set(file, b"user.a", b"one", XATTR_CREATE), Ok(()));
    assert_eq!(set(file, b"user.a", b"two", XATTR_CREATE), Err(Errno::Exists));
    assert_eq!(set(file, b"user.a", b"two, longer", XATTR_REPLACE), Ok(()));
    assert_eq!(set(file, b"user.\xff", b"", 0), Ok(()), "any bytes");
    assert_eq!(set(folder, b"user.of a folder", b"\0\x01", 0), Ok(()));
    assert_eq!(share.xattr(file, b"user.a", &mut []).block(), Ok(11));
    assert_eq!(share.xattr(file, b"user.a", &mut buffer[..10]).block(), Err(Errno::TooLarge));
    assert_eq!(share.xattr(file, b"user.a", &mut buffer).block(), Ok(11));
    assert_eq!(&buffer[..11], b"two, longer");
    assert_eq!(share.xattr(file, b"user.\xff", &mut buffer).block(), Ok(0));
    let names = |handle, buffer: &mut [u8]| {
        let len = share.list_xattrs(handle, buffer).block().unwrap();
        let mut names: Vec<_> =
            buffer[..len as usize].split_inclusive(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        names
    };
    assert_eq!(names(file, &mut buffer), [b"user.a\0".to_vec(), b"user.\xff\0".to_vec()]);
    assert_eq!(names(folder, &mut buffer), [b"user.of a folder\0"]);
    assert_eq!(share.remove_xattr(file, b"user.\xff").block(), Ok(0));
    assert_eq!(share.remove_xattr(file, b"user.\xff").block(), Err(Errno::NotFound));
    assert_eq!(share.list_xattrs(file, &mut []).block(), Ok(7));
}

/// What no guest may set, on any share.
pub(crate) fn foreign_xattrs(share: Share) {
    let file = open(&share, "file", OPEN_READ);
    let long = [b"user.".to_vec(), vec![b'x'; 251]].concat();
    let names: [(&[u8], Errno); 9] = [
        (b"security.capability", Errno::NotSupported),
        (b"security.selinux", Errno::NotSupported),
        (b"system.posix_acl_access", Errno::NotSupported),
        (b"trusted.overlay.opaque", Errno::NotSupported),
        (b"USER.a", Errno::NotSupported),
        (b"", Errno::NotSupported),
        (b"user.", Errno::Invalid),
        (b"user.a\0b", Errno::Invalid),
        (&long, Errno::NameTooLong),
    ];
    for (name, errno) in names {
        assert_eq!(share.set_xattr(file, name, b"\x01", 0).block(), Err(errno));
        assert_eq!(share.xattr(file, name, &mut [0; 9]).block(), Err(errno));
        assert_eq!(share.remove_xattr(file, name).block(), Err(errno));
    }
    let place = open(&share, "file", 0);
    assert_eq!(share.xattr(place, b"user.a", &mut []).block(), Err(Errno::BadHandle));
    assert_eq!(share.list_xattrs(ROOT, &mut []).block(), Err(Errno::BadHandle));
    assert_eq!(share.xattr(u64::MAX, b"user.a", &mut []).block(), Err(Errno::BadHandle));
    let large = vec![0; XATTR_MAX as usize + 1];
    assert_eq!(share.set_xattr(file, b"user.large", &large, 0).block(), Err(Errno::Invalid));
}

/// What a file system says of a file and of a name that is not there, before and after a line of input.
pub(crate) fn unchanging(files: &fs::FileSystem, path: &str) {
    for _ in 0..2 {
        let text = block_on(files.read(path)).unwrap();
        let entries = files.read_dir("").unwrap().len();
        let (metadata, nothing) = (files.metadata(path).unwrap(), files.metadata("nothing"));
        println!("{} {} {nothing:?} {}", metadata.len, String::from_utf8(text).unwrap(), entries > 0);
        assert_eq!(files.open("nothing").err(), nothing.err());
        super::wait();
    }
}

/// All operations that let other tasks run, in a share and in what is mounted in it.
pub(crate) async fn asynchronous(share: fs::FileSystem) {
    let mounts = fs::Mounts::new(share).mount("/folder", fs::memory(1 << 16)).unwrap();
    let files = fs::FileSystem::from(mounts).into_async();
    for place in ["/made", "/folder/made"] {
        let path = |name: &str| format!("{place}/{name}");
        files.create_dir_all(&path("a/b")).await.unwrap();
        files.create_dir_all(&path("a/b")).await.unwrap();
        assert_eq!(files.create_dir(&path("a")).await, Err(Error::Exists));
        files.write(&path("a/b/file"), b"text").await.unwrap();
        assert_eq!(files.read(&path("a/b/file")).await.unwrap(), b"text");
        assert_eq!(files.metadata(&path("a/b/file")).await.unwrap().len, 4);
        files.rename(&path("a/b/file"), &path("a/other")).await.unwrap();
        let mut names: Vec<_> =
            files.read_dir(&path("a")).await.unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        assert_eq!(names, ["b", "other"]);
        assert_eq!(files.open(&path("a/b/file")).await.err(), Some(Error::NotFound));
        assert_eq!(files.remove_dir(&path("a")).await, Err(Error::NotEmpty));
        files.remove_file(&path("a/other")).await.unwrap();
        files.remove_dir(&path("a/b")).await.unwrap();
    }
    assert_eq!(files.rename("/made/a", "/folder/x").await, Err(Error::CrossesFileSystems));
    assert_eq!(files.blocking().metadata("/made/a").map(|found| found.is_dir), Ok(true));
    // Other tasks run while the host works.
    let others = Cell::new(0_u32);
    let count = async {
        loop {
            others.set(others.get() + 1);
            yield_now().await;
        }
    };
    let work = async {
        for _ in 0..100 {
            files.read("/file").await.unwrap();
        }
    };
    select(work, count).await;
    assert!(others.get() >= 100, "{}", others.get());
    println!("asynchronous");
}
