//! The device with a real ring: a guest that is played at the other end, and a provider that keeps the calls.

use super::*;
use crate::event::{Hub, Owner};
use crate::memory::{Access, GuestMemory, RingMemory};
use hv_abi::io::services::{Operation, Parameters};
use hv_abi::ring::{Front, Layout};
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use zerocopy::FromBytes;

const BASE: u64 = 0x10_0000;
const PAGES: u64 = 24;
const RING: u32 = 32 << 10;

#[derive(Default)]
struct Watcher(Mutex<Vec<String>>);

impl Owner for Watcher {
    fn wake(&self) {}
    fn interrupt(&self, _: usize) {}
    fn terminate(&self, reason: String) {
        self.0.lock().unwrap().push(reason);
    }
}

#[derive(Default)]
struct Keeper(Mutex<Vec<Call>>);

impl Provider for Keeper {
    fn begin(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }
    fn later(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}

struct Rig {
    device: Arc<ServicesDevice>,
    front: Front<RingMemory, u8, u8>,
    keeper: Arc<Keeper>,
    watcher: Arc<Watcher>,
    _memory: Arc<GuestMemory>,
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Rig {
    fn new() -> Rig {
        let mut memory = GuestMemory::new(GuestAddr(BASE), PAGES * PAGE_SIZE).unwrap();
        memory.allow(0..PAGES * PAGE_SIZE, Access::READ | Access::WRITE);
        let memory = Arc::new(memory);
        let hub = Hub::new(memory.clone(), 0);
        let watcher = Arc::new(Watcher::default());
        let owner: std::sync::Weak<Watcher> = Arc::downgrade(&watcher);
        hub.set_owner(owner);
        let layout = Layout::new::<u8, u8>(RING, RING).unwrap();
        let ring = RingMemory::new(&memory, PAGE_SIZE, &layout);
        let channel = hub.channel(EventPort(2));
        let keeper = Arc::new(Keeper::default());
        let device = ServicesDevice::new(Some(keeper.clone()));
        let front = Front::new(ring.clone(), &layout);
        device
            .connect(Ring { memory: ring, layout, channel, counters: Arc::default(), fresh: true })
            .unwrap();
        device.begin_request();
        Rig { device, front, keeper, watcher, _memory: memory }
    }

    fn send(&mut self, kind: FrameKind, call: u32, value: u32, bytes: &[u8]) {
        let header = FrameHeader { kind: kind as u16, code: 0, call, len: bytes.len() as u32, value };
        self.raw(&[header.as_bytes(), bytes].concat());
    }

    fn raw(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.front.requests.push(rest).unwrap();
            assert!(count > 0, "the host takes nothing more");
            rest = &rest[count..];
            let _ = self.front.requests.publish();
            self.device.ring();
        }
    }

    fn open(&mut self, call: u32, credit: u32, name: &str) {
        let (kind, code) = (FrameKind::Open as u16, Operation::StoreGet as u16);
        let parameters = Parameters { name_len: name.len() as u16, ..Parameters::default() };
        let bytes = [parameters.as_bytes(), name.as_bytes()].concat();
        let header = FrameHeader { kind, code, call, len: bytes.len() as u32, value: credit };
        self.raw(&[header.as_bytes(), &bytes].concat());
    }

    /// The frames that the host has sent.
    fn frames(&mut self) -> Vec<(FrameKind, FrameHeader, Vec<u8>)> {
        let mut bytes = Vec::new();
        loop {
            let mut some = [0; 4096];
            let count = self.front.responses.pop(&mut some).unwrap();
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&some[..count]);
            let _ = self.front.responses.release();
            // As if the host had asked to be told of each.
            self.device.ring();
        }
        let (mut frames, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let (header, after) = FrameHeader::read_from_prefix(rest).unwrap();
            let kind = FrameKind::from_number(header.kind).unwrap();
            assert!(kind.allows_from_host(header.len));
            let (content, after) = after.split_at(header.len as usize);
            frames.push((kind, header, content.to_vec()));
            rest = after;
        }
        frames
    }

    fn take(&self) -> Call {
        self.keeper.0.lock().unwrap().pop().expect("a call")
    }

    fn said(&self) -> Vec<String> {
        self.watcher.0.lock().unwrap().clone()
    }
}

#[test]
fn a_call_goes_both_ways_and_ends() {
    let mut rig = Rig::new();
    rig.open(7, 1000, "name");
    let call = rig.take();
    assert_eq!((call.request().operation, &*call.request().name), (Operation::StoreGet, "name"));
    assert!(call.poll_data(&context()).is_pending());
    rig.send(FrameKind::Data, 7, 0, b"abc");
    rig.send(FrameKind::End, 7, 0, b"");
    assert_eq!(call.poll_data(&context()), Poll::Ready(Ok(Some(b"abc".to_vec()))));
    assert_eq!(call.poll_data(&context()), Poll::Ready(Ok(None)));
    call.answer(Answer { version: 1, size: 2 });
    assert_eq!(call.poll_send(&context(), &[5; 2000]), Poll::Ready(Ok(984)), "the header counts");
    assert!(call.poll_send(&context(), &[5; 1]).is_pending());
    assert_eq!(call.send_datagram(&[5; 1]), Ok(false));
    rig.send(FrameKind::Credit, 7, 20, b"");
    assert_eq!(call.send_datagram(&[6; 4]), Ok(true));
    call.end(Status::Conflict, "why");
    let frames = rig.frames();
    let kinds: Vec<_> = frames.iter().map(|(kind, header, _)| (*kind, header.call, header.code)).collect();
    let end = (FrameKind::End, 7, Status::Conflict as u16);
    assert_eq!(kinds, [(FrameKind::Answer, 7, 0), (FrameKind::Data, 7, 0), (FrameKind::Data, 7, 0), end]);
    assert_eq!(frames[3].2, b"why");
    // What the guest has sent before it heard of the end is skipped.
    rig.send(FrameKind::Data, 7, 0, b"late");
    assert!(rig.said().is_empty() && rig.device.live.load(Ordering::Relaxed) == 0);
}

#[test]
fn the_guest_gets_credit_for_what_was_taken() {
    let mut rig = Rig::new();
    rig.open(1, 0, "");
    let call = rig.take();
    let frame = DATA_MAX as usize - HEADER as usize;
    for _ in 0..100 {
        rig.send(FrameKind::Data, 1, 0, &vec![1; frame]);
        assert!(call.poll_data(&context()).is_ready());
        let credit: u32 = rig.frames().iter().map(|(_, header, _)| header.value).sum();
        assert_eq!(credit, DATA_MAX);
    }
    assert!(rig.said().is_empty());
}

#[test]
fn calls_end_with_the_request() {
    let mut rig = Rig::new();
    rig.open(1, 100, "");
    let call = rig.take();
    assert!(!call.is_closed() && call.poll_closed(&context()).is_pending());
    rig.device.close();
    assert!(call.is_closed() && call.poll_closed(&context()).is_ready());
    assert_eq!(call.poll_data(&context()), Poll::Ready(Err(Closed)));
    assert_eq!(call.poll_send(&context(), b"x"), Poll::Ready(Err(Closed)));
    // The next one has a call of the same number, which the old one does not reach.
    rig.open(1, 100, "");
    let frames = rig.frames();
    assert_eq!(frames[0].1.code, Status::NoRequest as u16);
    rig.device.begin_request();
    rig.open(1, 100, "");
    let next = rig.take();
    call.unreachable("old", "");
    assert_eq!(rig.device.unreachable(), None);
    assert!(!next.is_closed() && rig.frames().is_empty());
    next.unreachable("new", "");
    assert_eq!(rig.device.unreachable().as_deref(), Some("new"));
    drop(rig.device);
}

#[test]
fn a_guest_has_so_many_calls_and_the_host_keeps_no_more() {
    let mut rig = Rig::new();
    for call in 0..CALLS_MAX as u32 {
        rig.open(call, 0, "");
    }
    assert!(rig.frames().is_empty());
    // Closed calls count until the host has ended what it does for them.
    for call in 0..CALLS_MAX as u32 {
        rig.send(FrameKind::Close, call, 0, b"");
    }
    for call in 1000..1100 {
        rig.open(call, 0, "");
    }
    let refused = rig.frames();
    assert_eq!(refused.len(), 100);
    assert!(refused.iter().all(|(_, header, _)| header.code == Status::Limited as u16));
    assert_eq!(rig.keeper.0.lock().unwrap().len(), CALLS_MAX);
    rig.keeper.0.lock().unwrap().clear();
    rig.open(5000, 0, "");
    assert_eq!(rig.keeper.0.lock().unwrap().len(), 1);
    assert!(rig.said().is_empty());
}

#[test]
fn what_a_guest_has_left_does_not_count_against_the_next() {
    let mut rig = Rig::new();
    let fill =
        |rig: &mut Rig, first: u32| (0..CALLS_MAX as u32).for_each(|call| rig.open(first + call, 0, ""));
    fill(&mut rig, 0);
    rig.device.close();
    assert!(rig.device.is_usable());
    rig.device.begin_request();
    fill(&mut rig, 1000);
    assert!(rig.frames().is_empty());
    assert_eq!(rig.keeper.0.lock().unwrap().len(), 2 * CALLS_MAX);
    // Now both have left something: a third one could have no call.
    rig.device.close();
    assert!(!rig.device.is_usable());
    rig.keeper.0.lock().unwrap().clear();
    assert!(rig.device.is_usable());
}

#[test]
fn a_guest_that_reads_nothing_is_heard_no_more() {
    let mut rig = Rig::new();
    rig.device.close();
    // Each is answered by some 70 bytes, which nobody reads.
    let parameters = Parameters::default();
    let len = size_of::<Parameters>() as u32;
    for call in 0..10_000 {
        let header = FrameHeader { kind: FrameKind::Open as u16, code: 1, call, len, value: 0 };
        let bytes = [header.as_bytes(), parameters.as_bytes()].concat();
        if rig.front.requests.room().unwrap() < bytes.len() as u32 {
            break;
        }
        rig.front.requests.push(&bytes).unwrap();
        let _ = rig.front.requests.publish();
        rig.device.ring();
    }
    assert!(rig.front.requests.room().unwrap() < 100, "the ring is full");
    assert!(rig.device.state().end.as_ref().unwrap().is_congested());
    // Once it reads, all are heard.
    let before = rig.frames().len();
    assert!(before > 500 && rig.front.requests.room().unwrap() == RING, "{before}");
    assert!(rig.said().is_empty());
}

#[test]
fn a_guest_that_breaks_the_protocol_ends() {
    let frame = |kind: u16, len: u32, bytes: usize| {
        let header = FrameHeader { kind, code: 0, call: 1, len, value: 0 };
        [header.as_bytes(), &vec![0; bytes]].concat()
    };
    let cases: [(&str, Vec<u8>); 6] = [
        ("no frame of kind 0", frame(0, 0, 0)),
        ("no frame of kind 99 ", frame(99, 0, 0)),
        ("no frame of kind 2 ", frame(FrameKind::Answer as u16, 16, 16)),
        ("no frame of kind 3 with 4294967295", frame(FrameKind::Data as u16, u32::MAX, 0)),
        ("no frame of kind 1 with 23", frame(FrameKind::Open as u16, 23, 23)),
        ("no frame of kind 6 with 1", frame(FrameKind::Close as u16, 1, 1)),
    ];
    for (expected, bytes) in cases {
        let mut rig = Rig::new();
        rig.raw(&bytes);
        assert!(rig.said().len() == 1 && rig.said()[0].contains(expected), "{:?}: {expected}", rig.said());
        // Nothing of it is used any more.
        rig.device.ring();
        rig.device.close();
    }
    let broken = |work: &dyn Fn(&mut Rig)| {
        let mut rig = Rig::new();
        rig.open(1, 1, "");
        work(&mut rig);
        rig.said().concat()
    };
    assert!(broken(&|rig| rig.open(1, 1, "")).contains("a call that is open"));
    assert!(broken(&|rig| rig.send(FrameKind::Credit, 1, u32::MAX, b"")).contains("credit"));
    assert!(
        broken(&|rig| (0..3).for_each(|_| rig.send(FrameKind::Data, 1, 0, &[0; DATA_MAX as usize])))
            .contains("more data of a call than it had credit for")
    );
    assert!(
        broken(&|rig| {
            rig.send(FrameKind::End, 1, 0, b"");
            rig.send(FrameKind::Data, 1, 0, b"x");
        })
        .contains("data of a call that it has ended")
    );
}
