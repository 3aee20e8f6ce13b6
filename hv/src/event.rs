//! Event channels, host side: how back ends reach their guest.

use crate::memory::GuestMemory;
use hv_abi::ring::Violation;
use hv_abi::shared_info::SharedInfo;
use hv_abi::{EventPort, PAGE_SIZE};
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

/// Whoever runs the guest that events are for.
pub trait Owner: Send + Sync {
    /// An unmasked event became pending: a guest that blocks has to run.
    fn wake(&self);
    /// The guest broke the protocol of one of its devices and has to end.
    fn condemn(&self, reason: String);
}

/// The event channels of one guest, over its shared-info page.
///
/// The guest can scribble over the bitmaps as it likes; it only fools itself.
pub struct Hub {
    memory: Arc<GuestMemory>,
    shared_info: u64,
    owner: OnceLock<Weak<dyn Owner>>,
}

impl Hub {
    /// The channels of the guest whose shared-info page is at this offset of its memory.
    pub fn new(memory: Arc<GuestMemory>, shared_info: u64) -> Arc<Self> {
        assert!(shared_info.is_multiple_of(PAGE_SIZE) && shared_info < memory.size());
        Arc::new(Hub { memory, shared_info, owner: OnceLock::new() })
    }

    /// Says whom to wake. Events before that are only noted.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        let _ = self.owner.set(owner);
    }

    fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.get().and_then(Weak::upgrade)
    }

    fn word(&self, field: usize, word: usize) -> &std::sync::atomic::AtomicU64 {
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
    /// Tells the guest that its ring has news.
    pub fn notify(&self) {
        self.hub.raise(self.port);
    }

    /// Whether the guest listens to this channel.
    pub fn is_unmasked(&self) -> bool {
        self.hub.is_unmasked(self.port)
    }

    /// Reports that the guest's ring indices make no sense: the guest ends with a crash report.
    pub fn violation(&self, device: &str, violation: Violation) {
        self.condemn(format!("{device}: {violation}"));
    }

    /// Ends the guest with a crash report that gives this reason.
    pub fn condemn(&self, reason: String) {
        if let Some(owner) = self.hub.owner() {
            owner.condemn(reason);
        }
    }
}
