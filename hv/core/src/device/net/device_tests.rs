//! The device with real rings: a fake guest at the other end, a fake network behind it.

use super::*;
use crate::device::net::user;
use crate::event::{Hub, Owner};
use hv_abi::ring::{BACK_LINE, Front, Layout, SharedMemory};
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

const BASE: u64 = 0x10_0000;
const PAGES: u64 = 64;
/// Where the guest keeps frames: after shared-info and the two rings.
const DATA: u64 = BASE + 8 * PAGE_SIZE;
/// What the guest may only read.
const READ_ONLY: u64 = BASE + (PAGES - 1) * PAGE_SIZE;
const ENTRIES: u32 = 64;
const MTU: u16 = 1500;

/// Frames that were sent, and frames to receive.
#[derive(Default)]
struct Tray {
    sent: Vec<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
}

struct FakeNetwork(Arc<Mutex<Tray>>);

impl Network for FakeNetwork {
    fn config(&self) -> NetConfig {
        NetConfig { mtu: MTU, ..NetConfig::default() }
    }
    fn start(&mut self, _: Registrar) -> io::Result<()> {
        Ok(())
    }
    fn send(&mut self, frame: &[u8], _: Instant) {
        self.0.lock().unwrap().sent.push(frame.to_vec());
    }
    fn ready(&mut self, _: u32, _: &Event) {}
    fn poll(&mut self, _: Instant) -> Option<Instant> {
        None
    }
    fn receive(&mut self, deliver: &mut dyn FnMut(&[u8]) -> bool) {
        let waiting = &mut self.0.lock().unwrap().waiting;
        while let Some(frame) = waiting.front() {
            if !deliver(frame) {
                return;
            }
            waiting.pop_front();
        }
    }
}

#[derive(Default)]
struct FakeOwner {
    wakes: AtomicUsize,
    terminated: Mutex<Vec<String>>,
}

impl Owner for FakeOwner {
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }
    fn interrupt(&self, _: usize) {}
    fn terminate(&self, reason: String) {
        self.terminated.lock().unwrap().push(reason);
    }
}

type NetFront = Front<RingMemory, NetRequest, NetResponse>;

struct Rig {
    memory: Arc<GuestMemory>,
    device: NetDevice,
    transmit: NetFront,
    receive: NetFront,
    rings: [RingMemory; 2],
    tray: Arc<Mutex<Tray>>,
    owner: Arc<FakeOwner>,
    captured: Arc<Mutex<Vec<u8>>>,
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rig() -> Rig {
    let mut memory = GuestMemory::new(GuestAddr(BASE), PAGES * PAGE_SIZE).unwrap();
    memory.allow(0..(PAGES - 1) * PAGE_SIZE, Access::READ | Access::WRITE);
    memory.allow((PAGES - 1) * PAGE_SIZE..PAGES * PAGE_SIZE, Access::READ);
    let memory = Arc::new(memory);
    let hub = Hub::new(memory.clone(), 0);
    let owner = Arc::new(FakeOwner::default());
    let weak: std::sync::Weak<FakeOwner> = Arc::downgrade(&owner);
    hub.set_owner(weak);
    let layout = Layout::new::<NetRequest, NetResponse>(ENTRIES, ENTRIES).unwrap();
    assert!(layout.size() as u64 <= PAGE_SIZE);
    let rings = [1, 2].map(|page| RingMemory::new(&memory, page * PAGE_SIZE, &layout));
    let ring = |index: usize| {
        let channel = hub.channel(EventPort(1 + index as u32));
        let ring =
            Ring { memory: rings[index].clone(), layout, channel, counters: Default::default(), fresh: true };
        (ring, EventFd::new(EFD_NONBLOCK).unwrap())
    };
    let tray = Arc::new(Mutex::new(Tray::default()));
    let captured = Arc::new(Mutex::new(Vec::new()));
    let capture = Capture::new(Box::new(Sink(captured.clone()))).unwrap();
    let network = Box::new(FakeNetwork(tray.clone()));
    Rig {
        device: NetDevice::new(0, ring(0), ring(1), network, Some(capture)).unwrap(),
        transmit: Front::new(rings[0].clone(), &layout),
        receive: Front::new(rings[1].clone(), &layout),
        rings,
        memory,
        tray,
        owner,
        captured,
    }
}

impl Rig {
    fn poll(&mut self) -> Option<Instant> {
        self.device.poll(Instant::now())
    }

    /// Publishes requests; whether the device asked for its doorbell.
    fn request(front: &mut NetFront, requests: &[NetRequest]) -> bool {
        assert_eq!(front.requests.push(requests), Ok(requests.len()));
        front.requests.publish()
    }

    fn responses(front: &mut NetFront) -> Vec<(u32, i32)> {
        let mut all = Vec::new();
        while let Ok(Some(response)) = front.responses.pop_one() {
            all.push((response.id, response.status));
        }
        let _ = front.responses.release();
        all
    }

    fn terminated(&self) -> Vec<String> {
        self.owner.terminated.lock().unwrap().clone()
    }
}

fn at(address: u64, len: u32, id: u32) -> NetRequest {
    NetRequest { address: GuestAddr(address), len, id }
}

#[test]
fn frames_go_both_ways_and_into_the_capture() {
    let mut rig = rig();
    let frame: Vec<u8> = (0..200u8).collect();
    rig.memory.write(GuestAddr(DATA), &frame).unwrap();
    assert!(Rig::request(&mut rig.transmit, &[at(DATA, 200, 7), at(DATA, 60, 8)]), "the doorbell is wanted");
    assert!(Rig::request(&mut rig.receive, &[at(DATA + 4096, 1514, 3), at(DATA + 8192, 1514, 4)]));
    rig.tray.lock().unwrap().waiting.push_back(vec![9; 100]);
    rig.transmit.responses.wait_for_entries().unwrap();
    rig.receive.responses.wait_for_entries().unwrap();
    assert_eq!(rig.poll(), None);
    assert_eq!(rig.tray.lock().unwrap().sent, [&frame[..], &frame[..60]]);
    assert_eq!(Rig::responses(&mut rig.transmit), [(7, 0), (8, 0)]);
    assert_eq!(Rig::responses(&mut rig.receive), [(3, 100)]);
    let mut got = vec![0; 100];
    rig.memory.read(GuestAddr(DATA + 4096), &mut got).unwrap();
    assert_eq!(got, [9; 100]);
    assert_eq!(rig.owner.wakes.load(Ordering::Relaxed), 2, "one notification a ring");
    let captured = rig.captured.lock().unwrap().clone();
    let mut reader = pcap_file::pcap::PcapReader::new(&captured[..]).unwrap();
    let mut lengths = Vec::new();
    while let Some(packet) = reader.next_packet() {
        lengths.push(packet.unwrap().data.len());
    }
    assert_eq!(lengths, [200, 60, 100]);
}

#[test]
fn a_guest_that_does_not_ask_is_not_notified() {
    let mut rig = rig();
    let _ = Rig::request(&mut rig.transmit, &[at(DATA, 60, 1)]);
    // The front end has not said that it waits: entry 1 is not awaited.
    rig.transmit.responses.suppress_events();
    rig.poll();
    assert_eq!(rig.owner.wakes.load(Ordering::Relaxed), 0);
    assert_eq!(Rig::responses(&mut rig.transmit), [(1, 0)]);
    // The device waits again, so it wants to hear of the next one.
    assert!(Rig::request(&mut rig.transmit, &[at(DATA, 60, 2)]));
}

#[test]
fn frames_wait_until_there_are_buffers() {
    let mut rig = rig();
    rig.tray.lock().unwrap().waiting.extend([vec![1; 100], vec![2; 100]]);
    assert_eq!(rig.poll(), None, "no buffer is no reason to come back");
    assert_eq!(rig.tray.lock().unwrap().waiting.len(), 2);
    assert!(Rig::request(&mut rig.receive, &[at(DATA, 1514, 1)]), "the doorbell is wanted");
    rig.poll();
    assert_eq!(Rig::responses(&mut rig.receive), [(1, 100)]);
    assert!(Rig::request(&mut rig.receive, &[at(DATA, 1514, 2)]), "the doorbell is wanted again");
    rig.poll();
    assert_eq!(Rig::responses(&mut rig.receive), [(2, 100)]);
    assert_eq!(rig.tray.lock().unwrap().waiting.len(), 0);
}

#[test]
fn bad_requests_are_answered_with_an_error_and_nothing_else() {
    let (fault, invalid) = (Errno::Fault.to_status(), Errno::Invalid.to_status());
    let end = BASE + PAGES * PAGE_SIZE;
    let mut rig = rig();
    let _ = Rig::request(
        &mut rig.transmit,
        &[
            at(0, 60, 0),
            at(u64::MAX, 60, 1),
            at(end - 30, 60, 2),
            at(DATA, 0, 3),
            at(DATA, 13, 4),
            at(DATA, u32::MAX, 5),
            at(DATA, 1515, 6),
            at(DATA, 1514, 7),
            at(READ_ONLY, 60, 8),
        ],
    );
    let _ = Rig::request(
        &mut rig.receive,
        &[
            at(0, 1514, 0),
            at(u64::MAX - 10, 1514, 1),
            at(end - 100, 1514, 2),
            at(READ_ONLY, 1514, 3),
            at(DATA, 0, 4),
            at(DATA, 99, 5),
            at(DATA, u32::MAX, 6),
            at(DATA, 100, 7),
        ],
    );
    rig.tray.lock().unwrap().waiting.push_back(vec![1; 100]);
    rig.poll();
    let transmitted = [fault, fault, fault, invalid, invalid, invalid, invalid, 0, 0];
    let received = [fault, fault, fault, fault, invalid, invalid, fault, 100];
    let numbered = |all: &[i32]| all.iter().enumerate().map(|(n, s)| (n as u32, *s)).collect::<Vec<_>>();
    assert_eq!(Rig::responses(&mut rig.transmit), numbered(&transmitted));
    assert_eq!(Rig::responses(&mut rig.receive), numbered(&received));
    assert_eq!(rig.tray.lock().unwrap().sent.len(), 2);
    assert!(!rig.device.is_dead());
}

#[test]
fn an_index_that_jumps_ends_the_guest_once() {
    for ring in 0..2 {
        let mut rig = rig();
        rig.tray.lock().unwrap().waiting.push_back(vec![1; 100]);
        // The front end's producer index is the ring's first word.
        rig.rings[ring].store(0, 1 << 20);
        assert_eq!(rig.poll(), None);
        assert!(rig.device.is_dead());
        let reasons = rig.terminated();
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        let name = ["net0 transmit ring", "net0 receive ring"][ring];
        assert!(reasons[0].contains(name), "{reasons:?}");
        // From then on nothing is touched.
        let before = rig.rings[ring].load(BACK_LINE);
        assert_eq!(rig.poll(), None);
        assert_eq!(rig.rings[ring].load(BACK_LINE), before);
        assert_eq!(rig.terminated().len(), 1);
    }
}

#[test]
fn a_flood_ends_each_round_at_its_budget() {
    let mut rig = rig();
    let flood: Vec<_> = (0..ENTRIES).map(|id| at(DATA, 60, id)).collect();
    // A guest that takes its responses, and refills the ring, at the same time
    // cannot be had in one thread; a network that does it for the guest can.
    struct Refill(NetFront, Vec<NetRequest>, usize);
    impl Network for Refill {
        fn config(&self) -> NetConfig {
            NetConfig { mtu: MTU, ..NetConfig::default() }
        }
        fn start(&mut self, _: Registrar) -> io::Result<()> {
            Ok(())
        }
        fn send(&mut self, _: &[u8], _: Instant) {
            self.2 += 1;
            assert!(self.2 < 10_000, "the round does not end");
            Rig::responses(&mut self.0);
            let _ = self.0.requests.push(&self.1);
            let _ = self.0.requests.publish();
        }
        fn ready(&mut self, _: u32, _: &Event) {}
        fn poll(&mut self, _: Instant) -> Option<Instant> {
            None
        }
        fn receive(&mut self, _: &mut dyn FnMut(&[u8]) -> bool) {}
    }
    let _ = Rig::request(&mut rig.transmit, &flood);
    let Rig { mut device, transmit, .. } = rig;
    device.network = Some(Box::new(Refill(transmit, flood, 0)));
    let now = Instant::now();
    assert_eq!(device.poll(now), Some(now), "come back at once, after the others");
    assert!(!device.is_dead());
}

/// An ARP request for the gateway of a user-mode network.
fn arp_request() -> Vec<u8> {
    use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol};
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        source_protocol_addr: user::GUEST,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: user::GATEWAY,
    };
    let mut bytes = vec![0; 14 + request.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
    frame.set_dst_addr(EthernetAddress::BROADCAST);
    frame.set_ethertype(EthernetProtocol::Arp);
    request.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// Waits for so many responses of a device that another thread drives.
fn wait_for(front: &mut NetFront, count: usize) -> Vec<(u32, i32)> {
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        assert!(start.elapsed().as_secs() < 60, "no response: {all:?}");
        all.extend(Rig::responses(front));
        std::thread::yield_now();
    }
    all
}

#[test]
fn doorbells_drive_the_device_in_the_reactor_and_storms_are_harmless() {
    let mut rig = rig();
    let network = user::UserNet::new(user::UserConfig::new([2, 0, 0, 0, 0, 1])).unwrap();
    rig.device.network = Some(Box::new(network));
    let doorbells = [&rig.device.transmit, &rig.device.receive].map(|q| q.doorbell.try_clone().unwrap());
    let reactor = crate::reactor::Reactor::new().unwrap();
    let id = reactor.add(Box::new(rig.device));
    let request = arp_request();
    rig.memory.write(GuestAddr(DATA), &request).unwrap();
    for round in 0..200 {
        if Rig::request(&mut rig.receive, &[at(DATA + 4096, 4096, round)]) {
            doorbells[1].write(1).unwrap();
        }
        if Rig::request(&mut rig.transmit, &[at(DATA, request.len() as u32, round)]) {
            doorbells[0].write(1).unwrap();
        }
        // Ringing for nothing changes nothing.
        for doorbell in &doorbells {
            doorbell.write(1000).unwrap();
        }
        assert_eq!(wait_for(&mut rig.transmit, 1), [(round, 0)]);
        assert_eq!(wait_for(&mut rig.receive, 1), [(round, request.len() as i32)]);
    }
    // A dead device leaves its doorbells alone.
    rig.rings[0].store(0, 1 << 20);
    doorbells[0].write(1).unwrap();
    let start = Instant::now();
    while rig.owner.terminated.lock().unwrap().is_empty() {
        assert!(start.elapsed().as_secs() < 60, "the violation was not noticed");
        doorbells[0].write(1).unwrap();
        std::thread::yield_now();
    }
    doorbells[1].write(1).unwrap();
    reactor.remove(&[id]);
    assert_eq!(rig.owner.terminated.lock().unwrap().len(), 1);
}
