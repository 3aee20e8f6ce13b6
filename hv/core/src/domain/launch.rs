//! From a guest whose memory is ready to one that runs.

use super::bus::{Bus, BusError, Wiring};
use super::devices::Devices;
use super::{
    BootPhases, ConnectError, Counters, Cpu, Domain, Guest, Identity, Observer, Offsets, Order, Saved,
    StartError, Status, Stop,
};
use crate::device::console::{Console, ConsoleRing, Input, OnClosed, Output};
use crate::engine::Engine;
use crate::event::{Hub, Owner};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::platform::{CpuState, Start};
use crate::sched::Share;
use hv_abi::shared_info::SharedInfo;
use hv_host::clock;
use std::mem::offset_of;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// A guest that is about to start.
pub(super) struct Launch {
    pub(super) name: String,
    pub(super) image: Arc<Image>,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) places: Offsets,
    /// Where its virtual CPU begins.
    pub(super) cpu: CpuState,
    pub(super) devices: Devices,
    pub(super) bus: Option<Box<dyn Bus>>,
    pub(super) output: Box<dyn Output>,
    pub(super) errors: Option<Box<dyn Output>>,
    pub(super) input: Option<Box<dyn Input>>,
    pub(super) share: Share,
    pub(super) pause_at_ready: bool,
    /// For one that goes on: what was saved, and what makes it another guest
    /// than that one.
    pub(super) resumed: Option<(Arc<Saved>, Identity)>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    /// How long it took to load.
    pub(super) load: Duration,
}

impl Launch {
    /// Starts it; unless it is one that waits for its first request, it runs at once.
    pub(super) fn start(mut self, engine: &Engine) -> Result<Guest, StartError> {
        let begin = Instant::now();
        let memory = self.memory;
        let hub = Hub::new(memory.clone(), self.places.shared_info);
        hub.set_handler(self.places.handler(memory.base()));
        let opening = self.bus.as_ref().map(|bus| bus.opening());
        let mut vcpu = engine.inner.platform.start(&Start {
            memory: &memory,
            hypercall_page: self.places.hypercall_page,
            cpu: &self.cpu,
            doorbells: self.devices.doorbells(),
            opening: opening.as_ref(),
        })?;
        let khz = vcpu.tsc_khz();
        let clock = match &self.resumed {
            Some((saved, identity)) => identity.give(&memory, &self.places, &hub, khz, saved.time),
            None => {
                let clock = clock::resume(khz, 0);
                let at = self.places.shared_info + offset_of!(SharedInfo, clock) as u64;
                memory.host_write(at, clock.as_bytes());
                clock
            }
        };
        let phases = BootPhases { load: self.load, platform: begin.elapsed(), ..BootPhases::default() };

        let fresh = self.devices.fresh();
        let table = self.devices.table();
        let console_ring = self.devices.take_console();
        let mut connected = self.devices.connect(&memory, &hub, &mut *vcpu)?;
        if let Some(bus) = &mut self.bus {
            let Wiring { sources, bells } = bus.connect(&memory, &hub)?;
            connected.sources.extend(sources);
            for (address, bell) in bells {
                vcpu.bind_address(address, &bell).map_err(|error| BusError(error.into()))?;
            }
        }
        let console_port = console_ring.event();
        let ring = console_ring.memory(&memory);
        let ring = match fresh {
            true => ConsoleRing::fresh(ring, &console_ring.layout),
            false => ConsoleRing::resume(ring, &console_ring.layout).map_err(ConnectError::Ring)?,
        };
        let channel = hub.channel(console_port);
        // A function waits for its first request where it is.
        let paused = self.observer.is_some();
        let domain = Arc::new_cyclic(|domain: &Weak<Domain>| {
            let closed = closed(domain.clone());
            Domain {
                console: Console::new(ring, channel, self.output, self.input, closed),
                console_port,
                errors: self.errors.map(Mutex::new),
                name: self.name,
                image: self.image,
                places: self.places,
                table,
                memory: memory.clone(),
                hub: hub.clone(),
                origin: self.resumed.map(|(origin, _)| origin),
                khz,
                clock: Mutex::new(clock),
                kicker: vcpu.kicker(),
                inside: AtomicBool::new(false),
                cpu: Mutex::new(Cpu {
                    vcpu,
                    bus: self.bus,
                    bells: connected.bells,
                    console_rings: 0,
                    blocked: None,
                    first_entry: None,
                    called: false,
                    draining: None,
                }),
                engine: Arc::downgrade(&engine.inner),
                sources: Mutex::default(),
                source_owner: engine.inner.reactor.owner(Some(domain.clone())),
                entity: OnceLock::new(),
                crowded: engine.inner.scheduler.crowded(),
                me: domain.clone(),
                ordered: AtomicBool::new(false),
                order: Mutex::default(),
                abandon: AtomicBool::new(false),
                pause_at_ready: AtomicBool::new(self.pause_at_ready),
                answered: AtomicBool::new(false),
                pause_ordered: AtomicBool::new(paused),
                inspectors: Default::default(),
                status: Mutex::new(Status { paused, outcome: None }),
                changed: Condvar::new(),
                observer: self.observer,
                counters: Counters::default(),
                phases: Mutex::new(phases),
            }
        });
        let owner: Arc<dyn Owner> = domain.clone();
        hub.set_owner(Arc::downgrade(&owner));
        let entity = engine.inner.scheduler.add(domain.clone(), self.share);
        let _ = domain.entity.set(Arc::downgrade(&entity));
        let reactor = &engine.inner.reactor;
        let add = |source| reactor.add_for(&domain.source_owner, source);
        let sources = connected.sources.into_iter().map(add).collect();
        *domain.sources.lock().expect("nobody else has it yet") = sources;
        if !paused {
            entity.wake();
        }
        Ok(Guest { domain, entity, engine: engine.clone() })
    }
}

/// Ends a guest when nobody reads its console any more, or when there is no room for what it says.
fn closed(domain: Weak<Domain>) -> OnClosed {
    Box::new(move |error| {
        let stop = match error.raw_os_error() {
            Some(number @ (libc::ENOSPC | libc::EDQUOT | libc::EFBIG)) => Stop::OutputFailed(number),
            _ => Stop::OutputClosed,
        };
        if let Some(domain) = domain.upgrade() {
            domain.order(Order::Stop(stop));
        }
    })
}
