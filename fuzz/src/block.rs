//! The block device's back end over real files: io_uring, threads with an overlay, and read-only.

use crate::rig::{self, BASE, Front, Room};
use crate::{Input, Seed};
use hv::device::block::{BlockDevice, Disk, DiskSpec, EngineKind, Parts};
use hv::reactor::Source;
use hv_abi::GuestAddr;
use hv_abi::io::block::{BlockRequest, BlockResponse, INLINE_SEGMENTS, Segment};
use hv_abi::ring::Layout;
use std::cell::RefCell;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use zerocopy::IntoBytes;

const ENTRIES: u32 = 32;
const DISK: u64 = 256 << 10;
/// Far beyond what any request takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A device with its guest. They are used again and again, as those of a function are: an engine is
/// dear to make.
struct Rig {
    room: Room,
    front: Front,
    device: BlockDevice,
    _file: NamedTempFile,
}

/// The kinds of devices.
const KINDS: usize = 3;

impl Rig {
    fn new(kind: usize) -> Rig {
        let file = NamedTempFile::new().expect("a file");
        file.as_file().set_len(DISK).expect("a file of this size");
        let mut spec = DiskSpec::new(file.path());
        (spec.overlay, spec.read_only) = (kind == 1, kind == 2);
        spec.sector_size = if kind == 1 { 4096 } else { 512 };
        let engine = if kind == 0 { EngineKind::Auto } else { EngineKind::Threads };
        let room = Room::new();
        let layout = Layout::new::<BlockRequest, BlockResponse>(ENTRIES, ENTRIES).expect("a layout");
        let front = Front::new(&room, 0, layout, size_of::<BlockRequest>(), ENTRIES);
        let device = BlockDevice::new(Parts {
            index: 0,
            ring: front.host_end(true),
            entries: ENTRIES,
            doorbell: Room::doorbell(),
            disk: Disk::open(&spec).expect("a disk"),
            engine,
            spin: Duration::ZERO,
        });
        Rig { room, front, device: device.expect("a device"), _file: file }
    }

    /// Has the device finish what it has taken on.
    fn settle(&mut self) {
        let start = Instant::now();
        while !self.device.settle() {
            assert!(start.elapsed() < PATIENCE, "{} requests never end", self.device.in_flight());
            std::thread::yield_now();
        }
    }
}

thread_local! {
    static RIGS: RefCell<[Option<Rig>; KINDS]> = const { RefCell::new([const { None }; KINDS]) };
}

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = usize::from(input.byte()) % KINDS;
    let mut rig = RIGS.with_borrow_mut(|rigs| rigs[kind].take()).unwrap_or_else(|| Rig::new(kind));
    drive(&mut rig, &mut input);
    rig.settle();
    rig.room.check();
    if rig.room.is_terminated() {
        return;
    }
    rig.room.clear();
    rig.front.restart();
    if rig.device.reset() {
        RIGS.with_borrow_mut(|rigs| rigs[kind] = Some(rig));
    }
}

fn drive(rig: &mut Rig, input: &mut Input<'_>) {
    // As the first look of a device that has just been made.
    rig.device.poll(Instant::now());
    while input.more() {
        let which = input.byte() % 9;
        if rig::step(which, &rig.room, &mut rig.front, input) {
            continue;
        }
        match which {
            4 => drop(rig.device.poll(Instant::now())),
            5 => rig.settle(),
            6 => {
                let bytes = input.bytes();
                rig.front.push(&rig.room, bytes);
            }
            _ => {
                let request = request(input);
                rig.front.push(&rig.room, request.as_bytes());
            }
        }
    }
    rig.device.poll(Instant::now());
}

/// A request that is more or less in order.
fn request(input: &mut Input<'_>) -> BlockRequest {
    let (op, shape) = (input.byte(), input.byte());
    let mut request = BlockRequest {
        id: u64::from(shape),
        op: op % 8,
        reserved: op >> 7,
        segment_count: match shape % 4 {
            0 => input.half(),
            count => count.into(),
        },
        sector: if shape & 4 == 0 { u64::from(input.half() % 520) } else { input.number() },
        count: if shape & 8 == 0 { u64::from(input.byte()) } else { input.number() },
        ..Default::default()
    };
    for segment in &mut request.segments {
        segment.address = rig::address(input);
        segment.len = if shape & 16 == 0 { u32::from(input.byte()) * 512 } else { input.word() };
    }
    request.segments[INLINE_SEGMENTS - 1].reserved = u32::from(shape >> 7);
    request
}

fn push(seed: Seed, request: &BlockRequest) -> Seed {
    seed.byte(6).bytes(request.as_bytes())
}

/// Each operation, in one piece, in two, and by a list.
pub fn seeds() -> Vec<Vec<u8>> {
    let data = |page: u64, len| Segment { address: GuestAddr(BASE + page * 4096), len, reserved: 0 };
    let mut seeds = Vec::new();
    for kind in 0..KINDS as u8 {
        let mut seed = Seed::default().byte(kind);
        for op in 0..5 {
            let mut request = BlockRequest { id: 7, op, sector: 8, ..Default::default() };
            if op < 2 {
                request.segment_count = 2;
                request.segments = [data(6, 4096), data(7, 4096)];
            } else if op > 2 {
                request.count = 8;
            }
            seed = push(seed, &request).byte(4);
        }
        seeds.push(seed.byte(5).byte(2).byte(4).done());
        let list = [data(6, 4096), data(7, 4096), data(8, 4096), data(14, 4096)];
        let mut request = BlockRequest { op: 1, segment_count: 4, ..Default::default() };
        request.segments[0] = data(5, 64);
        let seed = Seed::default().byte(kind).byte(1).half(5 * 4096).bytes(list.as_bytes());
        let seed = push(seed, &request);
        request.op = 0;
        seeds.push(push(seed, &request).byte(4).byte(5).done());
    }
    seeds
}
