//! Event channels, host side: how back ends reach their guest.

use crate::memory::GuestMemory;
use hv_abi::ring::Violation;
use hv_abi::shared_info::SharedInfo;
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Whoever runs the guest that events are for.
pub trait Owner: Send + Sync {
    /// An unmasked event became pending: a guest that blocks has to run.
    fn wake(&self);
    /// A guest that runs has to be taken to its handler: follows [`wake`](Self::wake).
    fn interrupt(&self);
    /// The guest broke the protocol of one of its devices and has to end.
    fn terminate(&self, reason: String);
}

/// The event channels of one guest, over its shared-info page.
///
/// The guest can scribble over the bitmaps as it likes; it only fools itself.
pub struct Hub {
    memory: Arc<GuestMemory>,
    shared_info: u64,
    /// Address of the guest's handler of upcalls; 0: it has none.
    handler: AtomicU64,
    owner: OnceLock<Weak<dyn Owner>>,
}

impl Hub {
    /// The channels of the guest whose shared-info page is at this offset of its memory.
    pub fn new(memory: Arc<GuestMemory>, shared_info: u64) -> Arc<Self> {
        assert!(shared_info.is_multiple_of(PAGE_SIZE) && shared_info < memory.size());
        Arc::new(Hub { memory, shared_info, handler: AtomicU64::new(0), owner: OnceLock::new() })
    }

    /// Says whom to wake. Events before that are only noted.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        let _ = self.owner.set(owner);
    }

    fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.get().and_then(Weak::upgrade)
    }

    fn word(&self, field: usize, word: usize) -> &AtomicU64 {
        self.memory.atomic_u64(self.shared_info + (field + 8 * word) as u64)
    }

    /// Makes an event pending, and wakes the guest unless it masked it.
    pub fn raise(&self, port: EventPort) {
        let Some((word, bit)) = port.position() else { return };
        // SeqCst: a guest that is about to block publishes that before it looks
        // at the bitmap a last time; see `Domain::block`.
        self.word(offset_of!(SharedInfo, pending), word).fetch_or(bit, Ordering::SeqCst);
        let masked = self.word(offset_of!(SharedInfo, mask), word).load(Ordering::SeqCst) & bit != 0;
        if !masked && let Some(owner) = self.owner() {
            owner.wake();
            // A guest that unmasks upcalls does so before it looks at the bitmaps itself.
            if self.handler.load(Ordering::SeqCst) != 0 && self.upcall_mask().load(Ordering::SeqCst) == 0 {
                owner.interrupt();
            }
        }
    }

    /// Makes an event pending in a guest that does not run.
    pub fn post(&self, port: EventPort) {
        if let Some((word, bit)) = port.position() {
            self.word(offset_of!(SharedInfo, pending), word).fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Whether the guest listens to this event.
    pub fn is_unmasked(&self, port: EventPort) -> bool {
        port.position().is_some_and(|(word, bit)| {
            self.word(offset_of!(SharedInfo, mask), word).load(Ordering::SeqCst) & bit == 0
        })
    }

    /// Whether any unmasked event is pending.
    pub fn any_pending(&self) -> bool {
        (0..hv_abi::shared_info::EVENT_WORDS).any(|word| {
            let pending = self.word(offset_of!(SharedInfo, pending), word).load(Ordering::SeqCst);
            pending != 0
                && pending & !self.word(offset_of!(SharedInfo, mask), word).load(Ordering::SeqCst) != 0
        })
    }

    fn upcall_mask(&self) -> &AtomicU32 {
        self.memory.atomic_u32(self.shared_info + offset_of!(SharedInfo, upcall_mask) as u64)
    }

    /// Gives the guest this handler, an address that was validated; `None` takes it away.
    pub fn set_handler(&self, handler: Option<GuestAddr>) {
        self.handler.store(handler.map_or(0, |address| address.0), Ordering::SeqCst);
    }

    /// The guest's handler.
    pub fn handler(&self) -> Option<GuestAddr> {
        Some(self.handler.load(Ordering::SeqCst)).filter(|&address| address != 0).map(GuestAddr)
    }

    /// The handler, if the guest has to be taken to it now; upcalls are masked then.
    /// Only for who runs the guest, while it stands still.
    pub fn take_upcall(&self) -> Option<GuestAddr> {
        let handler = self.handler()?;
        let mask = self.upcall_mask();
        // Looking first leaves the page alone while nothing is to be done.
        let due = mask.load(Ordering::SeqCst) == 0 && self.any_pending();
        (due && mask.swap(1, Ordering::SeqCst) == 0).then_some(handler)
    }

    /// The channel of one port, to give to a back end.
    pub fn channel(self: &Arc<Self>, port: EventPort) -> Channel {
        Channel { hub: self.clone(), port }
    }
}

/// A back end's way to its guest.
#[derive(Clone)]
pub struct Channel {
    hub: Arc<Hub>,
    port: EventPort,
}

impl Channel {
    /// The port of the guest's ring.
    pub(crate) fn port(&self) -> EventPort {
        self.port
    }

    /// Tells the guest that its ring has news.
    pub fn notify(&self) {
        self.hub.raise(self.port);
    }

    /// Has whoever runs the guest look after it, though there is no event.
    pub fn wake(&self) {
        if let Some(owner) = self.hub.owner() {
            owner.wake();
        }
    }

    /// Whether the guest listens to this channel.
    pub fn is_unmasked(&self) -> bool {
        self.hub.is_unmasked(self.port)
    }

    /// Reports that the guest's ring indices make no sense: the guest ends with a crash report.
    pub fn violation(&self, device: &str, violation: Violation) {
        self.terminate(format!("{device}: {violation}"));
    }

    /// Ends the guest with a crash report that gives this reason.
    pub fn terminate(&self, reason: String) {
        if let Some(owner) = self.hub.owner() {
            owner.terminate(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Access;

    const HANDLER: GuestAddr = GuestAddr(0x1234);

    /// Counts what it is told.
    #[derive(Default)]
    struct Told {
        wakes: AtomicU32,
        interrupts: AtomicU32,
    }

    impl Owner for Told {
        fn wake(&self) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }

        fn interrupt(&self) {
            self.interrupts.fetch_add(1, Ordering::Relaxed);
        }

        fn terminate(&self, _: String) {}
    }

    /// A hub whose guest masks everything, as at its start.
    fn hub() -> (Arc<Hub>, Arc<Told>) {
        let mut memory = GuestMemory::new(GuestAddr(0x20_0000), 2 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..2 * PAGE_SIZE, Access::READ | Access::WRITE);
        let hub = Hub::new(Arc::new(memory), PAGE_SIZE);
        for word in 0..hv_abi::shared_info::EVENT_WORDS {
            hub.word(offset_of!(SharedInfo, mask), word).store(u64::MAX, Ordering::SeqCst);
        }
        let told = Arc::new(Told::default());
        let owner: Arc<dyn Owner> = told.clone();
        hub.set_owner(Arc::downgrade(&owner));
        (hub, told)
    }

    fn unmask(hub: &Hub, port: EventPort) {
        let (word, bit) = port.position().unwrap();
        hub.word(offset_of!(SharedInfo, mask), word).fetch_and(!bit, Ordering::SeqCst);
    }

    #[test]
    fn a_guest_is_interrupted_only_for_an_upcall_that_it_wants() {
        let (hub, told) = hub();
        let counts = || [&told.wakes, &told.interrupts].map(|count| count.load(Ordering::Relaxed));
        let port = EventPort(70);
        hub.raise(port);
        assert_eq!(counts(), [0, 0], "masked");
        unmask(&hub, port);
        hub.raise(port);
        assert_eq!(counts(), [1, 0], "no handler");
        hub.set_handler(Some(HANDLER));
        hub.raise(port);
        assert_eq!(counts(), [2, 1]);
        hub.upcall_mask().store(1, Ordering::SeqCst);
        hub.raise(port);
        assert_eq!(counts(), [3, 1], "upcalls masked");
    }

    #[test]
    fn an_upcall_is_due_once() {
        let (hub, _told) = hub();
        let port = EventPort(1023);
        hub.raise(port);
        unmask(&hub, port);
        assert_eq!(hub.take_upcall(), None, "no handler");
        hub.set_handler(Some(HANDLER));
        assert_eq!(hub.take_upcall(), Some(HANDLER));
        assert_eq!(hub.upcall_mask().load(Ordering::SeqCst), 1);
        assert_eq!(hub.take_upcall(), None, "masked with the first");
        // Whatever else a guest writes there holds upcalls back, too.
        for masked in [2, 1 << 31, u32::MAX] {
            hub.upcall_mask().store(masked, Ordering::SeqCst);
            assert_eq!(hub.take_upcall(), None);
            assert_eq!(hub.upcall_mask().load(Ordering::SeqCst), masked);
        }
        hub.upcall_mask().store(0, Ordering::SeqCst);
        assert_eq!(hub.take_upcall(), Some(HANDLER), "the event is still pending");
        hub.upcall_mask().store(0, Ordering::SeqCst);
        hub.set_handler(None);
        assert_eq!((hub.handler(), hub.take_upcall()), (None, None));
        hub.set_handler(Some(HANDLER));
        hub.word(offset_of!(SharedInfo, pending), 15).store(0, Ordering::SeqCst);
        assert_eq!(hub.take_upcall(), None, "nothing is pending");
    }
}
