//! Requests of a guest to a share: any operations, handles, paths and memory, over a folder with files, links in and out, and a FIFO.

use crate::rig::{self, BASE, Room};
use crate::{Input, Seed};
use hv_abi::GuestAddr;
use hv_abi::io::share::{
    OP_ATTRIBUTES, OP_CLOSE, OP_OPEN, OP_READ, OP_READ_DIR, OP_READ_LINK, OPEN_READ, ROOT, ShareRequest,
};
use hv_core::device::share::Folder;
use hv_core::fuzzing::share::{Share, carry_out};
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// What stands in a file outside of the folder.
const SECRET: &[u8] = b"this is outside of the share";
/// Where the guest puts paths, and where it wants data.
const PATHS: u64 = 4 * 4096;
const DATA: u64 = 6 * 4096;
const DATA_LEN: u32 = 4 * 4096;

/// A folder that is shared, and one beside it.
struct Rig {
    room: Room,
    share: Share,
    _inside: TempDir,
    outside: TempDir,
}

impl Rig {
    fn new(options: &str) -> Rig {
        let (inside, outside) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
        fs::write(outside.path().join("secret"), SECRET).expect("a file");
        let at = |name: &str| inside.path().join(name);
        fs::create_dir_all(at("a/b")).expect("folders");
        fs::write(at("a/b/file"), "inside").expect("a file");
        for (target, name) in
            [("a/b", "within"), ("..", "up"), ("../..", "a/up"), ("loop", "loop"), ("/", "root")]
        {
            symlink(target, at(name)).expect("a link");
        }
        symlink(outside.path(), at("out")).expect("a link");
        symlink(outside.path().join("secret"), at("a/secret")).expect("a link");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, rustix::fs::Mode::RWXU, 0).expect("a FIFO");
        let spec = format!("{}=fuzz{options}", inside.path().to_str().expect("text"));
        let folder = Folder::open(&spec.parse().expect("a share")).expect("a folder");
        let share = Share::new(folder).expect("random numbers");
        Rig { room: Room::new(), share, _inside: inside, outside }
    }
}

thread_local! {
    static READ_ONLY: Rig = Rig::new(",ro");
}

/// Runs the target. What a guest has changed in a share is not what the next input begins with.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 2 {
        0 => READ_ONLY.with(|rig| drive(rig, &mut input)),
        _ => drive(&Rig::new(""), &mut input),
    }
}

fn drive(rig: &Rig, input: &mut Input<'_>) {
    let mut open = Vec::new();
    while input.more() {
        step(rig, input, &mut open);
    }
    rig.room.check();
    rig.room.clear();
    rig.share.clear();
    let left = fs::read_dir(rig.outside.path()).expect("a folder").count();
    let secret = fs::read(rig.outside.path().join("secret")).expect("it is there");
    assert!(left == 1 && secret == SECRET, "something outside was changed");
}

fn step(rig: &Rig, input: &mut Input<'_>, open: &mut Vec<u64>) {
    let (op, shape) = (input.byte(), input.byte());
    let path = input.bytes();
    rig.room.write(PATHS, path);
    let request = ShareRequest {
        id: 1,
        op: u16::from(op % 16),
        flags: if shape & 1 == 0 { u16::from(input.byte()) } else { input.half() },
        path_len: if shape & 2 == 0 { path.len() as u32 } else { input.word() },
        handle: match open.len() {
            count if shape & 4 != 0 && count > 0 => open[usize::from(input.byte()) % count],
            _ if shape & 8 == 0 => ROOT,
            _ => input.number(),
        },
        offset: if shape & 16 == 0 { 0 } else { input.number() },
        path: if shape & 32 == 0 { GuestAddr(BASE + PATHS) } else { rig::address(input) },
        data: if shape & 64 == 0 { GuestAddr(BASE + DATA) } else { rig::address(input) },
        data_len: match (op, shape & 128) {
            (_, 128) => input.word(),
            (op, _) if u16::from(op % 16) == OP_ATTRIBUTES => 88,
            (op, _) if u16::from(op % 16) == OP_READ_LINK => 4096,
            _ => DATA_LEN,
        },
        mode: u32::from(shape) << 1,
        other: if shape & 8 == 0 { ROOT } else { u64::from(shape) },
    };
    let outcome = carry_out(&rig.share, &rig.room.memory, &request);
    match (request.op, outcome) {
        (OP_OPEN, Ok(handle)) => {
            assert!(!open.contains(&handle) && handle != ROOT, "a handle of two files");
            open.push(handle);
        }
        (OP_CLOSE, Ok(_)) => open.retain(|&handle| handle != request.handle),
        (OP_READ | OP_READ_DIR | OP_READ_LINK, Ok(len)) => assert!(len <= u64::from(request.data_len)),
        _ => {}
    }
    assert!(open.len() <= rig.share.folder().config().max_handles as usize);
    if (request.op, outcome.is_ok()) != (OP_READ, true) {
        return;
    }
    let mut pages = vec![0; 12 * 4096];
    rig.room.memory.host_read(0, &mut pages);
    assert!(!pages.windows(SECRET.len()).any(|bytes| bytes == SECRET), "what is outside was read");
}

/// Each operation on each kind of file.
pub fn seeds() -> Vec<Vec<u8>> {
    let open = |path: &str, flags: u8| {
        Seed::default().byte(0).byte(OP_OPEN as u8).byte(0).bytes(path.as_bytes()).byte(flags)
    };
    let on_open = |seed: Seed, op: u16, flags: u8| seed.byte(op as u8).byte(4).bytes(b"").byte(flags).byte(0);
    let mut seeds = Vec::new();
    for path in
        ["a/b/file", "within/file", "out/secret", "a/secret", "up", "a/../../x", "fifo", "loop", "root/etc"]
    {
        let seed = open(path, OPEN_READ as u8);
        let seed = on_open(seed, OP_READ, 0);
        let seed = on_open(seed, OP_ATTRIBUTES, 0);
        let seed = seed.byte(OP_ATTRIBUTES as u8).byte(0).bytes(path.as_bytes()).byte(64);
        let seed = seed.byte(OP_READ_LINK as u8).byte(0).bytes(path.as_bytes()).byte(0);
        seeds.push(on_open(seed, OP_CLOSE, 0).done());
    }
    for folder in ["", "a", "within", "out"] {
        let seed = open(folder, OPEN_READ as u8);
        let seed = on_open(seed, OP_READ_DIR, 1);
        seeds.push(on_open(seed, OP_READ_DIR, 0).done());
    }
    for op in 7..16 {
        let seed = Seed::default().byte(1).byte(OP_OPEN as u8).byte(0).bytes(b"a/b/file").byte(3);
        seeds.push(on_open(seed.byte(op).byte(0).bytes(b"a/b/file").byte(0), op.into(), 0).done());
    }
    seeds
}
