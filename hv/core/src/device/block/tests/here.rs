//! What the thread that runs the guest does by itself, and what it leaves to the I/O thread.

use super::*;
use crate::device::QuickHandler;
use crate::device::two_threads::SharedDevice;
use hv_abi::io::block::{OP_FLUSH, OP_READ, OP_WRITE};
use hv_abi::ring::SharedMemory;
use std::sync::atomic::{AtomicBool, Ordering};

const SECTOR: u64 = 512;
/// The word of the ring that counts what the guest has put in.
const REQUESTS_PROD: usize = 0;

/// A device that two threads drive, and its guest.
struct Pair {
    rig: Rig,
    here: Arc<SharedDevice<BlockDevice>>,
    io: Box<dyn Source>,
}

impl Pair {
    fn new(mut rig: Rig) -> Pair {
        let folder = folder();
        let disk = file(&folder, &[0; 512]);
        let spare = Rig::new(&disk.display().to_string().parse().unwrap(), EngineKind::Threads).device;
        let (here, io) = SharedDevice::new(std::mem::replace(&mut rig.device, spare));
        Pair { rig, here, io }
    }

    fn read(&mut self, sector: u64) -> BlockRequest {
        self.rig.request(OP_READ, sector, &[segment(DATA, 4096)])
    }

    fn response(&mut self) -> Option<BlockResponse> {
        let response = self.rig.front.responses.pop_one().unwrap();
        let _ = self.rig.front.responses.release();
        response
    }

    /// The I/O thread's turn, until there is a response.
    fn wait(&mut self) -> BlockResponse {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            self.io.poll(Instant::now());
            if let Some(response) = self.response() {
                return response;
            }
            assert!(Instant::now() < patience, "no response");
            std::thread::yield_now();
        }
    }

    /// This request is left to the I/O thread, which answers it.
    #[track_caller]
    fn is_left(&mut self, request: BlockRequest) {
        self.rig.push(&[request]);
        assert!(!self.here.try_ring());
        assert_eq!(self.response(), None);
        let response = self.wait();
        assert_eq!((response.id, response.status), (request.id, 0));
    }
}

/// Runs a test on a disk of this content, by every engine.
fn each(content: &[u8], options: &str, test: impl Fn(&mut Pair)) {
    for engine in engines() {
        let folder = folder();
        let spec = format!("{}{options}", file(&folder, content).display()).parse().unwrap();
        let disk = Disk::open(&spec).unwrap();
        if !options.contains("overlay") && !disk.reads_now() {
            hv_skip::skip("needs a file system that reads without waiting");
            return;
        }
        test(&mut Pair::new(Rig::with(disk, engine)));
    }
}

#[test]
fn what_is_in_memory_is_read_without_the_io_thread() {
    let content = pattern(3, 1 << 20);
    each(&content, "", |pair| {
        for round in 0..100 {
            let sector = round * 7;
            let request = pair.read(sector);
            assert!(!pair.rig.front.responses.wait_for_entries().unwrap(), "nothing is there");
            assert_eq!(pair.rig.front.requests.push(&[request]).unwrap(), 1);
            assert!(pair.rig.front.requests.publish(), "the doorbell is armed");
            assert!(pair.here.try_ring());
            let response = pair.response().expect("an answer");
            assert_eq!((response.id, response.status), (request.id, 0));
            let at = (sector * SECTOR) as usize;
            assert!(pair.rig.peek(DATA, 4096) == content[at..at + 4096], "sector {sector}");
            assert_eq!(*pair.rig.diary.wakes.lock().unwrap(), round as u32 + 1);
        }
        assert!(pair.here.try_ring(), "nothing waits");
        // Requests that are wrong need no disk.
        let beyond = pair.read(1 << 40);
        pair.rig.push(&[beyond]);
        assert!(pair.here.try_ring());
        assert_eq!(pair.response().unwrap().status, Errno::Invalid.to_status());
    });
}

#[test]
fn what_may_wait_is_left_to_the_io_thread() {
    let content = pattern(4, 1 << 20);
    each(&content, "", |pair| {
        let write = pair.rig.request(OP_WRITE, 8, &[segment(DATA, 512)]);
        pair.is_left(write);
        let flush = pair.rig.request(OP_FLUSH, 0, &[]);
        pair.is_left(flush);
        // Many at a time.
        let many: Vec<_> = (0..8).map(|n| pair.read(n)).collect();
        pair.rig.push(&many);
        assert!(!pair.here.try_ring());
        let mut answered: Vec<_> = many.iter().map(|_| pair.wait().id).collect();
        answered.sort_unstable();
        assert_eq!(answered, many.iter().map(|request| request.id).collect::<Vec<_>>());
        // Much at a time.
        let large = pair.rig.request(OP_READ, 0, &[segment(DATA, 512 << 10)]);
        pair.is_left(large);
        // A read and what is behind it: what comes first is answered.
        let (read, flush) = (pair.read(1), pair.rig.request(OP_FLUSH, 0, &[]));
        pair.rig.push(&[read, flush]);
        assert!(!pair.here.try_ring());
        assert_eq!(pair.response().unwrap().id, read.id);
        assert_eq!(pair.wait().id, flush.id);
        // And it goes on.
        let read = pair.read(2);
        pair.rig.push(&[read]);
        assert!(pair.here.try_ring());
        assert_eq!(pair.response().unwrap().id, read.id);
    });
}

#[test]
fn what_is_not_in_memory_is_left_to_the_io_thread() {
    let folder = folder();
    let path = file(&folder, &pattern(5, 4 << 20));
    let disk = Disk::open(&path.display().to_string().parse().unwrap()).unwrap();
    let reads_now = disk.reads_now();
    let mut pair = Pair::new(Rig::with(disk, EngineKind::Threads));
    let opened = std::fs::File::open(&path).unwrap();
    opened.sync_all().unwrap();
    rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut byte = [0];
    let mut bytes = [std::io::IoSliceMut::new(&mut byte)];
    let cached =
        rustix::io::preadv2(&opened, &mut bytes, 2 << 20, rustix::io::ReadWriteFlags::NOWAIT).is_ok();
    if cached || !reads_now {
        hv_skip::skip("needs a file system that can drop what it has in memory");
        return;
    }
    let read = pair.read((2 << 20) / SECTOR);
    pair.is_left(read);
    let again = pair.read((2 << 20) / SECTOR);
    pair.rig.push(&[again]);
    assert!(pair.here.try_ring(), "now it is in memory");
}

#[test]
fn overlays_and_devices_that_settle_or_are_gone_take_nothing_here() {
    each(&pattern(6, 1 << 20), ",overlay", |pair| {
        let read = pair.read(0);
        pair.is_left(read);
    });
    each(&pattern(6, 1 << 20), "", |pair| {
        assert!(pair.io.settle());
        let read = pair.read(0);
        pair.rig.push(&[read]);
        assert!(!pair.here.try_ring());
        assert_eq!(pair.response(), None);
        assert!(pair.io.settle(), "nothing was taken");
        // Resumed: it is polled.
        assert_eq!(pair.wait().id, read.id);
        pair.rig.push(&[read]);
        assert!(pair.here.try_ring());
        assert!(pair.response().is_some());
        assert!(pair.io.close());
        pair.rig.push(&[read]);
        assert!(!pair.here.try_ring());
        drop(std::mem::replace(&mut pair.io, Box::new(Nothing)));
        assert!(!pair.here.try_ring(), "it is gone");
    });
}

struct Nothing;

impl Source for Nothing {
    fn start(&mut self, _: crate::reactor::Registrar) -> std::io::Result<()> {
        Ok(())
    }
    fn ready(&mut self, _: u32, _: &mio::event::Event) {}
    fn poll(&mut self, _: Instant) -> Option<Instant> {
        None
    }
}

#[test]
fn a_broken_ring_ends_the_guest() {
    each(&pattern(7, 1 << 20), "", |pair| {
        pair.rig.ring.store(REQUESTS_PROD, ENTRIES * 3);
        assert!(pair.here.try_ring(), "nothing is left to do");
        assert_eq!(pair.rig.diary.terminated.lock().unwrap().len(), 1);
    });
}

/// Both threads at the same time: each request is answered once, with the right bytes.
#[test]
fn two_threads_answer_each_request_once() {
    let content = pattern(8, 1 << 20);
    let rounds = 20_000_u64;
    each(&content, "", |pair| {
        let over = AtomicBool::new(false);
        let Pair { rig, here, io } = pair;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    io.poll(Instant::now());
                    std::thread::yield_now();
                }
            });
            let patience = Instant::now() + Duration::from_secs(120);
            for round in 0..rounds {
                let count = 1 + round % 6;
                let requests: Vec<_> = (0..count)
                    .map(|n| rig.request(OP_READ, (round + n) % 2000, &[segment(DATA + n * 512, 512)]))
                    .collect();
                rig.push(&requests);
                here.try_ring();
                let mut open: Vec<_> = requests.iter().map(|request| request.id).collect();
                while !open.is_empty() {
                    while let Some(response) = rig.front.responses.pop_one().unwrap() {
                        let known = open.iter().position(|id| *id == response.id).expect("one that is open");
                        open.swap_remove(known);
                        assert_eq!(response.status, 0);
                    }
                    let _ = rig.front.responses.release();
                    assert!(Instant::now() < patience, "no response");
                    std::hint::spin_loop();
                }
                for n in 0..count {
                    let at = ((round + n) % 2000 * SECTOR) as usize;
                    assert!(rig.peek(DATA + n * 512, 512) == content[at..at + 512], "round {round}");
                }
            }
            over.store(true, Ordering::SeqCst);
        });
    });
}
