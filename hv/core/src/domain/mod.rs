//! A domain: one guest with its memory, its virtual CPUs and its devices.
//!
//! `Life` has the states that it goes through, a `RunLoop` what a virtual CPU does in a time slice, `Drain` what is left to write at the end;
//! `launch` puts all of it together in a `Domain`.

mod assemble;
mod builder;
mod bus;
mod cpu_copy;
mod devices;
mod doorbell;
mod drain;
mod end;
mod fault_report;
mod features;
mod fresh;
mod guest;
mod hook;
mod hot;
mod identity;
mod inspect;
mod launch;
mod layout;
mod life;
mod outcome;
mod pause;
mod power;
mod reset;
mod resources;
mod restore;
mod run;
mod saved;
mod snapshot;
mod tasks;
mod upcall;
mod validate;
mod vcpu;

pub use builder::{GuestBuilder, StartError};
pub use bus::{Bus, BusError, Wiring};
pub use features::Features;
pub use fresh::{Builder, DEFAULT_MEMORY, Fresh, MAX_MEMORY, MAX_STRINGS, MAX_VCPUS, MIN_STACK};
pub use guest::{Controller, Guest};
pub use hook::Hook;
use identity::Identity;
pub use inspect::{Activity, GuestState, Inspector, VcpuState};
pub use outcome::{BootPhases, Counters, Outcome, Stop};
pub use reset::ResetError;
pub use restore::{Restore, RestoreError, Restored};
pub use saved::{CaptureError, Offsets, Saved};
pub use snapshot::Snapshot;
pub use tasks::{GuestTask, TaskState, Tasks};

pub(crate) use assemble::is_base;
use doorbell::Doorbells;
use drain::Drain;
use end::Order;
use life::Life;
use vcpu::VcpuHandle;

use crate::device::console::Output;
use crate::engine::Inner;
use crate::event::{Hub, Owner};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::reactor::{Payer, SourceId, SourceOwner};
use hv_abi::device::DeviceInfo;
use hv_abi::shared_info::Clock;
use hv_host::clock;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What the host knows of a guest that was started.
pub(crate) struct Domain {
    name: String,
    image: Arc<Image>,
    places: Offsets,
    /// The device table, as the guest was told it: what is in its memory may be something else by now.
    table: Vec<DeviceInfo>,
    memory: Arc<GuestMemory>,
    hub: Arc<Hub>,
    /// What it was restored from.
    origin: Option<Arc<Saved>>,
    /// Frequency of its TSC.
    khz: u32,
    clock: Mutex<Clock>,
    life: Life,
    /// At least one.
    vcpus: Box<[VcpuHandle]>,
    doorbells: Mutex<Doorbells>,
    /// Emulated hardware: only guests of `hv bench` have any.
    bus: Option<Mutex<Box<dyn Bus>>>,
    /// Whether other guests wait for a processor, or could any time.
    crowded: Arc<AtomicBool>,
    me: Weak<Domain>,
    drain: Drain,
    /// Where its error output goes, if not to the console.
    errors: Option<Mutex<Box<dyn Output>>>,
    engine: Weak<Inner>,
    /// What the I/O thread drives for this guest, and as whose.
    sources: Mutex<Vec<SourceId>>,
    source_owner: SourceOwner,
    inspectors: inspect::Inspectors,
    hook: Option<Arc<dyn Hook>>,
    /// Another thread has found that work is done of which the hook is to be told.
    done: AtomicBool,
    counters: Counters,
    phases: Mutex<BootPhases>,
}

impl Domain {
    fn now(&self) -> u64 {
        self.clock.lock().expect("no panic while held").time_at(clock::tsc())
    }
}

impl Payer for Domain {
    fn charge(&self, time: Duration) {
        // It does not matter which of them pays: they have the same share.
        if let Some(entity) = self.vcpus[0].entity() {
            entity.charge(time);
        }
    }
}

impl Owner for Domain {
    fn wake(&self) {
        self.wake_all();
    }

    fn wake_vcpu(&self, vcpu: usize) {
        self.vcpus[vcpu].wake();
    }

    fn interrupt(&self, vcpu: usize) {
        self.interrupt_vcpu(vcpu);
    }

    fn terminate(&self, reason: String) {
        self.order(Order::ProtocolViolation(reason));
    }
}
