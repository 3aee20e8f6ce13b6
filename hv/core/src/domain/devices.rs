//! A guest's devices, from the requested configuration to table entries and running back ends. The differences between
//! kinds of devices are behind [`BackEnd`].

use super::Saved;
use super::restore::RestoreError;
use crate::device::console::Console;
use crate::device::{
    BackEnd, ConnectError, Connection, DeviceCounters, DoorbellHandler, DrivenBy, QuickHandler,
    RINGS_BEFORE_BINDING, Ring, RingShape,
};
use crate::event::Hub;
use crate::memory::{GuestMemory, RingMemory};
use crate::platform::Machine;
use crate::reactor::Source;
use hv_abi::device::{CONFIG_SIZE, CONSOLE, DeviceInfo, RingInfo};
use hv_abi::{EventPort, GuestAddr, event, ring};
use std::mem::offset_of;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// A ring of a device.
pub(super) struct RingPlan {
    info: RingInfo,
    layout: ring::Layout,
    offset: u64,
}

impl RingPlan {
    /// A ring that has no address yet.
    fn new(shape: &RingShape) -> Self {
        let info = RingInfo { requests: shape.requests, responses: shape.responses, ..RingInfo::default() };
        RingPlan { info, layout: shape.layout, offset: 0 }
    }

    /// The ring as its back end sees it.
    fn ring(
        &self,
        memory: &Arc<GuestMemory>,
        hub: &Arc<Hub>,
        counters: &Arc<DeviceCounters>,
        fresh: bool,
    ) -> Ring {
        Ring {
            memory: RingMemory::new(memory, self.offset, &self.layout),
            layout: self.layout,
            channel: hub.channel(self.info.event),
            counters: counters.clone(),
            fresh,
        }
    }
}

/// A device of a guest that is about to start.
struct Device {
    index: u32,
    config: [u8; CONFIG_SIZE],
    rings: Vec<RingPlan>,
    back_end: Box<dyn BackEnd>,
}

impl Device {
    /// The number of its kind.
    fn kind(&self) -> u32 {
        self.back_end.kind().number
    }
}

/// The devices of a guest, in the order of its device table: the console comes first.
pub(super) struct Devices {
    all: Vec<Device>,
    /// Whether the rings are new. They are not if the guest resumes from a snapshot.
    fresh: bool,
}

impl Devices {
    /// The devices of a guest that boots.
    pub(super) fn new(console: Arc<Console>, back_ends: Vec<Box<dyn BackEnd>>) -> Self {
        let mut devices: Vec<Device> = Vec::with_capacity(back_ends.len() + 1);
        let mut event = event::FIRST_DEVICE.0;
        let console: Box<dyn BackEnd> = Box::new(console);
        for back_end in std::iter::once(console).chain(back_ends) {
            let kind = back_end.kind();
            let mut rings: Vec<_> = kind.rings.iter().map(RingPlan::new).collect();
            for ring in &mut rings {
                ring.info.event = EventPort(event);
                event += 1;
            }
            let index = devices.iter().filter(|device| device.kind() == kind.number).count() as u32;
            devices.push(Device { index, config: back_end.config(), rings, back_end });
        }
        Devices { all: devices, fresh: true }
    }

    /// The devices of a guest that resumes from a snapshot: those of this validated table, with these back ends in the
    /// table's order, without the console.
    pub(super) fn resume(
        table: &[DeviceInfo],
        base: GuestAddr,
        console: Arc<Console>,
        back_ends: Vec<Box<dyn BackEnd>>,
    ) -> Result<Self, RestoreError> {
        let mut devices = Devices::new(console, back_ends);
        devices.fresh = false;
        if devices.all.len() != table.len()
            || devices.all.iter().zip(table).any(|(device, info)| device.kind() != info.kind)
        {
            let wanted = table.iter().map(|info| info.kind).filter(|&kind| kind != CONSOLE).collect();
            return Err(RestoreError::Devices { wanted });
        }
        for (device, info) in devices.all.iter_mut().zip(table) {
            device.config = device.back_end.restore(info)?;
            for (ring, &saved) in device.rings.iter_mut().zip(&info.rings) {
                // The sizes in a table from a file are those that this version uses. Otherwise the snapshot would have been refused.
                ring.info = saved;
                ring.offset = saved.address.0 - base.0;
            }
        }
        Ok(devices)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The port of the console's ring.
    pub(super) fn console_port(&self) -> EventPort {
        self.all[0].rings[0].info.event
    }

    /// Bytes of every ring, in the order of the table.
    pub(super) fn ring_sizes(&self) -> Vec<usize> {
        self.all.iter().flat_map(|device| &device.rings).map(|ring| ring.layout.size()).collect()
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
                DeviceInfo { kind: device.kind(), index: device.index, rings, config: device.config }
            })
            .collect()
    }

    /// Tells a guest that resumes what has changed about its devices.
    pub(super) fn rewrite(&self, memory: &GuestMemory, saved: &Saved) {
        for (n, (device, info)) in self.all.iter().zip(&saved.devices).enumerate() {
            if device.config != info.config {
                let entry = saved.places.devices + (n * size_of::<DeviceInfo>()) as u64;
                memory.host_write(entry + offset_of!(DeviceInfo, config) as u64, &device.config);
            }
        }
    }

    /// How many of their doorbells, the console's included, may be bound to a descriptor. A clone whose devices have no
    /// doorbells must not hold any descriptor for them: there may be thousands of clones.
    pub(super) fn doorbells(&self) -> usize {
        let kinds = self.all.iter().map(|device| device.back_end.kind());
        let rings: usize = kinds.filter(|kind| kind.has_doorbells).map(|kind| kind.rings.len()).sum();
        if self.fresh || rings > 0 { rings + 1 } else { 0 }
    }

    /// Connects every back end to its rings.
    pub(super) fn connect(
        self,
        memory: &Arc<GuestMemory>,
        hub: &Arc<Hub>,
        machine: &mut dyn Machine,
    ) -> Result<Connected, ConnectError> {
        let Connected { mut sources, mut bells, mut counters } = Connected::default();
        for device in self.all {
            let moved = Arc::default();
            let rings = device.rings.iter().map(|ring| ring.ring(memory, hub, &moved, self.fresh)).collect();
            counters.push(moved);
            let doorbells = &mut |port| {
                let doorbell = machine.doorbell(port)?;
                bells.push(Bell::new(port, Target::Descriptor(doorbell.try_clone()?, None)));
                Ok(doorbell)
            };
            match device.back_end.connect(Connection { index: device.index, rings, doorbells })? {
                DrivenBy::IoThread(source) => sources.push(source),
                DrivenBy::Both(source, quick) => {
                    sources.push(source);
                    let ports: Vec<_> = device.rings.iter().map(|ring| ring.info.event).collect();
                    for bell in bells.iter_mut().filter(|bell| ports.contains(&bell.port)) {
                        if let Target::Descriptor(_, own) = &mut bell.target {
                            *own = Some(quick.clone());
                        }
                    }
                }
                DrivenBy::VcpuThread(handler) => bells.extend(
                    device
                        .rings
                        .iter()
                        .map(|ring| Bell::new(ring.info.event, Target::Handler(handler.clone()))),
                ),
            }
        }
        Ok(Connected { sources, bells, counters })
    }
}

/// Connected devices: what the I/O thread drives, and the doorbells that reach them.
#[derive(Default)]
pub(super) struct Connected {
    pub(super) sources: Vec<Box<dyn Source>>,
    pub(super) bells: Vec<Bell>,
    /// For each device, in the order of the table.
    pub(super) counters: Vec<Arc<DeviceCounters>>,
}

/// A doorbell of a guest. `rings` counts the exits that signalled its descriptor.
pub(super) struct Bell {
    pub(super) port: EventPort,
    pub(super) target: Target,
    pub(super) rings: u32,
}

/// Where a doorbell is delivered.
pub(super) enum Target {
    /// To whatever watches this descriptor: the I/O thread. The guest's own thread may try first.
    Descriptor(EventFd, Option<Arc<dyn QuickHandler>>),
    /// The guest's own thread, which then does the device's work.
    Handler(Arc<dyn DoorbellHandler>),
}

impl Bell {
    fn new(port: EventPort, target: Target) -> Self {
        Bell { port, target, rings: 0 }
    }

    /// Signals the descriptor. Returns whether it is time to bind the bell.
    pub(super) fn ring(rings: &mut u32, descriptor: &EventFd) -> bool {
        // An error means that the counter is full (2^64 - 2 unread rings): the descriptor is signalled already.
        let _ = descriptor.write(1);
        *rings = rings.saturating_add(1);
        *rings == RINGS_BEFORE_BINDING
    }
}
