//! Tests of whole devices: a guest's end of the ring, real files behind it.

mod disks;
mod here;
mod hostile;
mod io;
mod overlays;
mod throughput;
mod validating;

use super::engine::EngineKind;
use super::{BlockDevice, Disk, DiskSpec, Parts};
use crate::device::Ring;
use crate::device::spin::MAX_SPIN;
use crate::event::{Hub, Owner};
use crate::memory::{Access, GuestMemory, RingMemory};
use crate::reactor::Source;
use hv_abi::io::block::{BlockConfig, BlockRequest, BlockResponse, INLINE_SEGMENTS, Segment};
use hv_abi::ring::{Front, Layout};
use hv_abi::{Errno, EventPort, GuestAddr, PAGE_SIZE};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::IntoBytes;

const ENTRIES: u32 = 32;
const BASE: u64 = 0x10_0000;
const RING: u64 = PAGE_SIZE;
/// Where indirect lists are put.
const LIST: u64 = BASE + 16 * PAGE_SIZE;
/// Start of the memory for data, which goes on up to `READ_ONLY`.
const DATA: u64 = BASE + 32 * PAGE_SIZE;
const READ_ONLY: u64 = BASE + 2000 * PAGE_SIZE;
const GUARD: u64 = READ_ONLY + PAGE_SIZE;
const END: u64 = BASE + 2048 * PAGE_SIZE;

fn memory() -> Arc<GuestMemory> {
    let mut memory = GuestMemory::new(GuestAddr(BASE), END - BASE).unwrap();
    memory.allow(0..READ_ONLY - BASE, Access::READ | Access::WRITE);
    memory.allow(READ_ONLY - BASE..GUARD - BASE, Access::READ);
    memory.allow(GUARD - BASE + PAGE_SIZE..END - BASE, Access::READ | Access::WRITE);
    Arc::new(memory)
}

/// Writes down what the device says about its guest.
#[derive(Default)]
struct Diary {
    wakes: Mutex<u32>,
    terminated: Mutex<Vec<String>>,
}

impl Owner for Diary {
    fn wake(&self) {
        *self.wakes.lock().unwrap() += 1;
    }
    fn interrupt(&self, _: usize) {}
    fn terminate(&self, reason: String) {
        self.terminated.lock().unwrap().push(reason);
    }
}

/// A guest with one disk.
struct Rig {
    memory: Arc<GuestMemory>,
    ring: RingMemory,
    front: Front<RingMemory, BlockRequest, BlockResponse>,
    device: BlockDevice,
    diary: Arc<Diary>,
    doorbell: EventFd,
    next_id: u64,
}

impl Rig {
    fn new(spec: &DiskSpec, engine: EngineKind) -> Rig {
        Rig::with(Disk::open(spec).unwrap(), engine)
    }

    fn with(disk: Disk, engine: EngineKind) -> Rig {
        Rig::spinning(disk, engine, MAX_SPIN)
    }

    fn spinning(disk: Disk, engine: EngineKind, spin: Duration) -> Rig {
        let memory = memory();
        let layout = Layout::new::<BlockRequest, BlockResponse>(ENTRIES, ENTRIES).unwrap();
        let ring = RingMemory::new(&memory, RING, &layout);
        let hub = Hub::new(memory.clone(), 0);
        let diary = Arc::new(Diary::default());
        let owner: Weak<dyn Owner> = Arc::downgrade(&(diary.clone() as Arc<dyn Owner>));
        hub.set_owner(owner);
        let doorbell = EventFd::new(EFD_NONBLOCK).unwrap();
        let device = BlockDevice::new(Parts {
            index: 3,
            ring: Ring {
                memory: ring.clone(),
                layout,
                channel: hub.channel(EventPort(5)),
                counters: Default::default(),
                fresh: true,
            },
            entries: ENTRIES,
            doorbell: doorbell.try_clone().unwrap(),
            disk,
            engine,
            spin,
        })
        .unwrap();
        let front = Front::new(ring.clone(), &layout);
        Rig { memory, ring, front, device, diary, doorbell, next_id: 100 }
    }

    fn config(&self) -> BlockConfig {
        self.device.config()
    }

    /// A request over these segments, whose list is put into memory if it has to be.
    fn request(&mut self, op: u8, sector: u64, segments: &[Segment]) -> BlockRequest {
        self.next_id += 1;
        let mut request = BlockRequest {
            id: self.next_id,
            op,
            sector,
            segment_count: segments.len() as u16,
            ..Default::default()
        };
        if segments.len() <= INLINE_SEGMENTS {
            request.segments[..segments.len()].copy_from_slice(segments);
        } else {
            self.memory.write(GuestAddr(LIST), segments.as_bytes()).unwrap();
            request.segments[0] = segment(LIST, 16 * segments.len() as u32);
        }
        request
    }

    fn push(&mut self, requests: &[BlockRequest]) {
        assert_eq!(self.front.requests.push(requests).unwrap(), requests.len());
        let _ = self.front.requests.publish();
    }

    /// Drives the device until this many responses came.
    fn wait(&mut self, count: usize) -> Vec<BlockResponse> {
        let patience = Instant::now() + Duration::from_secs(60);
        let mut responses = Vec::new();
        while responses.len() < count {
            self.device.poll(Instant::now());
            while let Some(response) = self.front.responses.pop_one().unwrap() {
                responses.push(response);
            }
            let _ = self.front.responses.release();
            assert!(Instant::now() < patience, "{} of {count} responses", responses.len());
            std::thread::yield_now();
        }
        assert_eq!(responses.len(), count);
        responses
    }

    fn run(&mut self, request: BlockRequest) -> Result<u32, Errno> {
        self.push(&[request]);
        let response = self.wait(1)[0];
        assert_eq!((response.id, response.reserved), (request.id, 0));
        Errno::check(response.status)
    }

    fn transfer(&mut self, op: u8, sector: u64, segments: &[Segment]) -> Result<u32, Errno> {
        let request = self.request(op, sector, segments);
        self.run(request)
    }

    fn span(&mut self, op: u8, sector: u64, count: u64) -> Result<u32, Errno> {
        let request = BlockRequest { count, ..self.request(op, sector, &[]) };
        self.run(request)
    }

    fn poke(&self, address: u64, bytes: &[u8]) {
        self.memory.write(GuestAddr(address), bytes).unwrap();
    }

    fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(GuestAddr(address), &mut bytes).unwrap();
        bytes
    }
}

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: GuestAddr(address), len, reserved: 0 }
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A folder for test files on a real file system, so that `O_DIRECT` works.
fn folder() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::fs::create_dir_all(&target).unwrap();
    tempfile::tempdir_in(target).unwrap()
}

/// A file with this content.
fn file(folder: &tempfile::TempDir, content: &[u8]) -> PathBuf {
    let path = folder.path().join("disk.img");
    std::fs::write(&path, content).unwrap();
    path
}

/// The engines that this host has.
fn engines() -> Vec<EngineKind> {
    if io_uring::IoUring::new(2).is_ok() {
        return vec![EngineKind::Uring, EngineKind::Threads];
    }
    hv_skip::skip("needs io_uring, which this host's kernel refuses");
    vec![EngineKind::Threads]
}
