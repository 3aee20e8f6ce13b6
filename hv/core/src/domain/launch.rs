//! From a guest whose memory is ready to one that runs.

use super::bus::{Bus, BusError};
use super::devices::{Connected, Devices};
use super::doorbell::Doorbells;
use super::drain::Drain;
use super::end::Order;
use super::free_memory::{self, FreeMemory};
use super::life::{Event, Life};
use super::pace::Pace;
use super::power::Power;
use super::usage::MemoryMeter;
use super::vcpu::{VcpuHandle, VcpuTask};
use super::{BootPhases, Counters, Domain, Guest, Hook, Identity, Offsets, Saved, StartError, Stop, Targets};
use crate::budget::{Consumer, Promise};
use crate::device::console::{Console, OnClosed, Output};
use crate::engine::Engine;
use crate::event::{Hub, Owner};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::platform::{CpuState, Start, StartVcpu, Started};
use crate::reactor::Source;
use crate::sched::{Entity, Group, Share};
use hv_abi::shared_info::SharedInfo;
use hv_host::clock;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// A guest that is about to start.
pub(super) struct Launch {
    pub(super) name: String,
    pub(super) image: Arc<Image>,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) places: Offsets,
    /// The initial states of its virtual CPUs: at least one.
    pub(super) cpus: Vec<CpuState>,
    pub(super) devices: Devices,
    pub(super) bus: Option<Box<dyn Bus>>,
    pub(super) console: Arc<Console>,
    pub(super) errors: Option<Box<dyn Output>>,
    pub(super) share: Share,
    pub(super) group: Option<Group>,
    pub(super) promise: Promise,
    pub(super) pause_at_ready: bool,
    /// For a guest that resumes: what was saved, and its new identity.
    pub(super) resumed: Option<(Arc<Saved>, Identity)>,
    pub(super) hook: Option<Arc<dyn Hook>>,
    /// How long it took to load.
    pub(super) load: Duration,
}

impl Launch {
    /// Starts it. It runs at once, unless it is a function that waits for its first request.
    pub(super) fn start(mut self, engine: &Engine) -> Result<Guest, StartError> {
        let begin = Instant::now();
        if self.group.as_ref().is_some_and(|group| !engine.inner.scheduler.has(group)) {
            return Err(StartError::ForeignGroup);
        }
        let memory = self.memory;
        let hub = Hub::of(memory.clone(), self.places.shared_info, self.cpus.len());
        hub.set_handler(self.places.handler(memory.base()));
        let opening = self.bus.as_ref().map(|bus| bus.opening());
        let pages = self.places.hypercall_pages(self.cpus.len());
        let vcpus = pages.iter().zip(&self.cpus).map(|(page, state)| StartVcpu { page: *page, state });
        let Started { mut machine, vcpus } = engine.inner.platform.start(&Start {
            memory: &memory,
            vcpus: &vcpus.collect::<Vec<_>>(),
            doorbells: self.devices.doorbells(),
            opening: opening.as_ref(),
        })?;
        let (khz, refined_at) = (machine.tsc_khz(), machine.tsc_refined_at());
        let clock = match &self.resumed {
            Some((saved, identity)) => {
                free_memory::begin(&memory, &self.places, self.hook.as_deref());
                identity.give(&memory, &self.places, &hub, khz, saved.time)
            }
            None => {
                let clock = clock::resume(khz, 0);
                let at = self.places.shared_info + offset_of!(SharedInfo, clock) as u64;
                memory.host_write(at, clock.as_bytes());
                clock
            }
        };
        let phases = BootPhases { load: self.load, platform: begin.elapsed(), ..BootPhases::default() };

        let table = self.devices.table();
        let console_port = self.devices.console_port();
        let Connected { mut sources, bells, counters } =
            self.devices.connect(&memory, &hub, &mut *machine)?;
        if let Some(bus) = &mut self.bus {
            let wiring = bus.connect(&memory, &hub)?;
            sources.extend(wiring.sources);
            for (address, bell) in wiring.bells {
                machine.bind_address(address, &bell).map_err(|error| BusError(error.into()))?;
            }
        }
        let vcpus = vcpus.into_iter().zip(&self.cpus).enumerate();
        let vcpus: Box<[_]> =
            vcpus.map(|(number, (vcpu, state))| VcpuHandle::new(number, vcpu, Power::of(state))).collect();
        // A function waits, paused, for its first request.
        let first = match (&self.hook, self.pause_at_ready) {
            (Some(_), _) => Event::Pause,
            (None, true) => Event::StartToReady,
            (None, false) => Event::Start,
        };
        let domain = Arc::new_cyclic(|domain: &Weak<Domain>| {
            self.console.set_on_closed(closed(domain.clone()));
            Domain {
                drain: Drain::new(self.console),
                errors: self.errors.map(Mutex::new),
                name: self.name,
                image: self.image,
                places: self.places,
                table,
                memory: memory.clone(),
                hub: hub.clone(),
                origin: self.resumed.map(|(origin, _)| origin),
                khz: khz.into(),
                clock: Mutex::new(clock),
                targets: Mutex::new(Targets::standing(&memory, &self.places, vcpus.len())),
                life: Life::new(vcpus.len()),
                vcpus,
                doorbells: Mutex::new(Doorbells::new(machine, bells, console_port)),
                bus: self.bus.map(Mutex::new),
                engine: Arc::downgrade(&engine.inner),
                sources: Mutex::default(),
                source_owner: engine.inner.reactor.owner(Some(domain.clone())),
                free_memory: FreeMemory::default(),
                squeeze: AtomicU64::new(0),
                promise: self.promise,
                crowded: engine.inner.scheduler.crowded(),
                me: domain.clone(),
                inspectors: Default::default(),
                hook: self.hook,
                done: AtomicBool::new(false),
                counters: Counters::default(),
                device_counters: counters,
                memory_meter: MemoryMeter::new(),
                phases: Mutex::new(phases),
            }
        });
        let owner: Arc<dyn Owner> = domain.clone();
        hub.set_owner(Arc::downgrade(&owner));
        let consumer: Arc<dyn Consumer> = domain.clone();
        domain.promise.bind(Arc::downgrade(&consumer));
        let mut entities: Vec<Arc<Entity>> = Vec::with_capacity(domain.vcpus.len());
        for (number, vcpu) in domain.vcpus.iter().enumerate() {
            let task = Arc::new(VcpuTask { domain: domain.clone(), number });
            // The weight and the cap are the guest's, not each virtual CPU's.
            let entity = match entities.first() {
                None => engine.inner.scheduler.add_in(self.group.as_ref(), task, self.share),
                Some(first) => engine.inner.scheduler.add_beside(first, task),
            };
            vcpu.set_entity(&entity);
            entities.push(entity);
        }
        let reactor = &engine.inner.reactor;
        let add = |source| reactor.add_for(&domain.source_owner, source);
        let pace = refined_at.map(|due| Box::new(Pace::new(domain.me.clone(), due)) as Box<dyn Source>);
        let sources = sources.into_iter().chain(pace).map(add).collect();
        *domain.sources.lock().expect("nobody else has it yet") = sources;
        domain.life.happen(first);
        if first != Event::Pause {
            domain.wake_all();
        }
        Ok(Guest { domain, _entities: entities, engine: engine.clone() })
    }
}

/// Ends a guest when its console has no reader any more, or the output has no space for more.
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
