//! A guest's devices: from what was asked for to table entries and back ends.

use super::layout::ring_info;
use crate::device::block::device::MAX_SPIN;
use crate::device::block::{BlockDevice, Disk, EngineError, EngineKind, Parts};
use crate::device::net::{Capture, NetDevice, Network, Ring};
use crate::event::Hub;
use crate::memory::{GuestMemory, RingMemory};
use crate::reactor::Source;
use hv_abi::device::{CONFIG_SIZE, Config, DeviceInfo, RingInfo};
use hv_abi::io::block::{BlockRequest, BlockResponse};
use hv_abi::io::console::ConsoleConfig;
use hv_abi::io::net::{NetConfig, NetRequest, NetResponse};
use hv_abi::{EventPort, GuestAddr, event, ring};
use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Entries (bytes) of the console's output and input.
const CONSOLE_OUT: u32 = 16 << 10;
const CONSOLE_IN: u32 = 2 << 10;
/// Requests of a block device in flight.
const BLOCK_ENTRIES: u32 = 128;
/// Frames in flight, each way.
const NET_ENTRIES: u32 = 256;

/// A ring of a device.
pub(super) struct RingPlan {
    info: RingInfo,
    pub(super) layout: ring::Layout,
    pub(super) offset: u64,
}

/// What works at the other end of a device's rings.
pub(super) enum Backend {
    Console,
    Block(Disk, EngineKind),
    Net(Box<dyn Network>, Option<Capture>),
}

/// A device of a guest that is about to start.
pub(super) struct Device {
    kind: u32,
    index: u32,
    config: [u8; CONFIG_SIZE],
    pub(super) rings: Vec<RingPlan>,
    backend: Backend,
}

impl RingPlan {
    fn new((info, layout): (RingInfo, ring::Layout)) -> Self {
        RingPlan { info, layout, offset: 0 }
    }

    pub(super) fn event(&self) -> EventPort {
        self.info.event
    }

    /// The ring as its back end sees it.
    pub(super) fn memory(&self, memory: &Arc<GuestMemory>) -> RingMemory {
        RingMemory::new(memory, self.offset, &self.layout)
    }
}

/// The devices of a guest, in the order of its device table.
pub(super) struct Devices(pub(super) Vec<Device>);

impl Devices {
    /// Judges what was asked for; the console comes first.
    pub(super) fn new(backends: Vec<Backend>) -> Self {
        let mut devices: Vec<Device> = Vec::with_capacity(backends.len() + 1);
        let mut event = event::FIRST_DEVICE.0;
        for backend in std::iter::once(Backend::Console).chain(backends) {
            let (kind, config, mut rings) = match &backend {
                Backend::Console => (
                    ConsoleConfig::KIND,
                    ConsoleConfig::default().to_config(),
                    vec![RingPlan::new(ring_info::<u8, u8>(CONSOLE_OUT, CONSOLE_IN))],
                ),
                Backend::Block(disk, _) => {
                    let ring = ring_info::<BlockRequest, BlockResponse>(BLOCK_ENTRIES, BLOCK_ENTRIES);
                    (hv_abi::device::BLOCK, disk.config().to_config(), vec![RingPlan::new(ring)])
                }
                Backend::Net(network, _) => {
                    let ring =
                        || RingPlan::new(ring_info::<NetRequest, NetResponse>(NET_ENTRIES, NET_ENTRIES));
                    (NetConfig::KIND, network.config().to_config(), vec![ring(), ring()])
                }
            };
            for ring in &mut rings {
                ring.info.event = EventPort(event);
                event += 1;
            }
            let index = devices.iter().filter(|device| device.kind == kind).count() as u32;
            devices.push(Device { kind, index, config, rings, backend });
        }
        Devices(devices)
    }

    /// The console's ring; the console itself is its domain's to drive.
    pub(super) fn take_console(&mut self) -> RingPlan {
        self.0.remove(0).rings.pop().expect("the console comes first and has a ring")
    }

    /// Every ring, in the order of the table.
    pub(super) fn rings(&self) -> impl Iterator<Item = &RingPlan> {
        self.0.iter().flat_map(|device| &device.rings)
    }

    /// Bytes of every ring, in the order of the table.
    pub(super) fn ring_sizes(&self) -> Vec<usize> {
        self.rings().map(|ring| ring.layout.size()).collect()
    }

    /// Puts the rings where the layout says, in memory that starts at `base`.
    pub(super) fn place(&mut self, base: GuestAddr, offsets: &[u64]) {
        let rings = self.0.iter_mut().flat_map(|device| &mut device.rings);
        for (ring, &offset) in rings.zip(offsets) {
            ring.offset = offset;
            ring.info.address = GuestAddr(base.0 + offset);
        }
    }

    /// The device table.
    pub(super) fn table(&self) -> Vec<DeviceInfo> {
        self.0
            .iter()
            .map(|device| {
                let mut rings = [RingInfo::default(); 2];
                rings.iter_mut().zip(&device.rings).for_each(|(to, ring)| *to = ring.info);
                DeviceInfo { kind: device.kind, index: device.index, rings, config: device.config }
            })
            .collect()
    }
}

/// A device at work: what the I/O thread drives, and the doorbells that reach it.
pub(super) struct Connected {
    pub(super) source: Box<dyn Source>,
    pub(super) bells: Vec<Bell>,
}

/// Why a device's back end could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The block device's engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No doorbell.
    #[error("cannot make an eventfd: {0}; raise the limit of open files (ulimit -n)")]
    Doorbell(io::Error),
}

impl Device {
    /// Starts the back end. Not for the console, which its domain drives.
    pub(super) fn connect(
        self,
        memory: &Arc<GuestMemory>,
        hub: &Arc<Hub>,
    ) -> Result<Connected, ConnectError> {
        let mut bells = Vec::with_capacity(self.rings.len());
        let mut rings = self.rings.into_iter();
        let mut next = || {
            let ring = rings.next().expect("`new` made the rings of this kind");
            let doorbell = doorbell().map_err(ConnectError::Doorbell)?;
            bells.push(Bell::new(ring.event(), doorbell.try_clone().map_err(ConnectError::Doorbell)?));
            Ok::<_, ConnectError>((ring, doorbell))
        };
        let source: Box<dyn Source> = match self.backend {
            Backend::Console => unreachable!("the console is the domain's"),
            Backend::Block(disk, engine) => {
                let (ring, doorbell) = next()?;
                Box::new(BlockDevice::new(Parts {
                    index: self.index,
                    ring: ring.memory(memory),
                    layout: ring.layout,
                    entries: ring.info.requests,
                    channel: hub.channel(ring.event()),
                    doorbell,
                    disk,
                    engine,
                    spin: MAX_SPIN,
                })?)
            }
            Backend::Net(network, capture) => {
                let mut ring = || {
                    let (ring, doorbell) = next()?;
                    Ok::<_, ConnectError>(Ring {
                        memory: ring.memory(memory),
                        layout: ring.layout,
                        channel: hub.channel(ring.event()),
                        doorbell,
                    })
                };
                let (transmit, receive) = (ring()?, ring()?);
                Box::new(NetDevice::new(self.index, transmit, receive, network, capture))
            }
        };
        Ok(Connected { source, bells })
    }
}

/// A new doorbell: non-blocking, closed on exec.
pub(super) fn doorbell() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

/// How often a doorbell comes as an exit before the platform is asked to bind it.
///
/// A bound doorbell is several times cheaper to ring, and makes a VM 250 µs
/// dearer to start and 15 ms dearer to close (`docs/performance.md`): not worth
/// it for a guest that prints a line and ends.
pub(super) const RINGS_BEFORE_BINDING: u32 = 32;

/// A doorbell of a guest, and how often it came as an exit.
pub(super) struct Bell {
    pub(super) port: EventPort,
    pub(super) descriptor: EventFd,
    rings: u32,
}

impl Bell {
    pub(super) fn new(port: EventPort, descriptor: EventFd) -> Self {
        Bell { port, descriptor, rings: 0 }
    }

    /// Signals the descriptor. Returns whether it is time to bind the bell.
    pub(super) fn ring(&mut self) -> bool {
        // A full counter (2^64 - 2 rings unread) has been signalled already.
        let _ = self.descriptor.write(1);
        self.rings = self.rings.saturating_add(1);
        self.rings == RINGS_BEFORE_BINDING
    }
}
