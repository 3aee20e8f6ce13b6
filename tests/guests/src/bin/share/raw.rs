//! ⚠ A share's ring that is driven by hand, against its contract.

use core::ptr::{read_volatile, write_volatile};
use hv_guest::abi::device::{RingInfo, SHARE};
use hv_guest::abi::io::share::{
    OP_ATTRIBUTES, OP_CLOSE, OP_OPEN, OP_READ, OP_READ_DIR, OP_READ_LINK, PATH_MAX, ShareRequest,
    ShareResponse,
};
use hv_guest::abi::ring::{FRONT_LINE, Layout, REQUEST_SLOTS};
use hv_guest::abi::{Errno, GuestAddr};
use hv_guest::prelude::*;
use hv_guest::share::{OPEN_READ, ROOT};
use hv_guest::{devices, event, hypercall, start_info, time};

/// A ring of a share, driven by hand.
struct RawShare {
    ring: RingInfo,
    layout: Layout,
    prod: u32,
}

impl RawShare {
    fn new() -> Self {
        let ring = devices().find(|device| device.kind == SHARE).expect("the test gives a share").rings[0];
        let layout = Layout::new::<ShareRequest, ShareResponse>(ring.requests, ring.responses).unwrap();
        event::unmask(ring.event);
        RawShare { ring, layout, prod: 0 }
    }

    fn word(&self, offset: usize) -> *mut u32 {
        (self.ring.address.0 as usize + offset) as *mut u32
    }

    fn slot(&self, index: u32) -> *mut ShareRequest {
        let at = self.ring.address.0 as usize + REQUEST_SLOTS;
        (at + (index & (self.ring.requests - 1)) as usize * size_of::<ShareRequest>()) as *mut ShareRequest
    }

    fn push(&mut self, request: ShareRequest) {
        // SAFETY: a slot of this ring.
        unsafe { write_volatile(self.slot(self.prod), request) };
        self.prod = self.prod.wrapping_add(1);
    }

    fn publish(&self, prod: u32) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        // SAFETY: this side's line of the ring.
        unsafe { write_volatile(self.word(FRONT_LINE), prod) };
        hypercall::event_send(self.ring.event);
    }

    /// How many responses the host has published.
    fn answers(&self) -> u32 {
        // SAFETY: the host's line of the ring.
        unsafe { read_volatile(self.word(64)) }
    }

    fn answered(&self, count: u32) {
        while self.answers() != count {
            event::take(self.ring.event);
            event::wait(Some(time::Instant::now() + time::Duration::from_millis(1)));
        }
    }

    /// Makes room for responses.
    fn consume(&self) {
        // SAFETY: this side's line of the ring.
        unsafe { write_volatile(self.word(FRONT_LINE + 8), self.prod) };
    }

    fn ask(&mut self, request: ShareRequest) -> ShareResponse {
        self.push(request);
        self.publish(self.prod);
        self.answered(self.prod);
        self.consume();
        let index = (self.prod - 1) & (self.ring.responses - 1);
        let at = self.layout.response_slots() + index as usize * size_of::<ShareResponse>();
        // SAFETY: a slot of this ring, which the host has filled.
        unsafe { read_volatile((self.ring.address.0 as usize + at) as *const ShareResponse) }
    }

    fn refused(&mut self, request: ShareRequest, errno: Errno, what: &str) {
        let response = self.ask(request);
        assert_eq!((response.status, response.value), (errno.to_status(), 0), "{what}");
    }
}

fn named(op: u16, path: u64, path_len: usize) -> ShareRequest {
    ShareRequest { op, path: GuestAddr(path), path_len: path_len as u32, ..ShareRequest::default() }
}

pub(crate) fn bad_memory() {
    let info = start_info();
    let mut share = RawShare::new();
    let buffer = vec![0u8; 2 << 20];
    let good = buffer.as_ptr().expose_provenance() as u64;
    let name = b"file".as_ptr() as u64;
    let end = info.memory_base.0 + info.memory_size;
    let open = ShareRequest { flags: OPEN_READ, ..named(OP_OPEN, name, 4) };
    let handle = share.ask(open).value;
    let folder = share.ask(ShareRequest { op: OP_OPEN, flags: OPEN_READ, ..ShareRequest::default() }).value;
    let to = |op: u16, handle: u64, address: u64, len: u32| ShareRequest {
        op,
        handle,
        data: GuestAddr(address),
        data_len: len,
        ..ShareRequest::default()
    };
    for (what, address) in [
        ("null", 0),
        ("below memory", info.memory_base.0 - 4096),
        ("the unmapped first page", info.memory_base.0),
        ("start-info", info.devices.0 & !4095),
        ("the hypercall page", info.hypercall_page.0),
        ("the guest's code", bad_memory as *const () as u64 & !4095),
        ("the guard page of the stack", info.stack_base.0 - 4096),
        ("the last byte", end - 1),
        ("beyond memory", end),
        ("the host's area", 0xffff_8000_0000_0000),
        ("the end of the address space", u64::MAX - 100),
    ] {
        share.refused(to(OP_READ, handle, address, 4096), Errno::Fault, what);
        share.refused(to(OP_READ_DIR, folder, address, 4096), Errno::Fault, what);
        share.refused(to(OP_ATTRIBUTES, handle, address, 88), Errno::Fault, what);
        share.refused(to(OP_READ_LINK, handle, address, 4096), Errno::Fault, what);
    }
    for (what, address) in
        [("null", 0), ("the last byte", end - 1), ("the end of the address space", u64::MAX - 1)]
    {
        share.refused(named(OP_OPEN, address, 4), Errno::Fault, what);
        share.refused(
            ShareRequest { data: GuestAddr(good), data_len: 88, ..named(OP_ATTRIBUTES, address, 4) },
            Errno::Fault,
            what,
        );
    }
    for len in [PATH_MAX + 1, 64 << 10, u32::MAX as usize] {
        share.refused(named(OP_OPEN, good, len), Errno::NameTooLong, "a path that is too long");
    }
    for (what, op, len) in [
        ("nothing", OP_READ, 0),
        ("more than may be", OP_READ, (1 << 20) + 1),
        ("4 GiB", OP_READ, u32::MAX),
        ("too little", OP_READ_DIR, 511),
        ("too much", OP_READ_DIR, (64 << 10) + 1),
        ("too little", OP_ATTRIBUTES, 87),
        ("too much", OP_ATTRIBUTES, 89),
        ("too much", OP_READ_LINK, 4097),
        ("nothing", OP_READ_LINK, 0),
    ] {
        let handle = if op == OP_READ_DIR { folder } else { handle };
        share.refused(to(op, handle, good, len), Errno::Invalid, what);
    }
    let at = |offset: u64| ShareRequest { offset, ..to(OP_READ, handle, good, 4096) };
    for offset in [1 << 63, u64::MAX] {
        share.refused(at(offset), Errno::Invalid, "an offset that no file has");
    }
    for offset in [4, 1 << 40, i64::MAX as u64 - 4096] {
        let response = share.ask(at(offset));
        assert_eq!((response.status, response.value), (0, 0), "behind the end, at {offset}");
    }
    for flags in [1 << 1, 1 << 15] {
        share.refused(ShareRequest { flags, ..to(OP_READ_DIR, folder, good, 4096) }, Errno::Invalid, "flags");
        share.refused(ShareRequest { flags, ..at(0) }, Errno::Invalid, "flags");
    }
    for op in [0, 23, 99, u16::MAX] {
        share.refused(to(op, handle, good, 4096), Errno::NotSupported, "no such operation");
    }
    share.refused(to(OP_CLOSE, ROOT, 0, 0), Errno::Invalid, "the root is not closed");
    assert_eq!(share.ask(at(0)).value, 4, "and a good request works");
}

/// Changes requests and paths while the host reads them: it acts on one copy.
pub(crate) fn changing_requests(rounds: &str) {
    let mut share = RawShare::new();
    let mut path = *b"folder/../file\0\0";
    let address = path.as_mut_ptr();
    let buffer = vec![0u8; 4096];
    for _ in 0..rounds.parse().unwrap() {
        share.push(ShareRequest { flags: OPEN_READ, ..named(OP_OPEN, address as u64, 14) });
        let slot = share.slot(share.prod - 1);
        share.publish(share.prod);
        for flip in 0..50u64 {
            let wild = if flip % 2 == 0 { 0xffff_8000_0000_0000 } else { address as u64 };
            let request = ShareRequest {
                op: flip as u16 % 8,
                flags: flip as u16,
                handle: flip % 3,
                offset: flip << 60,
                data: GuestAddr(buffer.as_ptr() as u64),
                data_len: if flip % 3 == 0 { u32::MAX } else { 4096 },
                ..named(OP_OPEN, wild, 1 << (flip % 32))
            };
            // SAFETY: a slot of this ring, and a byte of the path, which the host may be reading.
            unsafe {
                write_volatile(slot, request);
                write_volatile(address.add(flip as usize % 14), b"/.\0x"[flip as usize % 4]);
            }
        }
        share.answered(share.prod);
        share.consume();
        // SAFETY: the path, which is whole.
        unsafe { write_volatile(address.cast(), *b"folder/../file\0\0") };
    }
}

/// Asks for ever and takes no response: the ring fills, nothing else.
pub(crate) fn never_reads_responses() {
    let mut share = RawShare::new();
    let entries = share.ring.requests;
    let name = b"file".as_ptr() as u64;
    for _ in 0..entries {
        share.push(named(OP_OPEN, name, 4));
    }
    share.publish(share.prod);
    share.answered(entries);
    for _ in 0..entries {
        share.push(named(OP_OPEN, name, 4));
    }
    for _ in 0..100 {
        share.publish(share.prod);
    }
    time::sleep(time::Duration::from_millis(100));
    assert_eq!(share.answers(), entries, "nothing more was answered");
}

pub(crate) fn index_jump() {
    let share = RawShare::new();
    share.publish(1 << 30);
    loop {
        hypercall::block(u64::MAX);
    }
}
