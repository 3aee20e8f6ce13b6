//! A guest that works on its first share, or breaks its contract.
//!
//! Each argument is a command: `list:PATH`, `cat:PATH`, `stat:PATH`, `link:PATH`, `wait` for a line of input, or a violation.
#![no_std]
#![no_main]

mod owned;
mod raw;
mod watch;

use hv_guest::abi::Errno;
use hv_guest::abi::io::share::{
    PATH_MAX, SET_MODE, SET_MODIFIED, SET_OWNER, SET_SIZE, ShareAttributes, ShareChange, ShareSpace,
};
use hv_guest::prelude::*;
use hv_guest::share::{
    self, Entries, NO_FOLLOW, OPEN_CREATE, OPEN_EXCLUSIVE, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE,
    REMOVE_DIRECTORY, RENAME_EXCHANGE, ROOT, SYNC_DATA, Share, WITH_ATTRIBUTES, WRITE_APPEND,
};
use hv_guest::{block_on, console, fs};

#[hv_guest::entry]
fn main() {
    for command in env::args().skip(1) {
        let (what, path) = command.split_once(':').unwrap_or((command, ""));
        match what {
            "tags" => share::shares().for_each(|share| println!("{} {}", share.tag(), share.read_only())),
            "list" => list(path),
            "cat" => cat(path),
            "stat" => stat(path),
            "link" => link(path),
            "bytes" => bytes(path),
            "together" => block_on(together(path)),
            "wait" => wait(),
            "work" => work(),
            "read-only" => read_only(),
            "locks" => owned::locks(first()),
            "xattrs" => owned::xattrs(first()),
            "foreign-xattrs" => owned::foreign_xattrs(first()),
            "watch" => block_on(watch::until_the_end(files(), path)),
            "watch-and-go" => block_on(watch::and_go(first(), path)),
            "watch-for-good" => watch::for_good(first(), path),
            "unchanging" => owned::unchanging(&files(), path),
            "asynchronous" => block_on(owned::asynchronous(files())),
            "append" => append(path),
            "fill" => fill(path),
            "ready" => hv_guest::ready(),
            "keep" => keep(path),
            "open-for-good" => open_for_good(path),
            "made-up-handles" => made_up_handles(),
            "bad-names" => bad_names(),
            "bad-memory" => raw::bad_memory(),
            "changing-requests" => raw::changing_requests(path),
            "never-reads-responses" => raw::never_reads_responses(),
            "index-jump" => raw::index_jump(),
            "storm" => storm(path),
            _ => panic!("no such command: {command}"),
        }
    }
    println!("survived");
}

fn first() -> Share {
    share::shares().next().expect("the test gives a share")
}

fn files() -> fs::FileSystem {
    fs::open_share(first())
}

/// What is in a folder, by name, through the module `fs`.
fn list(path: &str) {
    match files().read_dir(path) {
        Ok(mut entries) => {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            for entry in entries {
                println!("{} {} {}", entry.name, entry.metadata.is_dir, entry.metadata.len);
            }
        }
        Err(error) => println!("{error}"),
    }
}

/// A file's text.
fn cat(path: &str) {
    match block_on(files().read(path)) {
        Ok(bytes) => println!("{}", String::from_utf8_lossy(&bytes)),
        Err(error) => println!("{error}"),
    }
}

/// Length and FNV-1a of a file that is read without an executor.
fn bytes(path: &str) {
    let mut file = files().open(path).unwrap();
    let mut all = vec![0; file.len() as usize];
    let count = file.read_at_blocking(0, &mut all).unwrap();
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    println!("{count} {:016x}", all.iter().fold(0xcbf2_9ce4_8422_2325, step));
}

/// The attributes of a name itself.
fn stat(path: &str) {
    let mut attributes = ShareAttributes::default();
    match first().attributes(ROOT, path.as_bytes(), NO_FOLLOW, &mut attributes).block() {
        Ok(_) => println!(
            "{:o} {} {} {} {}.{:09}",
            attributes.mode,
            attributes.size,
            attributes.uid,
            attributes.links,
            attributes.modified,
            attributes.modified_ns
        ),
        Err(errno) => println!("{errno:?}"),
    }
}

fn link(path: &str) {
    let mut target = [0; PATH_MAX + 1];
    match first().read_link(ROOT, path.as_bytes(), &mut target).block() {
        Ok(len) => println!("{}", String::from_utf8_lossy(&target[..len as usize])),
        Err(errno) => println!("{errno:?}"),
    }
}

/// Opens and reads a file hundreds of times, as many at a time as the ring has room for, and more.
async fn together(path: &str) {
    let share = first();
    let one = async || {
        let handle = share.open(ROOT, path.as_bytes(), OPEN_READ).await.unwrap();
        let mut buffer = [0; 64];
        let count = share.read(handle, 0, &mut buffer).await.unwrap() as usize;
        share.close(handle);
        buffer[..count].iter().map(|&byte| u32::from(byte)).sum::<u32>()
    };
    let mut tasks: Vec<_> = (0..300).map(|_| Box::pin(one())).collect();
    let mut sum = 0;
    let mut left = tasks.len();
    core::future::poll_fn(|context| {
        tasks.retain_mut(|task| match task.as_mut().poll(context) {
            core::task::Poll::Ready(value) => {
                sum += value;
                left -= 1;
                false
            }
            core::task::Poll::Pending => true,
        });
        if left == 0 { core::task::Poll::Ready(()) } else { core::task::Poll::Pending }
    })
    .await;
    println!("{sum}");
}

/// Opens a file, is saved, and reads on: a clone is told that the handle is gone, and opens it again.
fn keep(path: &str) {
    let share = first();
    let handle = share.open(ROOT, path.as_bytes(), OPEN_READ).block().unwrap();
    hv_guest::ready();
    let mut buffer = [0; 64];
    let read = |handle, buffer: &mut [u8]| share.read(handle, 0, buffer).block();
    println!("{:?}", read(handle, &mut buffer));
    let again = share.open(ROOT, path.as_bytes(), OPEN_READ).block().unwrap();
    let count = read(again, &mut buffer).unwrap() as usize;
    println!("{}", String::from_utf8_lossy(&buffer[..count]));
}

/// Makes, writes, renames and removes what `work_is_done` of the tests expects to find.
fn work() {
    let share = first();
    let made = OPEN_WRITE | OPEN_CREATE;
    share.make_dir(ROOT, b"made", 0o750).block().unwrap();
    let folder = share.open(ROOT, b"made", OPEN_READ).block().unwrap();
    let file = share.create(folder, b"text", made | OPEN_READ, 0o640).block().unwrap();
    assert_eq!(share.write(file, 0, b"hello", 0).block(), Ok(5));
    assert_eq!(share.write(file, 1 << 20, b"far", 0).block(), Ok(3));
    assert_eq!(share.write(file, 0, b", appended", WRITE_APPEND).block(), Ok(10));
    let mut buffer = [0; 16];
    assert_eq!(share.read(file, 0, &mut buffer).block(), Ok(16));
    assert_eq!(&buffer, b"hello\0\0\0\0\0\0\0\0\0\0\0");
    share.sync(file, SYNC_DATA).block().unwrap();
    share.sync(folder, 0).block().unwrap();
    share.rename((folder, b"text"), (ROOT, b"renamed"), 0).block().unwrap();
    share.link((ROOT, b"renamed"), (folder, b"linked")).block().unwrap();
    share.symlink(folder, b"link", b"linked").block().unwrap();
    share.rename((ROOT, b"file"), (folder, b"linked"), RENAME_EXCHANGE).block().unwrap();
    let what = SET_MODE | SET_MODIFIED | SET_OWNER | SET_SIZE;
    let (as_it_is, size) = (u32::MAX, (1 << 20) + 13);
    let change = ShareChange {
        what,
        mode: 0o604,
        uid: as_it_is,
        gid: as_it_is,
        size,
        modified: 77,
        ..ShareChange::default()
    };
    share.change(ROOT, b"renamed", 0, &change).block().unwrap();
    let again = share.create(ROOT, b"renamed", OPEN_READ | OPEN_WRITE, 0).block().unwrap();
    assert_eq!(share.read(again, 1 << 20, &mut buffer).block(), Ok(13));
    share.remove(ROOT, b"fifo", 0).block().unwrap();
    assert_eq!(share.remove(ROOT, b"folder", REMOVE_DIRECTORY).block(), Err(Errno::NotEmpty));
    let exclusive = share.create(ROOT, b"renamed", made | OPEN_EXCLUSIVE, 0o600).block();
    assert_eq!(exclusive, Err(Errno::Exists));
    let mut space = ShareSpace::default();
    share.space(ROOT, &mut space).block().unwrap();
    assert!(space.block_size > 0 && space.available <= space.blocks);
}

/// Tries all that would change a read-only share.
fn read_only() {
    let share = first();
    let change = ShareChange { what: SET_MODE, mode: 0o777, ..ShareChange::default() };
    let outcomes = [
        share.create(ROOT, b"new", OPEN_WRITE | OPEN_CREATE, 0o600).block(),
        share.create(ROOT, b"file", OPEN_WRITE, 0).block(),
        share.create(ROOT, b"file", OPEN_WRITE | OPEN_TRUNCATE, 0).block(),
        share.make_dir(ROOT, b"new", 0o700).block(),
        share.remove(ROOT, b"file", 0).block(),
        share.rename((ROOT, b"file"), (ROOT, b"new"), 0).block(),
        share.link((ROOT, b"file"), (ROOT, b"new")).block(),
        share.symlink(ROOT, b"new", b"x").block(),
        share.change(ROOT, b"file", 0, &change).block(),
    ];
    assert!(outcomes.iter().all(|outcome| *outcome == Err(Errno::ReadOnly)), "{outcomes:?}");
    let reader = share.open(ROOT, b"file", OPEN_READ).block().unwrap();
    assert_eq!(share.write(reader, 0, b"x", 0).block(), Err(Errno::BadHandle));
    assert_eq!(share.set_xattr(reader, b"user.a", b"x", 0).block(), Err(Errno::ReadOnly));
    assert_eq!(share.remove_xattr(reader, b"user.a").block(), Err(Errno::ReadOnly));
}

/// Appends a line to a file, a hundred times.
fn append(line: &str) {
    let share = first();
    let file = share.create(ROOT, b"log", OPEN_WRITE | OPEN_CREATE, 0o644).block().unwrap();
    let line = format!("{line}\n");
    for _ in 0..100 {
        assert_eq!(share.write(file, 0, line.as_bytes(), WRITE_APPEND).block(), Ok(line.len() as u64));
    }
}

/// Writes a file until the host has no room, and says what it says.
fn fill(name: &str) {
    let share = first();
    let file = share.create(ROOT, name.as_bytes(), OPEN_WRITE | OPEN_CREATE, 0o644).block().unwrap();
    let bytes = vec![1; share.max_transfer()];
    let mut at = 0;
    let errno = loop {
        match share.write(file, at, &bytes, 0).block() {
            Ok(count) => at += count,
            Err(errno) => break errno,
        }
    };
    println!("{errno:?}");
}

pub(crate) fn wait() {
    println!("waiting");
    let mut byte = [0];
    while console::read(&mut byte) == 1 && byte != *b"\n" {}
}

/// Opens a file until no more may be open, and closes all.
fn open_for_good(path: &str) {
    let share = first();
    for _ in 0..3 {
        let mut handles = Vec::new();
        let errno = loop {
            match share.open(ROOT, path.as_bytes(), OPEN_READ).block() {
                Ok(handle) => handles.push(handle),
                Err(errno) => break errno,
            }
        };
        assert_eq!((errno, handles.len()), (Errno::TooManyOpen, share.max_handles()));
        handles.into_iter().for_each(|handle| share.close(handle));
    }
}

fn made_up_handles() {
    let share = first();
    let real = share.open(ROOT, b"file", OPEN_READ).block().unwrap();
    let mut buffer = [0; 512];
    let mut attributes = ShareAttributes::default();
    let near = (0..64).map(|bit| real ^ 1 << bit);
    for handle in
        near.chain([1, 2, 3, u64::MAX, u64::MAX - 1, 1 << 63, real + 1]).filter(|&handle| handle != ROOT)
    {
        let bad = Err(Errno::BadHandle);
        assert_eq!(share.read(handle, 0, &mut buffer).block(), bad, "{handle}");
        assert_eq!(share.read_dir(handle, 0, 0, &mut buffer).block(), bad, "{handle}");
        assert_eq!(share.open(handle, b"file", 0).block(), bad, "{handle}");
        assert_eq!(share.attributes(handle, b"", 0, &mut attributes).block(), bad, "{handle}");
        assert_eq!(share.read_link(handle, b"file", &mut buffer).block(), bad, "{handle}");
        share.close(handle);
    }
    assert_eq!(share.read(ROOT, 0, &mut buffer).block(), Err(Errno::BadHandle));
    share.close(ROOT);
    assert_eq!(share.read(real, 0, &mut buffer).block(), Ok(4), "and the real one works");
    share.close(real);
    assert_eq!(share.read(real, 0, &mut buffer).block(), Err(Errno::BadHandle), "until it is closed");
}

/// The share has `file`, `folder/`, and links that lead out of it.
fn bad_names() {
    let share = first();
    let long = vec![b'n'; 64 << 10];
    let deep = b"folder/".repeat(9000);
    let cases: &[(&[u8], Errno)] = &[
        (b"..", Errno::Outside),
        (b"../file", Errno::Outside),
        (b"folder/../../file", Errno::Outside),
        (b"/", Errno::Outside),
        (b"/etc/passwd", Errno::Outside),
        (b"//file", Errno::Outside),
        (b"fi\0le", Errno::Invalid),
        (b"\0", Errno::Invalid),
        (b"file/", Errno::NotDirectory),
        (b"file/x", Errno::NotDirectory),
        (b"absolute", Errno::Outside),
        (b"up", Errno::Outside),
        (b"up/etc/passwd", Errno::Outside),
        (b"magic", Errno::Outside),
        (b"fifo", Errno::NotSupported),
        (b"nothing", Errno::NotFound),
        (b"\xff\xfe", Errno::NotFound),
        (&long, Errno::NameTooLong),
        (&long[..256], Errno::NameTooLong),
        (&deep, Errno::NameTooLong),
    ];
    for (name, errno) in cases {
        let shown = String::from_utf8_lossy(&name[..name.len().min(20)]);
        assert_eq!(share.open(ROOT, name, OPEN_READ).block(), Err(*errno), "{shown}");
    }
    for flags in [1 << 2, 1 << 4, 1 << 15, u16::MAX] {
        assert_eq!(share.open(ROOT, b"file", flags).block(), Err(Errno::Invalid), "{flags}");
    }
    assert!(share.open(ROOT, b"folder/../file", OPEN_READ).block().is_ok(), "what stays inside is found");
}

/// Opens a name over and over, and lists the folder, while the host renames.
fn storm(rounds: &str) {
    let share = first();
    let mut buffer = vec![0; 4096];
    let mut outcomes = alloc::collections::BTreeMap::<String, u32>::new();
    for _ in 0..rounds.parse().unwrap() {
        let outcome = match share.open(ROOT, b"folder/../name/file", OPEN_READ).block() {
            Ok(handle) => {
                let count = share.read(handle, 0, &mut buffer).block().unwrap() as usize;
                share.close(handle);
                String::from_utf8_lossy(&buffer[..count]).into_owned()
            }
            Err(errno) => format!("{errno:?}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
        let root = share.open(ROOT, b"", OPEN_READ).block().unwrap();
        let count = share.read_dir(root, 0, WITH_ATTRIBUTES, &mut buffer).block().unwrap() as usize;
        assert!(Entries::new(&buffer[..count], WITH_ATTRIBUTES).count() > 0);
        share.close(root);
    }
    for outcome in outcomes.keys() {
        println!("{outcome}");
    }
}

extern crate alloc;
