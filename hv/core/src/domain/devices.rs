//! A guest's devices: from what was asked for to table entries and back ends.

use super::Saved;
use super::layout::ring_info;
use super::restore::RestoreError;
use crate::device::block::device::MAX_SPIN;
use crate::device::block::{BlockDevice, BlockError, Disk, EngineKind, Parts};
use crate::device::function::FunctionDevice;
use crate::device::net::{Capture, NetDevice, Network, Ring};
use crate::event::Hub;
use crate::memory::{GuestMemory, RingMemory};
use crate::platform::Machine;
use crate::reactor::Source;
use hv_abi::device::{CONFIG_SIZE, Config, DeviceInfo, RingInfo};
use hv_abi::io::block::{BlockConfig, BlockRequest, BlockResponse};
use hv_abi::io::console::ConsoleConfig;
use hv_abi::io::function::FunctionConfig;
use hv_abi::io::net::{NetConfig, NetRequest, NetResponse};
use hv_abi::ring::Violation;
use hv_abi::{EventPort, GuestAddr, event, ring};
use std::io;
use std::mem::offset_of;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// Entries (bytes) of the console's output and input.
const CONSOLE_OUT: u32 = 16 << 10;
const CONSOLE_IN: u32 = 2 << 10;
/// Requests of a block device in flight.
const BLOCK_ENTRIES: u32 = 128;
/// Frames in flight, each way.
const NET_ENTRIES: u32 = 256;
/// Bytes of a function device, each way: more than the largest head.
const FUNCTION_BYTES: u32 = 32 << 10;

/// A ring of a device.
pub(super) struct RingPlan {
    pub(super) info: RingInfo,
    pub(super) layout: ring::Layout,
    pub(super) offset: u64,
}

/// What works at the other end of a device's rings.
pub(super) enum Backend {
    Console,
    Block(Disk, EngineKind),
    Net(Box<dyn Network>, Option<Capture>),
    Function(Arc<FunctionDevice>),
}

impl Backend {
    /// The kind of device in a table.
    fn kind(&self) -> u32 {
        match self {
            Backend::Console => ConsoleConfig::KIND,
            Backend::Block(..) => hv_abi::device::BLOCK,
            Backend::Net(..) => NetConfig::KIND,
            Backend::Function(_) => FunctionConfig::KIND,
        }
    }

    /// Its configuration, and its rings, which are nowhere yet.
    fn describe(&self) -> ([u8; CONFIG_SIZE], Vec<RingPlan>) {
        let config = match self {
            Backend::Console => ConsoleConfig::default().to_config(),
            Backend::Block(disk, _) => disk.config().to_config(),
            Backend::Net(network, _) => network.config().to_config(),
            Backend::Function(_) => FunctionConfig::default().to_config(),
        };
        (config, rings_of(self.kind()).expect("a kind that there is"))
    }
}

/// The rings of a device of this kind, which are nowhere yet. `None`: there is no such kind.
pub(super) fn rings_of(kind: u32) -> Option<Vec<RingPlan>> {
    use hv_abi::device::{BLOCK, CONSOLE, FUNCTION, NET};
    let bytes = |requests, responses| RingPlan::new(ring_info::<u8, u8>(requests, responses));
    let net = || RingPlan::new(ring_info::<NetRequest, NetResponse>(NET_ENTRIES, NET_ENTRIES));
    Some(match kind {
        CONSOLE => vec![bytes(CONSOLE_OUT, CONSOLE_IN)],
        BLOCK => {
            vec![RingPlan::new(ring_info::<BlockRequest, BlockResponse>(BLOCK_ENTRIES, BLOCK_ENTRIES))]
        }
        NET => vec![net(), net()],
        FUNCTION => vec![bytes(FUNCTION_BYTES, FUNCTION_BYTES)],
        _ => return None,
    })
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
pub(super) struct Devices {
    pub(super) all: Vec<Device>,
    /// Whether the rings are fresh, not those of a guest that goes on.
    fresh: bool,
}

impl Devices {
    /// Validates what was asked for; the console comes first.
    pub(super) fn new(backends: Vec<Backend>) -> Self {
        let mut devices: Vec<Device> = Vec::with_capacity(backends.len() + 1);
        let mut event = event::FIRST_DEVICE.0;
        for backend in std::iter::once(Backend::Console).chain(backends) {
            let (config, mut rings) = backend.describe();
            for ring in &mut rings {
                ring.info.event = EventPort(event);
                event += 1;
            }
            let kind = backend.kind();
            let index = devices.iter().filter(|device| device.kind == kind).count() as u32;
            devices.push(Device { kind, index, config, rings, backend });
        }
        Devices { all: devices, fresh: true }
    }

    /// The devices of a guest that goes on: of this table, validated before, with
    /// these back ends in its order, the console excepted.
    pub(super) fn resume(
        table: &[DeviceInfo],
        base: GuestAddr,
        backends: Vec<Backend>,
    ) -> Result<Self, RestoreError> {
        let mut devices = Devices::new(backends);
        devices.fresh = false;
        let wanted =
            || table.iter().map(|info| info.kind).filter(|&kind| kind != ConsoleConfig::KIND).collect();
        if devices.all.len() != table.len()
            || devices.all.iter().zip(table).any(|(d, info)| d.kind != info.kind)
        {
            return Err(RestoreError::Devices { wanted: wanted() });
        }
        for (device, info) in devices.all.iter_mut().zip(table) {
            if let (Backend::Block(disk, _), Some(saved)) = (&device.backend, BlockConfig::of(info)) {
                same_disk(device.index, disk, &saved)?;
            }
            if device.kind != NetConfig::KIND {
                // What the guest knows; of networks it is [told anew](Self::rewrite).
                device.config = info.config;
            }
            for (ring, &saved) in device.rings.iter_mut().zip(&info.rings) {
                // The sizes of a table from a file are those that this version
                // gives, or the snapshot would have been refused.
                ring.info = saved;
                ring.offset = saved.address.0 - base.0;
            }
        }
        Ok(devices)
    }

    /// The console's ring; the console itself is its domain's to drive.
    pub(super) fn take_console(&mut self) -> RingPlan {
        self.all.remove(0).rings.pop().expect("the console comes first and has a ring")
    }

    /// Every ring, in the order of the table.
    pub(super) fn rings(&self) -> impl Iterator<Item = &RingPlan> {
        self.all.iter().flat_map(|device| &device.rings)
    }

    /// Bytes of every ring, in the order of the table.
    pub(super) fn ring_sizes(&self) -> Vec<usize> {
        self.rings().map(|ring| ring.layout.size()).collect()
    }

    /// Puts the rings where the layout says, in memory that starts at `base`.
    pub(super) fn place(&mut self, base: GuestAddr, offsets: &[u64]) {
        let rings = self.all.iter_mut().flat_map(|device| &mut device.rings);
        for (ring, &offset) in rings.zip(offsets) {
            ring.offset = offset;
            ring.info.address = GuestAddr(base.0 + offset);
        }
    }

    /// The device table.
    pub(super) fn table(&self) -> Vec<DeviceInfo> {
        self.all
            .iter()
            .map(|device| {
                let mut rings = [RingInfo::default(); 2];
                rings.iter_mut().zip(&device.rings).for_each(|(to, ring)| *to = ring.info);
                DeviceInfo { kind: device.kind, index: device.index, rings, config: device.config }
            })
            .collect()
    }
}

/// Refuses a disk that the guest would take for what it is not.
fn same_disk(index: u32, disk: &Disk, saved: &BlockConfig) -> Result<(), RestoreError> {
    let given = disk.config();
    let size_and_kind = |config: &BlockConfig| (config.sectors, config.sector_size, config.features);
    let limits_hold = saved.max_transfer <= given.max_transfer && saved.max_segments <= given.max_segments;
    if size_and_kind(&given) == size_and_kind(saved) && limits_hold {
        return Ok(());
    }
    let path = disk.path().to_path_buf();
    Err(RestoreError::Disk { index, path, given: Box::new(given), saved: Box::new(*saved) })
}

/// A device at work: what the I/O thread drives, and the doorbells that reach it.
#[derive(Default)]
pub(super) struct Connected {
    pub(super) sources: Vec<Box<dyn Source>>,
    pub(super) bells: Vec<Bell>,
}

/// Why a device's back end could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The block device could not be made.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// No doorbell.
    #[error("cannot make an eventfd: {0}; raise the limit of open files (ulimit -n)")]
    Doorbell(#[source] io::Error),
    /// A saved ring makes no sense.
    #[error("a ring of the guest was broken when it was saved: {0}")]
    Ring(#[from] Violation),
}

impl Device {
    /// Starts the back end. Not for the console, which its domain drives.
    fn connect(
        self,
        memory: &Arc<GuestMemory>,
        hub: &Arc<Hub>,
        machine: &mut dyn Machine,
        fresh: bool,
        to: &mut Connected,
    ) -> Result<(), ConnectError> {
        let mut rings = self.rings.into_iter();
        let mut next = || rings.next().expect("`describe` made the rings of this kind");
        let mut with_bell = |bells: &mut Vec<Bell>| {
            let ring = next();
            let doorbell = machine.doorbell(ring.event()).map_err(ConnectError::Doorbell)?;
            let rung = doorbell.try_clone().map_err(ConnectError::Doorbell)?;
            bells.push(Bell::new(ring.event(), Target::Descriptor(rung)));
            Ok::<_, ConnectError>((ring, doorbell))
        };
        match self.backend {
            Backend::Console => unreachable!("the console is the domain's"),
            Backend::Block(disk, engine) => {
                let (ring, doorbell) = with_bell(&mut to.bells)?;
                to.sources.push(Box::new(BlockDevice::new(Parts {
                    index: self.index,
                    ring: ring.memory(memory),
                    layout: ring.layout,
                    entries: ring.info.requests,
                    channel: hub.channel(ring.event()),
                    doorbell,
                    disk,
                    engine,
                    spin: MAX_SPIN,
                    fresh,
                })?));
            }
            Backend::Net(network, capture) => {
                let mut ring = || {
                    let (ring, doorbell) = with_bell(&mut to.bells)?;
                    Ok::<_, ConnectError>(Ring {
                        memory: ring.memory(memory),
                        layout: ring.layout,
                        channel: hub.channel(ring.event()),
                        doorbell,
                        fresh,
                    })
                };
                let (transmit, receive) = (ring()?, ring()?);
                to.sources.push(Box::new(NetDevice::new(self.index, transmit, receive, network, capture)?));
            }
            Backend::Function(device) => {
                let ring = next();
                let channel = hub.channel(ring.event());
                device.connect(ring.memory(memory), &ring.layout, channel, fresh)?;
                to.bells.push(Bell::new(ring.event(), Target::Function(device)));
            }
        }
        Ok(())
    }
}

impl Devices {
    /// Starts every back end but the console's.
    pub(super) fn connect(
        self,
        memory: &Arc<GuestMemory>,
        hub: &Arc<Hub>,
        machine: &mut dyn Machine,
    ) -> Result<Connected, ConnectError> {
        let mut connected = Connected::default();
        for device in self.all {
            device.connect(memory, hub, machine, self.fresh, &mut connected)?;
        }
        Ok(connected)
    }

    /// Tells a guest that goes on what has changed about its devices: addresses of its networks.
    pub(super) fn rewrite(&self, memory: &GuestMemory, saved: &Saved) {
        for (n, device) in self.all.iter().enumerate() {
            if device.kind == NetConfig::KIND {
                let entry = saved.places.devices + (n * size_of::<DeviceInfo>()) as u64;
                memory.host_write(entry + offset_of!(DeviceInfo, config) as u64, &device.config);
            }
        }
    }

    /// How many of their doorbells, the console's included, may be bound to a descriptor. A
    /// clone without devices that have some is to hold none: there may be thousands.
    pub(super) fn doorbells(&self) -> usize {
        let has_some = |device: &&Device| matches!(device.backend, Backend::Block(..) | Backend::Net(..));
        let rings: usize = self.all.iter().filter(has_some).map(|device| device.rings.len()).sum();
        if self.fresh || rings > 0 { rings + 1 } else { 0 }
    }

    /// Whether the rings are fresh.
    pub(super) fn fresh(&self) -> bool {
        self.fresh
    }
}

/// How often a doorbell comes as an exit before the platform is asked to bind it.
///
/// A bound doorbell is several times cheaper to ring, and makes a VM 250 µs
/// more expensive to start and 15 ms more expensive to close (`docs/performance.md`): not worth
/// it for a guest that prints a line and ends.
pub(super) const RINGS_BEFORE_BINDING: u32 = 32;

/// A doorbell of a guest, and how often it came as an exit.
pub(super) struct Bell {
    pub(super) port: EventPort,
    pub(super) target: Target,
    pub(super) rings: u32,
}

/// Who hears a doorbell.
pub(super) enum Target {
    /// Whoever watches this descriptor: the I/O thread.
    Descriptor(EventFd),
    /// The guest's own thread, which then does the device's work.
    Function(Arc<FunctionDevice>),
}

impl Bell {
    pub(super) fn new(port: EventPort, target: Target) -> Self {
        Bell { port, target, rings: 0 }
    }

    /// Signals the descriptor. Returns whether it is time to bind the bell.
    pub(super) fn ring(rings: &mut u32, descriptor: &EventFd) -> bool {
        // A full counter (2^64 - 2 rings unread) has been signalled already.
        let _ = descriptor.write(1);
        *rings = rings.saturating_add(1);
        *rings == RINGS_BEFORE_BINDING
    }
}
