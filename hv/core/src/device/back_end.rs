//! What the host knows of any device: its kind, and the [`BackEnd`] that works at the other end of its rings.
//!
//! Each device implements the trait in its own folder, and is a line in [`KINDS`](super::KINDS). The code
//! that lays out, starts, restores or resets guests knows no device by name.
//!
//! There is no method to save a device: what a guest knows of it is in the device table and the rings, both in guest
//! memory, and [`Source::settle`] leaves nothing else to be saved.

use super::DeviceCounters;
use crate::event::Channel;
use crate::memory::RingMemory;
use crate::reactor::Source;
use hv_abi::EventPort;
use hv_abi::device::{CONFIG_SIZE, DeviceInfo};
use hv_abi::ring::{Back, Layout, Violation};
use std::error::Error;
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What all devices of one kind have in common.
pub(crate) struct DeviceKind {
    /// The kind, as device tables have it.
    pub(crate) number: u32,
    /// What messages call one of them, with an article.
    pub(crate) name: &'static str,
    /// What statistics call it.
    pub(crate) key: &'static str,
    /// Its rings, in the order of the device table, which has room for two.
    pub(crate) rings: &'static [RingShape],
    /// Whether [`Connection::doorbell`] is called for its rings. Guests without such devices hold no descriptors.
    pub(crate) has_doorbells: bool,
}

/// Sizes of a ring.
pub(crate) struct RingShape {
    /// Entries of its request queue.
    pub(crate) requests: u32,
    /// Entries of its response queue.
    pub(crate) responses: u32,
    /// Where its parts lie.
    pub(crate) layout: Layout,
}

impl RingShape {
    /// A ring with queues of these types and numbers of entries, which are powers of two.
    pub(crate) const fn new<Req, Rsp>(requests: u32, responses: u32) -> Self {
        match Layout::new::<Req, Rsp>(requests, responses) {
            Some(layout) => RingShape { requests, responses, layout },
            None => panic!("a number of entries is a power of two"),
        }
    }
}

/// The host's end of a device that a guest is about to get.
pub(crate) trait BackEnd: Send {
    /// Its kind.
    fn kind(&self) -> &'static DeviceKind;

    /// What a guest that begins is told about it.
    fn config(&self) -> [u8; CONFIG_SIZE];

    /// What a guest that goes on is told about it, which knows its device by the entry `saved`, of this kind.
    ///
    /// # Errors
    ///
    /// The guest would take it for what it is not.
    fn restore(&self, saved: &DeviceInfo) -> Result<[u8; CONFIG_SIZE], DeviceError> {
        Ok(saved.config)
    }

    /// Connects it to the guest's rings, before the guest runs.
    ///
    /// # Errors
    ///
    /// What keeps it from working: the guest is not started.
    fn connect(self: Box<Self>, connection: Connection<'_>) -> Result<DrivenBy, ConnectError>;
}

/// Which thread a device works on, from its connection on.
pub(crate) enum DrivenBy {
    /// The I/O thread, at the doorbells that the device asked for.
    IoThread(Box<dyn Source>),
    /// The thread that runs the guest, when the guest rings.
    VcpuThread(Arc<dyn DoorbellHandler>),
    /// The I/O thread, unless the thread that runs the guest can do at once what the guest rang for.
    Both(Box<dyn Source>, Arc<dyn QuickHandler>),
}

/// A device that works on the thread that runs its guest: a guest that uses it little needs no other thread for it.
pub(crate) trait DoorbellHandler: Send + Sync {
    /// The guest rang the doorbell of one of its rings.
    fn ring(&self) -> Served;

    /// Takes the device back to where its rings' memory is, after that was reset.
    ///
    /// # Errors
    ///
    /// The rings there are none.
    fn reset(&self) -> Result<(), Violation>;

    /// What drives the device on the I/O thread, which this doorbell reaches. `None`: nothing can.
    fn source(self: Arc<Self>, doorbell: EventFd) -> Option<Box<dyn Source>> {
        let _ = doorbell;
        None
    }

    /// What goes on on this thread once the I/O thread drives the device.
    fn quick(self: Arc<Self>) -> Option<Arc<dyn QuickHandler>> {
        None
    }
}

/// The part of the work of a device on the I/O thread that the thread that runs the guest can do when the guest rings and waits.
pub(crate) trait QuickHandler: Send + Sync {
    /// The guest rang the doorbell of one of the device's rings, and waits. Must not block. Returns false if something is left to do: then the I/O thread is to
    /// be called.
    fn try_ring(&self) -> bool;
}

/// The result of a doorbell on the thread that runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing further is to be done.
    Running,
    /// The answer of a function has just been completed.
    Answered,
    /// From now on the I/O thread is to drive the device.
    HandOver,
}

/// How often a doorbell comes as an exit before the platform is asked to bind it to a descriptor.
///
/// A bound doorbell is several times cheaper to ring, and makes a VM 250 µs
/// more expensive to start and 15 ms more expensive to close (`docs/performance.md`): not worth
/// it for a guest that prints a line and ends.
pub(crate) const RINGS_BEFORE_BINDING: u32 = 32;

/// A ring of a guest, as the device gets it that works at the host's end.
pub struct Ring {
    /// The ring's place in guest memory. What requests point to is in the same memory.
    pub memory: RingMemory,
    /// Its layout, for the requests and responses of the device.
    pub layout: Layout,
    /// The way back to the guest.
    pub channel: Channel,
    /// What the device moves is counted here. The rings of a device share their counters.
    pub counters: Arc<DeviceCounters>,
    /// Whether the ring is unused and all zero; else it is continued where it was left.
    pub fresh: bool,
}

impl Ring {
    /// The host's end of the ring.
    ///
    /// # Errors
    ///
    /// The ring was left in a state that makes no sense.
    pub(crate) fn back<Req, Rsp>(&self) -> Result<Back<RingMemory, Req, Rsp>, Violation>
    where
        Req: FromBytes + IntoBytes + Immutable,
        Rsp: FromBytes + IntoBytes + Immutable,
    {
        match self.fresh {
            true => Ok(Back::new(self.memory.clone(), &self.layout)),
            false => Back::resume(self.memory.clone(), &self.layout),
        }
    }
}

/// What a back end is connected to: a guest's rings, and their doorbells.
pub(crate) struct Connection<'a> {
    /// Counts the guest's devices of this kind from 0.
    pub(crate) index: u32,
    /// The rings of its kind, in their order.
    pub(crate) rings: Vec<Ring>,
    /// Makes a non-blocking descriptor that the guest's doorbell of this port signals.
    pub(crate) doorbells: &'a mut dyn FnMut(EventPort) -> io::Result<EventFd>,
}

impl Connection<'_> {
    /// The rings: as many as the kind of the device says.
    pub(crate) fn rings<const N: usize>(&mut self) -> [Ring; N] {
        let rings = std::mem::take(&mut self.rings).try_into();
        rings.unwrap_or_else(|rings: Vec<_>| panic!("a device of {N} rings gets {}", rings.len()))
    }

    /// What the guest signals when it rings this ring's doorbell. Only for devices whose kind
    /// [says so](DeviceKind::has_doorbells).
    pub(crate) fn doorbell(&mut self, ring: &Ring) -> Result<EventFd, ConnectError> {
        (self.doorbells)(ring.channel.port()).map_err(ConnectError::Doorbell)
    }
}

/// Why a device's back end could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No doorbell.
    #[error("cannot make an eventfd: {0}; raise the limit of open files (ulimit -n)")]
    Doorbell(#[source] io::Error),
    /// A saved ring makes no sense.
    #[error("a ring of the guest was broken when it was saved: {0}")]
    Ring(#[from] Violation),
    /// What is behind the device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Why a device is not what its guest needs, in the device's own words.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DeviceError(Box<dyn Error + Send + Sync>);

impl DeviceError {
    /// For this reason.
    pub(crate) fn new(error: impl Error + Send + Sync + 'static) -> Self {
        DeviceError(Box::new(error))
    }
}
