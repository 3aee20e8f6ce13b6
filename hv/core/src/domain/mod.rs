//! A domain: one guest with its memory, its virtual CPUs and its devices.
//!
//! `Life` has its states, `RunLoop` has what a virtual CPU does in a time slice, and `Drain` writes the remaining output
//! at the end. `launch` combines them in a `Domain`.

mod assemble;
mod builder;
mod bus;
mod cpu_copy;
mod devices;
mod doorbell;
mod drain;
mod end;
mod facts;
mod fault_report;
mod features;
mod free_memory;
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
mod pace;
mod pause;
mod power;
mod reset;
mod resources;
mod restore;
mod run;
mod saved;
mod snapshot;
mod targets;
mod tasks;
mod upcall;
mod usage;
mod validate;
mod vcpu;

pub use builder::{GuestBuilder, StartError};
pub use bus::{Bus, BusError, Wiring};
pub use facts::{Facts, ResidentCount};
pub use features::Features;
pub use fresh::{Builder, DEFAULT_MEMORY, Fresh, MAX_MEMORY, MAX_STRINGS, MAX_VCPUS, MIN_STACK};
pub use guest::{Controller, Guest};
pub use hook::Hook;
use identity::Identity;
pub use inspect::{Activity, GuestState, Inspector, VcpuState};
pub use life::State;
pub use outcome::{BootPhases, Counters, Outcome, Stop};
pub use reset::ResetError;
pub use restore::{Restore, RestoreError, Restored};
pub use saved::{CaptureError, Offsets, Saved};
pub use snapshot::Snapshot;
pub use targets::{TargetError, Targets};
pub use tasks::{GuestTask, TaskState, Tasks};
pub use usage::Usage;

pub(crate) use assemble::is_base;
use doorbell::Doorbells;
use drain::Drain;
use end::Order;
use free_memory::FreeMemory;
use life::Life;
use usage::MemoryMeter;
use vcpu::VcpuHandle;

use crate::budget::Promise;
use crate::device::DeviceCounters;
use crate::device::console::Output;
use crate::engine::Inner;
use crate::event::{Hub, Owner};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::reactor::{Payer, SourceId, SourceOwner};
use hv_abi::device::DeviceInfo;
use hv_abi::shared_info::Clock;
use hv_host::clock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// The host's state of a guest that was started.
pub(crate) struct Domain {
    name: String,
    image: Arc<Image>,
    places: Offsets,
    /// The device table as it was given to the guest. The copy in the guest's memory may have been changed since.
    table: Vec<DeviceInfo>,
    memory: Arc<GuestMemory>,
    hub: Arc<Hub>,
    /// The snapshot that it was restored from.
    origin: Option<Arc<Saved>>,
    /// Frequency of its TSC, in kHz, as well as it is known.
    khz: AtomicU32,
    clock: Mutex<Clock>,
    targets: Mutex<Targets>,
    life: Life,
    /// At least one.
    vcpus: Box<[VcpuHandle]>,
    doorbells: Mutex<Doorbells>,
    /// Emulated hardware. Only guests of `hv bench` have any.
    bus: Option<Mutex<Box<dyn Bus>>>,
    /// Whether other guests wait for a processor, or could at any time.
    crowded: Arc<AtomicBool>,
    me: Weak<Domain>,
    drain: Drain,
    /// Where its error output goes, if not to the console.
    errors: Option<Mutex<Box<dyn Output>>>,
    engine: Weak<Inner>,
    /// What the I/O thread drives for this guest, and the owner that is charged for it.
    sources: Mutex<Vec<SourceId>>,
    source_owner: SourceOwner,
    free_memory: FreeMemory,
    /// Bytes of memory that the budget wants the guest to use at most; 0 if it does not care. Changed with the lock of the targets held.
    squeeze: AtomicU64,
    /// What the guest is promised of the engine's memory budget.
    promise: Promise,
    inspectors: inspect::Inspectors,
    hook: Option<Arc<dyn Hook>>,
    /// Another thread has found that work is done. The guest's own thread still has to tell the hook.
    done: AtomicBool,
    counters: Counters,
    /// For each device, in the order of the table.
    device_counters: Vec<Arc<DeviceCounters>>,
    memory_meter: MemoryMeter,
    phases: Mutex<BootPhases>,
}

impl Domain {
    fn now(&self) -> u64 {
        self.clock.lock().expect("no panic while held").time_at(clock::tsc())
    }
}

impl Payer for Domain {
    fn charge(&self, time: Duration) {
        // Any of the virtual CPUs can be charged: they have one share.
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
