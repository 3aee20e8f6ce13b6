//! Event channels, host side: how back ends notify their guest.

use crate::memory::GuestMemory;
use hv_abi::ring::Violation;
use hv_abi::shared_info::{EVENT_WORDS, SharedInfo};
use hv_abi::vcpu::VcpuInfo;
use hv_abi::{EventPort, GuestAddr, PAGE_SIZE};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Offset of the [`VcpuInfo`]s of a guest with so many virtual CPUs: they start at the page after shared-info, which is at this offset.
pub const fn vcpu_info(shared_info: u64, vcpus: usize) -> Range<u64> {
    let start = shared_info + PAGE_SIZE;
    start..start + (vcpus as u64 - 1) * size_of::<VcpuInfo>() as u64
}

/// What runs the guest that the events are for.
pub trait Owner: Send + Sync {
    /// Wakes the guest, if it is blocked.
    fn wake(&self);
    /// Wakes this virtual CPU, if it is blocked: an event became pending that it has unmasked.
    fn wake_vcpu(&self, vcpu: usize) {
        let _ = vcpu;
        self.wake();
    }
    /// Interrupts a running virtual CPU, so that it is redirected to the guest's handler. Called after
    /// [`wake_vcpu`](Self::wake_vcpu).
    fn interrupt(&self, vcpu: usize);
    /// Ends the guest: it broke the protocol of one of its devices.
    fn terminate(&self, reason: String);
}

/// The event channels of one guest. Their state is in its shared-info page.
///
/// The guest can write anything to the bitmaps. That affects only the guest itself.
pub struct Hub {
    memory: Arc<GuestMemory>,
    shared_info: u64,
    /// Number of virtual CPUs of the guest.
    vcpus: usize,
    /// Address of the guest's handler of upcalls; 0 if it has none.
    handler: AtomicU64,
    owner: OnceLock<Weak<dyn Owner>>,
}

impl Hub {
    /// The channels of the guest with one virtual CPU whose shared-info page is at this offset of its memory.
    pub fn new(memory: Arc<GuestMemory>, shared_info: u64) -> Arc<Self> {
        Self::of(memory, shared_info, 1)
    }

    /// The same for a guest with so many virtual CPUs, whose [`VcpuInfo`]s are [behind](vcpu_info) that page.
    pub fn of(memory: Arc<GuestMemory>, shared_info: u64, vcpus: usize) -> Arc<Self> {
        assert!(shared_info.is_multiple_of(PAGE_SIZE) && vcpus > 0);
        let end = vcpu_info(shared_info, vcpus).end;
        assert!(end <= memory.size());
        // Threads that raise events need not be able to bring pages.
        memory.own(shared_info, end - shared_info);
        Arc::new(Hub { memory, shared_info, vcpus, handler: AtomicU64::new(0), owner: OnceLock::new() })
    }

    /// Sets the owner to wake. Events before that only become pending.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        let _ = self.owner.set(owner);
    }

    fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.get().and_then(Weak::upgrade)
    }

    fn pending(&self, word: usize) -> &AtomicU64 {
        self.memory.atomic_u64(self.shared_info + (offset_of!(SharedInfo, pending) + 8 * word) as u64)
    }

    /// Address of a field that each virtual CPU has: in the shared-info page for the first one, else in the virtual CPU's structure.
    fn own(&self, vcpu: usize, first: usize, other: usize) -> u64 {
        debug_assert!(vcpu < self.vcpus);
        match vcpu {
            0 => self.shared_info + first as u64,
            _ => vcpu_info(self.shared_info, vcpu).end + other as u64,
        }
    }

    fn mask(&self, vcpu: usize, word: usize) -> &AtomicU64 {
        let field = self.own(vcpu, offset_of!(SharedInfo, mask), offset_of!(VcpuInfo, mask));
        self.memory.atomic_u64(field + 8 * word as u64)
    }

    /// Makes an event pending, and wakes the virtual CPUs that have it unmasked.
    pub fn raise(&self, port: EventPort) {
        let Some((word, bit)) = port.position() else { return };
        // SeqCst: a guest that is about to block publishes that before it reads the bitmap a last time; see `RunLoop::block`.
        self.pending(word).fetch_or(bit, Ordering::SeqCst);
        let unmasked = |vcpu: &usize| self.mask(*vcpu, word).load(Ordering::SeqCst) & bit == 0;
        for vcpu in (0..self.vcpus).filter(unmasked) {
            let Some(owner) = self.owner() else { return };
            owner.wake_vcpu(vcpu);
            // A guest that unmasks upcalls does so before it reads the bitmaps itself.
            if self.handler.load(Ordering::SeqCst) != 0 && self.upcall_mask(vcpu).load(Ordering::SeqCst) == 0
            {
                owner.interrupt(vcpu);
            }
        }
    }

    /// Makes an event pending in a guest that does not run.
    pub fn post(&self, port: EventPort) {
        if let Some((word, bit)) = port.position() {
            self.pending(word).fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Whether a virtual CPU of the guest listens to this event.
    pub fn is_unmasked(&self, port: EventPort) -> bool {
        port.position().is_some_and(|(word, bit)| {
            (0..self.vcpus).any(|vcpu| self.mask(vcpu, word).load(Ordering::SeqCst) & bit == 0)
        })
    }

    /// Whether an event is pending that this virtual CPU has unmasked.
    pub fn any_pending(&self, vcpu: usize) -> bool {
        (0..EVENT_WORDS).any(|word| {
            let pending = self.pending(word).load(Ordering::SeqCst);
            pending != 0 && pending & !self.mask(vcpu, word).load(Ordering::SeqCst) != 0
        })
    }

    fn upcall_mask(&self, vcpu: usize) -> &AtomicU32 {
        let (first, other) = (offset_of!(SharedInfo, upcall_mask), offset_of!(VcpuInfo, upcall_mask));
        self.memory.atomic_u32(self.own(vcpu, first, other))
    }

    /// Sets the guest's handler to this validated address; `None` removes it.
    pub fn set_handler(&self, handler: Option<GuestAddr>) {
        self.handler.store(handler.map_or(0, |address| address.0), Ordering::SeqCst);
    }

    /// The guest's handler.
    pub fn handler(&self) -> Option<GuestAddr> {
        Some(self.handler.load(Ordering::SeqCst)).filter(|&address| address != 0).map(GuestAddr)
    }

    /// The handler, if this virtual CPU has to be redirected to it now. Upcalls are masked then. May be called only by
    /// the thread that runs the virtual CPU, while it is not in the guest.
    pub fn take_upcall(&self, vcpu: usize) -> Option<GuestAddr> {
        let handler = self.handler()?;
        let mask = self.upcall_mask(vcpu);
        // Reading first avoids a write to the page when nothing is due.
        let due = mask.load(Ordering::SeqCst) == 0 && self.any_pending(vcpu);
        (due && mask.swap(1, Ordering::SeqCst) == 0).then_some(handler)
    }

    /// The channel of one port, to give to a back end.
    pub fn channel(self: &Arc<Self>, port: EventPort) -> Channel {
        Channel { hub: self.clone(), port }
    }
}

/// A back end's connection to its guest.
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

    /// Tells the guest that its ring has changed.
    pub fn notify(&self) {
        self.hub.raise(self.port);
    }

    /// Wakes the guest without an event.
    pub fn wake(&self) {
        if let Some(owner) = self.hub.owner() {
            owner.wake();
        }
    }

    /// Whether the guest listens to this channel.
    pub fn is_unmasked(&self) -> bool {
        self.hub.is_unmasked(self.port)
    }

    /// Reports that the guest's ring indices are invalid: the guest ends with a crash report.
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

    /// Counts the calls that it gets.
    #[derive(Default)]
    struct Told {
        wakes: [AtomicU32; 2],
        interrupts: [AtomicU32; 2],
    }

    impl Owner for Told {
        fn wake(&self) {
            (0..2).for_each(|vcpu| self.wake_vcpu(vcpu));
        }

        fn wake_vcpu(&self, vcpu: usize) {
            self.wakes[vcpu].fetch_add(1, Ordering::Relaxed);
        }

        fn interrupt(&self, vcpu: usize) {
            self.interrupts[vcpu].fetch_add(1, Ordering::Relaxed);
        }

        fn terminate(&self, _: String) {}
    }

    impl Told {
        /// For each virtual CPU: how often it was woken, and how often interrupted.
        fn counts(&self) -> [[u32; 2]; 2] {
            [0, 1].map(|vcpu| {
                [&self.wakes, &self.interrupts].map(|counts| counts[vcpu].load(Ordering::Relaxed))
            })
        }
    }

    /// A hub whose guest of two virtual CPUs masks everything, as at its start, except that the second one accepts upcalls.
    fn hub() -> (Arc<Hub>, Arc<Told>) {
        let mut memory = GuestMemory::new(GuestAddr(0x20_0000), 4 * PAGE_SIZE).unwrap();
        memory.allow(PAGE_SIZE..3 * PAGE_SIZE, Access::READ | Access::WRITE);
        let hub = Hub::of(Arc::new(memory), PAGE_SIZE, 2);
        for (vcpu, word) in (0..2).flat_map(|vcpu| (0..EVENT_WORDS).map(move |word| (vcpu, word))) {
            hub.mask(vcpu, word).store(u64::MAX, Ordering::SeqCst);
        }
        let told = Arc::new(Told::default());
        let owner: Arc<dyn Owner> = told.clone();
        hub.set_owner(Arc::downgrade(&owner));
        (hub, told)
    }

    fn unmask(hub: &Hub, vcpu: usize, port: EventPort) {
        let (word, bit) = port.position().unwrap();
        hub.mask(vcpu, word).fetch_and(!bit, Ordering::SeqCst);
    }

    #[test]
    fn a_guest_is_interrupted_only_for_an_upcall_that_it_wants() {
        let (hub, told) = hub();
        let counts = || told.counts()[0];
        let port = EventPort(70);
        hub.raise(port);
        assert_eq!(counts(), [0, 0], "masked");
        unmask(&hub, 0, port);
        hub.raise(port);
        assert_eq!(counts(), [1, 0], "no handler");
        hub.set_handler(Some(HANDLER));
        hub.raise(port);
        assert_eq!(counts(), [2, 1]);
        hub.upcall_mask(0).store(1, Ordering::SeqCst);
        hub.raise(port);
        assert_eq!(counts(), [3, 1], "upcalls masked");
    }

    #[test]
    fn an_upcall_is_due_once() {
        let (hub, _told) = hub();
        let port = EventPort(1023);
        hub.raise(port);
        unmask(&hub, 0, port);
        assert_eq!(hub.take_upcall(0), None, "no handler");
        hub.set_handler(Some(HANDLER));
        assert_eq!(hub.take_upcall(0), Some(HANDLER));
        assert_eq!(hub.upcall_mask(0).load(Ordering::SeqCst), 1);
        assert_eq!(hub.take_upcall(0), None, "masked with the first");
        // Any other value that a guest writes there masks upcalls, too.
        for masked in [2, 1 << 31, u32::MAX] {
            hub.upcall_mask(0).store(masked, Ordering::SeqCst);
            assert_eq!(hub.take_upcall(0), None);
            assert_eq!(hub.upcall_mask(0).load(Ordering::SeqCst), masked);
        }
        hub.upcall_mask(0).store(0, Ordering::SeqCst);
        assert_eq!(hub.take_upcall(0), Some(HANDLER), "the event is still pending");
        hub.upcall_mask(0).store(0, Ordering::SeqCst);
        hub.set_handler(None);
        assert_eq!((hub.handler(), hub.take_upcall(0)), (None, None));
        hub.set_handler(Some(HANDLER));
        hub.pending(15).store(0, Ordering::SeqCst);
        assert_eq!(hub.take_upcall(0), None, "nothing is pending");
    }

    #[test]
    fn an_event_goes_to_the_virtual_cpus_that_have_it_unmasked() {
        let (hub, told) = hub();
        let port = EventPort::of_vcpu(1).unwrap();
        unmask(&hub, 1, port);
        hub.raise(port);
        assert_eq!(told.counts(), [[0, 0], [1, 0]]);
        assert!(!hub.any_pending(0) && hub.any_pending(1) && hub.is_unmasked(port));
        hub.set_handler(Some(HANDLER));
        hub.upcall_mask(0).store(0, Ordering::SeqCst);
        hub.raise(port);
        assert_eq!(told.counts(), [[0, 0], [2, 1]]);
        assert_eq!((hub.take_upcall(0), hub.take_upcall(1)), (None, Some(HANDLER)));
        unmask(&hub, 0, port);
        hub.raise(port);
        assert_eq!(told.counts(), [[1, 1], [3, 1]], "upcalls of the second one are masked");
        assert_eq!((hub.take_upcall(0), hub.take_upcall(1)), (Some(HANDLER), None));
    }
}
