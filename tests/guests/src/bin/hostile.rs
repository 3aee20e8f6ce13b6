//! ⚠ A guest that breaks the contract; the argument names the violation.
//!
//! It writes rings and requests by hand: whatever the SDK would never do.
#![no_std]
#![no_main]

use core::ptr::{read_volatile, write_volatile};
use hv_guest::abi::device::{BLOCK, CONSOLE, NET, RingInfo};
use hv_guest::abi::io::block::{self, BlockRequest, BlockResponse, Segment};
use hv_guest::abi::io::net::{NetRequest, NetResponse};
use hv_guest::abi::ring::{FRONT_LINE, Layout, REQUEST_SLOTS};
use hv_guest::abi::tasks::TaskInfo;
use hv_guest::abi::{EventPort, GuestAddr, Hypercall, event::POWER};
use hv_guest::prelude::*;
use hv_guest::{devices, event, hypercall, start_info, time};

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let violation = args.next().unwrap_or("");
    let number = args.next().and_then(|n| n.parse::<u64>().ok());
    match violation {
        "endless-loop" => {
            println!("looping");
            loop {
                core::hint::spin_loop();
            }
        }
        "sleep-forever" => {
            println!("sleeping");
            loop {
                hypercall::block(u64::MAX);
            }
        }
        "ignore-shutdown" => ignore_shutdown(),
        "flood" => loop {
            println!("flood flood flood flood flood flood flood flood");
        },
        "doorbell-storm" => storm(number.unwrap_or(100_000)),
        "unbound-doorbells" => unbound_doorbells(),
        "unknown-hypercalls" => unknown_hypercalls(),
        "bad-hypercall-arguments" => bad_hypercall_arguments(),
        "port-write" => port_write(number.unwrap_or(0) as u16),
        "port-read" => port_read(number.unwrap_or(0) as u16),
        "port-byte" => port_byte(number.unwrap_or(0) as u16),
        "port-string" => port_string(number.unwrap_or(0) as u16),
        "touch" => touch(number.unwrap_or(0)),
        "write-host-page" => touch(start_info().memory_base.0 + 4096 * number.unwrap_or(0)),
        "read-host-page" => peek(start_info().memory_base.0 + 4096 * number.unwrap_or(0)),
        "index-jump" => indices(&[1 << 30]),
        "index-back" => indices(&[10, 5]),
        "index-wrap" => indices(&[u32::MAX]),
        "response-index-jump" => response_index(1 << 20),
        "bad-segments" => bad_segments(),
        "changing-requests" => changing_requests(),
        "never-reads-responses" => never_reads_responses(),
        "bad-frames" => bad_frames(),
        "frame-storm" => frame_storm(),
        "net-index-jump" => net_index_jump(),
        "shared-info-scribble" => scribble(),
        "broken-tasks" => broken_tasks(number.unwrap_or(0)),
        "sleeps-in-its-turn" => sleep_in_its_turn(),
        _ => {
            println!("no such violation: {violation}");
            return 2;
        }
    }
    println!("survived");
    0
}

/// Replaces the list of its tasks: by two that follow each other for ever, or by one that is nowhere.
fn broken_tasks(way: u64) -> ! {
    unsafe extern "C" {
        static mut hv_task_list: u64;
    }
    let name = "\u{1b}[2Jthis\nhv: error: forged".as_ptr() as u64;
    let task = |next| TaskInfo {
        next: GuestAddr(next),
        name: GuestAddr(name),
        name_size: if next == 0 { 26 } else { u32::MAX },
        state: !0,
        file: GuestAddr(u64::MAX - 5),
        file_size: u32::MAX,
        line: 7,
        deadline: u64::MAX,
        event: u32::MAX,
        reserved: 0,
    };
    let first = Box::leak(Box::new(task(0)));
    let second = Box::leak(Box::new(task(core::ptr::from_ref(first) as u64)));
    first.next = GuestAddr(core::ptr::from_ref(second) as u64);
    let head = [core::ptr::from_ref(first) as u64, u64::MAX - 5][way as usize];
    // SAFETY: it is the SDK's, which runs nothing any more.
    unsafe { write_volatile(&raw mut hv_task_list, head) };
    println!("broken");
    loop {
        core::hint::spin_loop();
    }
}

/// Ends its turn and sleeps, without a word to hv's thread, which waits for it: on the platform process. On KVM
/// there is nothing to sleep on.
fn sleep_in_its_turn() -> ! {
    const TURN: *mut u32 = 0x2000_0000 as *mut u32;
    const KIND: *mut u32 = 0x2000_0004 as *mut u32;
    const HOST_GUEST_SLEEPS: u32 = 3;
    const HYPERCALL: u32 = 1;
    println!("sleeping");
    loop {
        // SAFETY: the handoff page of this guest's process, where nothing of Rust's lies; elsewhere it faults.
        // The system call reads the word, and returns when hv has changed it.
        unsafe {
            write_volatile(KIND, HYPERCALL);
            write_volatile(KIND.add(1), Hypercall::Nop as u32);
            write_volatile(TURN, HOST_GUEST_SLEEPS);
            core::arch::asm!("syscall", inlateout("rax") 202u64 => _, in("rdi") TURN, in("rsi") 0,
                in("rdx") HOST_GUEST_SLEEPS, in("r10") 0, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
    }
}

fn ring(kind: u32, index: usize) -> RingInfo {
    devices().find(|device| device.kind == kind).expect("the test gives this device").rings[index]
}

fn write32(ring: &RingInfo, offset: usize, value: u32) {
    // SAFETY: inside the ring, which is this guest's to write.
    unsafe { write_volatile((ring.address.0 as usize + offset) as *mut u32, value) }
}

fn read32(ring: &RingInfo, offset: usize) -> u32 {
    // SAFETY: inside the ring, which is this guest's to read.
    unsafe { read_volatile((ring.address.0 as usize + offset) as *const u32) }
}

/// Gives the host time to act on what it should not act on.
fn pause() {
    time::sleep(time::Duration::from_millis(100));
}

fn ignore_shutdown() {
    event::unmask(POWER);
    println!("listening");
    loop {
        event::wait(None);
        if event::take(POWER) {
            println!("asked to end");
        }
    }
}

fn storm(count: u64) {
    let ports: Vec<EventPort> =
        devices().flat_map(|device| device.rings).map(|ring| ring.event).filter(|port| port.0 != 0).collect();
    for n in 0..count {
        hypercall::event_send(ports[n as usize % ports.len()]);
    }
}

fn unbound_doorbells() {
    for port in [0, 1, 500, 1023, 1024, 65_536, u32::MAX] {
        hypercall::event_send(EventPort(port));
    }
}

fn unknown_hypercalls() {
    for number in Hypercall::ALL.len() as u32..128 {
        assert_eq!(hypercall::raw(number, u64::MAX, u64::MAX), -38, "hypercall {number}");
    }
}

fn bad_hypercall_arguments() {
    let info = start_info();
    const ENTROPY: u32 = 7;
    let end = info.memory_base.0 + info.memory_size;
    let bad = [
        0,
        8,
        info.memory_base.0,
        info.hypercall_page.0,
        info.devices.0,
        main as *const () as u64,
        info.stack_base.0 - 8,
        end - 1,
        end,
        0xffff_8000_0000_0000,
        u64::MAX,
    ];
    for address in bad {
        assert_eq!(hypercall::raw(ENTROPY, address, 64), -14, "entropy at {address:#x}");
    }
    for len in [257, 1 << 32, u64::MAX] {
        assert_eq!(hypercall::raw(ENTROPY, info.heap_base.0, len), -22, "{len} bytes of entropy");
    }
}

fn port_write(port: u16) {
    // SAFETY: writes no memory; what it does is what the test is about.
    unsafe { core::arch::asm!("out dx, eax", in("dx") port, in("eax") 0) }
}

fn port_read(port: u16) {
    let _value: u32;
    // SAFETY: as above.
    unsafe { core::arch::asm!("in eax, dx", in("dx") port, lateout("eax") _value) }
}

fn port_byte(port: u16) {
    // SAFETY: as above.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") 0u8) }
}

fn port_string(port: u16) {
    let bytes = [0u32; 4];
    // SAFETY: reads four words that are there.
    unsafe {
        core::arch::asm!("rep outsd", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") 4u64 => _)
    }
}

fn touch(address: u64) {
    // SAFETY: none; the host has to stop it.
    unsafe { write_volatile(address as *mut u8, 1) }
}

fn peek(address: u64) {
    // SAFETY: none; the host has to stop it.
    let byte = unsafe { read_volatile(address as *const u8) };
    println!("read {byte}");
}

/// Publishes request indices of the console, one after the other, by hand.
fn indices(values: &[u32]) {
    let ring = &ring(CONSOLE, 0);
    for &value in values {
        write32(ring, FRONT_LINE, value);
        hypercall::event_send(ring.event);
        pause();
    }
    loop {
        hypercall::block(u64::MAX);
    }
}

/// Claims to have read responses that were never written.
fn response_index(value: u32) {
    let ring = &ring(CONSOLE, 0);
    event::unmask(ring.event);
    write32(ring, FRONT_LINE + 8, value);
    hypercall::event_send(ring.event);
    loop {
        hypercall::block(u64::MAX);
    }
}

/// A block ring driven by hand, one request at a time.
struct RawBlock {
    ring: RingInfo,
    layout: Layout,
    prod: u32,
}

impl RawBlock {
    fn new() -> Self {
        let ring = ring(BLOCK, 0);
        let layout = Layout::new::<BlockRequest, BlockResponse>(ring.requests, ring.responses).unwrap();
        event::unmask(ring.event);
        RawBlock { ring, layout, prod: 0 }
    }

    fn slot(&self, index: u32) -> *mut BlockRequest {
        let at = self.ring.address.0 as usize + REQUEST_SLOTS;
        (at + (index & (self.ring.requests - 1)) as usize * size_of::<BlockRequest>()) as *mut BlockRequest
    }

    fn push(&mut self, request: BlockRequest) {
        // SAFETY: a slot of this ring.
        unsafe { write_volatile(self.slot(self.prod), request) };
        self.prod += 1;
    }

    fn publish(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        write32(&self.ring, FRONT_LINE, self.prod);
        hypercall::event_send(self.ring.event);
    }

    /// Waits until the host has answered `count` requests in all.
    fn answered(&self, count: u32) {
        while read32(&self.ring, 64) != count {
            event::take(self.ring.event);
            event::wait(Some(time::Instant::now() + time::Duration::from_millis(1)));
        }
    }

    fn status(&mut self, request: BlockRequest) -> i32 {
        self.push(request);
        self.publish();
        self.answered(self.prod);
        write32(&self.ring, FRONT_LINE + 8, self.prod);
        let at = self.ring.address.0 as usize
            + self.layout.response_slots()
            + ((self.prod - 1) & (self.ring.responses - 1)) as usize * size_of::<BlockResponse>();
        // SAFETY: a slot of this ring, which the host has filled.
        unsafe { read_volatile(at as *const BlockResponse) }.status
    }
}

fn read(address: u64, len: u32) -> BlockRequest {
    BlockRequest {
        op: block::OP_READ,
        segment_count: 1,
        segments: [Segment { address: GuestAddr(address), len, reserved: 0 }, Segment::default()],
        ..BlockRequest::default()
    }
}

fn bad_segments() {
    let info = start_info();
    let mut disk = RawBlock::new();
    let buffer = vec![0u8; 8192];
    let good = buffer.as_ptr() as u64;
    let end = info.memory_base.0 + info.memory_size;
    const FAULT: i32 = -14;
    const INVALID: i32 = -22;
    assert_eq!(disk.status(read(good, 4096)), 0, "a good request");
    for (what, address) in [
        ("null", 0),
        ("below memory", info.memory_base.0 - 4096),
        ("the unmapped first page", info.memory_base.0),
        ("start-info", info.devices.0 & !4095),
        ("the hypercall page", info.hypercall_page.0),
        ("the guest's code", main as *const () as u64 & !4095),
        ("the guard page of the stack", info.stack_base.0 - 4096),
        ("the last byte", end - 1),
        ("across the end", end - 512),
        ("beyond memory", end),
        ("the host's area", 0xffff_8000_0000_0000),
        ("the end of the address space", u64::MAX - 100),
    ] {
        assert_eq!(disk.status(read(address, 4096)), FAULT, "{what}");
    }
    for (what, len) in
        [("zero bytes", 0), ("no sector", 100), ("4 GiB", u32::MAX), ("nearly 4 GiB", u32::MAX - 511)]
    {
        assert_eq!(disk.status(read(good, len)), INVALID, "{what}");
    }
    let sector = |sector| BlockRequest { sector, ..read(good, 4096) };
    for bad in [u64::MAX, u64::MAX / 512, 1 << 40, u64::MAX - 7] {
        assert_eq!(disk.status(sector(bad)), INVALID, "sector {bad}");
    }
    assert!(disk.status(BlockRequest { op: 99, ..read(good, 512) }) < 0);
    for segments in [0, 129, u16::MAX] {
        assert_eq!(
            disk.status(BlockRequest { segment_count: segments, ..read(good, 512) }),
            INVALID,
            "{segments} segments"
        );
    }
    let list = |address: u64, count: u16| BlockRequest {
        segment_count: count,
        segments: [
            Segment { address: GuestAddr(address), len: 16 * u32::from(count), reserved: 0 },
            Segment::default(),
        ],
        ..read(good, 512)
    };
    assert_eq!(disk.status(list(end - 8, 3)), FAULT, "a list across the end");
    assert_eq!(disk.status(list(0, 128)), FAULT, "a list at null");
    assert_eq!(disk.status(read(good, 4096)), 0, "still a good request");
}

/// Changes requests while the host reads them: the host must act on one copy.
fn changing_requests() {
    let mut disk = RawBlock::new();
    let buffer = vec![0u8; 4096];
    for round in 0..2000u32 {
        disk.push(read(buffer.as_ptr() as u64, 512));
        let slot = disk.slot(disk.prod - 1);
        disk.publish();
        for flip in 0..50u64 {
            let wild = if flip % 2 == 0 { 0xffff_8000_0000_0000 } else { buffer.as_ptr() as u64 };
            let mut request = read(wild, if flip % 3 == 0 { u32::MAX } else { 512 });
            request.sector = flip * 0x1234_5678_9abc;
            request.segment_count = flip as u16;
            // SAFETY: a slot of this ring.
            unsafe { write_volatile(slot, request) };
        }
        disk.answered(round + 1);
        write32(&disk.ring, FRONT_LINE + 8, round + 1);
    }
}

/// Sends requests for ever and takes no response: the ring fills, nothing else.
fn never_reads_responses() {
    let mut disk = RawBlock::new();
    let buffer = vec![0u8; 512];
    let entries = disk.ring.requests;
    for _ in 0..entries {
        disk.push(read(buffer.as_ptr() as u64, 512));
    }
    disk.publish();
    disk.answered(entries);
    // The request queue is empty again, the response queue full.
    for _ in 0..entries {
        disk.push(read(buffer.as_ptr() as u64, 512));
    }
    for _ in 0..100 {
        disk.publish();
    }
    pause();
    assert_eq!(read32(&disk.ring, 64), entries, "nothing more was answered");
}

fn bad_frames() {
    let info = start_info();
    let ring = &ring(NET, 0);
    let layout = Layout::new::<NetRequest, NetResponse>(ring.requests, ring.responses).unwrap();
    let end = info.memory_base.0 + info.memory_size;
    let heap = info.heap_base.0;
    let bad = [
        (0, 60),
        (end - 1, 60),
        (end, 60),
        (u64::MAX, 60),
        (heap, 0),
        (heap, u32::MAX),
        (0xffff_8000_0000_0000, 14),
    ];
    for (n, (address, len)) in bad.into_iter().enumerate() {
        let slot = (ring.address.0 as usize + REQUEST_SLOTS + n * size_of::<NetRequest>()) as *mut NetRequest;
        // SAFETY: a slot of this ring.
        unsafe { write_volatile(slot, NetRequest { address: GuestAddr(address), len, id: n as u32 }) };
    }
    write32(ring, FRONT_LINE, bad.len() as u32);
    hypercall::event_send(ring.event);
    while read32(ring, 64) != bad.len() as u32 {
        time::sleep(time::Duration::from_millis(1));
    }
    for n in 0..bad.len() {
        let at = ring.address.0 as usize + layout.response_slots() + n * size_of::<NetResponse>();
        // SAFETY: a slot of this ring, which the host has filled.
        let response = unsafe { read_volatile(at as *const NetResponse) };
        assert!(response.status < 0, "frame {n} was accepted");
    }
}

/// Sends as fast as it can: asks the network where its gateway is, and does not listen to the answer.
fn frame_storm() -> ! {
    const QUESTION: [u8; 42] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet: broadcast, ARP
        0, 1, 8, 0, 6, 4, 0, 1, // who has
        2, 0, 0, 0, 0, 1, 10, 0, 2, 15, // our addresses
        0, 0, 0, 0, 0, 0, 10, 0, 2, 2, // the gateway's
    ];
    let frame = Vec::from(QUESTION).leak();
    let ring = &ring(NET, 0);
    for n in 0..ring.requests {
        let slot = (ring.address.0 as usize + REQUEST_SLOTS + n as usize * size_of::<NetRequest>())
            as *mut NetRequest;
        let request =
            NetRequest { address: GuestAddr(frame.as_ptr() as u64), len: frame.len() as u32, id: n };
        // SAFETY: a slot of this ring.
        unsafe { write_volatile(slot, request) };
    }
    loop {
        // All that are answered are asked again, and the answers are taken.
        let answered = read32(ring, 64);
        write32(ring, FRONT_LINE, answered.wrapping_add(ring.requests));
        write32(ring, FRONT_LINE + 8, answered);
        hypercall::event_send(ring.event);
    }
}

fn net_index_jump() {
    let ring = &ring(NET, 0);
    write32(ring, FRONT_LINE, 1 << 20);
    hypercall::event_send(ring.event);
    loop {
        hypercall::block(u64::MAX);
    }
}

/// Overwrites all of shared-info, clock and bitmaps included, again and again.
fn scribble() {
    let page = start_info().shared_info.0 as *mut u64;
    for round in 0..1000u64 {
        for word in 0..512 {
            // SAFETY: the page is this guest's to write.
            unsafe {
                write_volatile(page.add(word), round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word as u64)
            };
        }
        hypercall::block(0);
        hypercall::wall_clock();
    }
}
