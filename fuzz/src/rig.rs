//! A guest's memory with rings in it, and the guest's end of them, which does what the input says.

use crate::Input;
use hv::device::Ring;
use hv::event::{Channel, Hub, Owner};
use hv::memory::{Access, GuestMemory, RingMemory};
use hv_abi::ring::{BACK_LINE, Layout, REQUEST_SLOTS, SharedMemory};
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Guest address of the memory.
pub(crate) const BASE: u64 = 0x10_0000;
/// Page of the first ring; each has two. Page 0 is shared-info.
const RINGS: u64 = 1;
/// The guest may only read this page …
const READ_ONLY: u64 = 12;
/// … and not touch this one; the last pages are for data again.
const GUARD: u64 = 13;
const PAGES: u64 = 16;
/// What is in the pages that the guest cannot write, and in the tail.
const SENTINEL: u8 = 0xa5;

/// Counts what the back end tells of its guest.
#[derive(Default)]
pub(crate) struct Diary {
    terminated: AtomicUsize,
}

impl Owner for Diary {
    fn wake(&self) {}
    fn interrupt(&self, _: usize) {}
    fn terminate(&self, reason: String) {
        assert!(reason.len() < 500 && !reason.contains('\n'), "{reason:?}");
        self.terminated.fetch_add(1, Ordering::Relaxed);
    }
}

/// A guest's memory.
pub(crate) struct Room {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) hub: Arc<Hub>,
    diary: Arc<Diary>,
}

impl Room {
    pub(crate) fn new() -> Room {
        let (all, read) = (Access::READ | Access::WRITE, Access::READ);
        let mut memory = GuestMemory::new(GuestAddr(BASE), PAGES * PAGE_SIZE).expect("there is memory");
        memory.allow(0..READ_ONLY * PAGE_SIZE, all);
        memory.allow(READ_ONLY * PAGE_SIZE..GUARD * PAGE_SIZE, read);
        memory.allow((GUARD + 1) * PAGE_SIZE..PAGES * PAGE_SIZE, all);
        memory.host_write(READ_ONLY * PAGE_SIZE, &[SENTINEL; 2 * PAGE_SIZE as usize]);
        memory.host_write(PAGES * PAGE_SIZE, &[SENTINEL; PAGE_SIZE as usize]);
        let memory = Arc::new(memory);
        let hub = Hub::new(memory.clone(), 0);
        let diary = Arc::new(Diary::default());
        let owner: Weak<Diary> = Arc::downgrade(&diary);
        hub.set_owner(owner);
        Room { memory, hub, diary }
    }

    /// Whether the guest was terminated.
    pub(crate) fn is_terminated(&self) -> bool {
        self.diary.terminated.load(Ordering::Relaxed) > 0
    }

    /// Nobody has written, on the guest's behalf, where it cannot write itself.
    pub(crate) fn check(&self) {
        let mut pages = [0; 2 * PAGE_SIZE as usize];
        self.memory.host_read(READ_ONLY * PAGE_SIZE, &mut pages);
        assert!(pages.iter().all(|&byte| byte == SENTINEL), "a page that the guest cannot write was written");
        let mut page = [0; PAGE_SIZE as usize];
        self.memory.host_read(PAGES * PAGE_SIZE, &mut page);
        assert!(page.iter().all(|&byte| byte == SENTINEL), "the tail was written");
    }

    /// All that the guest can write is zero again.
    pub(crate) fn clear(&self) {
        self.memory.host_write(0, &[0; (READ_ONLY * PAGE_SIZE) as usize]);
        self.memory.host_write((GUARD + 1) * PAGE_SIZE, &[0; ((PAGES - GUARD - 1) * PAGE_SIZE) as usize]);
    }

    /// The guest writes bytes, if it can.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let _ = self.memory.write(GuestAddr(BASE.wrapping_add(offset)), bytes);
    }

    pub(crate) fn doorbell() -> EventFd {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).expect("there are descriptors")
    }
}

/// The guest's end of a ring.
pub(crate) struct Front {
    ring: RingMemory,
    layout: Layout,
    channel: Channel,
    place: u64,
    entry: usize,
    entries: u32,
    prod: u32,
}

impl Front {
    /// Ring `index` of the room, with `entries` requests of `entry` bytes.
    pub(crate) fn new(room: &Room, index: u64, layout: Layout, entry: usize, entries: u32) -> Front {
        let place = (RINGS + 2 * index) * PAGE_SIZE;
        assert!(layout.size() as u64 <= 2 * PAGE_SIZE);
        let ring = RingMemory::new(&room.memory, place, &layout);
        let channel = room.hub.channel(EventPort(1 + index as u32));
        Front { ring, layout, channel, place, entry, entries, prod: 0 }
    }

    /// The ring as its device gets it.
    pub(crate) fn host_end(&self, fresh: bool) -> Ring {
        let (memory, channel) = (self.ring.clone(), self.channel.clone());
        Ring { memory, layout: self.layout, channel, counters: Default::default(), fresh }
    }

    /// The guest forgets what it has published.
    pub(crate) fn restart(&mut self) {
        self.prod = 0;
    }

    /// Publishes requests (a whole number of them), as a driver does, but that it does not ask for room.
    pub(crate) fn push(&mut self, room: &Room, requests: &[u8]) {
        for request in requests.chunks_exact(self.entry) {
            let slot = (self.prod % self.entries) as usize;
            room.write(self.place + (REQUEST_SLOTS + slot * self.entry) as u64, request);
            self.prod = self.prod.wrapping_add(1);
        }
        self.ring.store(0, self.prod);
    }

    /// Takes all responses, unseen.
    pub(crate) fn take(&self) {
        self.ring.store(8, self.ring.load(BACK_LINE));
    }

    /// Spoils one of the words in front of the slots, either side's.
    pub(crate) fn spoil(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.byte() % (REQUEST_SLOTS / 4) as u8) * 4;
        let now = self.ring.load(at);
        let value = match input.byte() % 4 {
            0 => input.word(),
            1 => now.wrapping_add(u32::from(input.byte())),
            2 => now.wrapping_sub(u32::from(input.byte())),
            _ => now ^ 1 << (input.byte() % 32),
        };
        self.ring.store(at, value);
        if at == 0 {
            self.prod = value;
        }
    }
}

/// An address as a guest might pass it.
pub(crate) fn address(input: &mut Input<'_>) -> GuestAddr {
    GuestAddr(match input.byte() % 4 {
        // Most of it inside.
        0 | 1 => BASE + u64::from(input.half()),
        // Around the border of a page.
        2 => BASE + u64::from(input.byte() % (PAGES as u8 + 2)) * PAGE_SIZE + u64::from(input.byte()) - 128,
        _ => input.long(),
    })
}

/// One of the steps that every ring has; false if it is none of these.
pub(crate) fn step(which: u8, room: &Room, front: &mut Front, input: &mut Input<'_>) -> bool {
    match which {
        0 => front.spoil(input),
        1 => {
            let offset = u64::from(input.half());
            room.write(offset, input.bytes());
        }
        2 => front.take(),
        3 => {
            // Events masked or not: the first words of both bitmaps.
            room.write(u64::from(input.byte()) * 8, &input.long().to_le_bytes());
        }
        _ => return false,
    }
    true
}
