//! A domain: one guest with its memory, its virtual CPU and its devices.
//!
//! ```text
//!             spawn                 Exit, Panic, fault, stop
//!   Builder ─────────► running ───────────────────────────────► ended (Outcome)
//!                       │   ▲
//!                 Block │   │ event, deadline, stop
//!                       ▼   │
//!                      blocked
//! ```

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
mod guest;

mod hot;
mod identity;
mod inspect;
mod launch;
mod layout;
mod outcome;
mod pause;
mod reset;
mod restore;
mod run;
mod saved;
mod snapshot;
mod tasks;
mod upcall;
mod validate;

pub use builder::{Builder, DEFAULT_MEMORY, MAX_MEMORY, MAX_STRINGS, MIN_STACK, StartError};
pub use bus::{Bus, BusError, Wiring};
pub use devices::ConnectError;
pub use features::Features;
pub use guest::{Controller, Guest};
use identity::Identity;
pub use inspect::{Activity, GuestState, Inspector, VcpuState};
pub use outcome::{BootPhases, Counters, Outcome, Stop};
pub use reset::ResetError;
pub use restore::{Restore, RestoreError};
pub use saved::{CaptureError, Offsets, Saved};
pub use snapshot::Snapshot;
pub use tasks::{Task as GuestTask, TaskState, Tasks};

pub(crate) use assemble::is_base;
use devices::Bell;
use drain::Draining;
use fault_report::FaultRecord;

use crate::device::console::{Console, Output};
use crate::engine::Inner;
use crate::event::{Hub, Owner};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::platform::{Kick, Vcpu};
use crate::reactor::{Payer, SourceId, SourceOwner};
use crate::sched::{Entity, Next};
use hv_abi::EventPort;
use hv_abi::device::DeviceInfo;
use hv_abi::shared_info::Clock;
use hv_host::clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What the host knows of a running guest.
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
    cpu: Mutex<Cpu>,
    kicker: Arc<dyn Kick>,
    /// Whether the guest runs, or is about to without looking at its events again.
    inside: AtomicBool,
    entity: OnceLock<Weak<Entity>>,
    /// Whether other guests wait for a processor, or could any time.
    crowded: Arc<AtomicBool>,
    me: Weak<Domain>,
    console: Arc<Console>,
    console_port: EventPort,
    /// Where its error output goes, if not to the console.
    errors: Option<Mutex<Box<dyn Output>>>,
    engine: Weak<Inner>,
    /// What the I/O thread drives for this guest, and as whose.
    sources: Mutex<Vec<SourceId>>,
    source_owner: SourceOwner,
    /// Looked at after every exit; says that `order` holds something.
    ordered: AtomicBool,
    order: Mutex<Option<Order>>,
    /// Ends even a wait for the reader of the console.
    abandon: AtomicBool,
    /// Whether to be paused at the next [`Ready`](hv_abi::Hypercall::Ready).
    pause_at_ready: AtomicBool,
    /// Another thread has found an answer complete.
    answered: AtomicBool,
    /// Whether to be paused as soon as possible.
    pause_ordered: AtomicBool,
    inspectors: inspect::Inspectors,
    status: Mutex<Status>,
    /// Signalled when `status` changes.
    changed: Condvar,
    observer: Option<Arc<dyn Observer>>,
    counters: Counters,
    phases: Mutex<BootPhases>,
}

/// How a guest stands.
#[derive(Default)]
struct Status {
    /// It does not run until it is resumed.
    paused: bool,
    outcome: Option<Outcome>,
}

/// Whoever has a function's guest: hears of its answers and of its end, on the
/// thread that runs it.
pub trait Observer: Send + Sync {
    /// Whether the guest is to be paused after each answer.
    fn one_answer(&self) -> bool;
    /// The guest has completed an answer, and is paused if it is to be.
    fn answered(&self);
    /// The guest has ended.
    fn ended(&self, outcome: &Outcome);
}

/// What ended a turn.
enum Turn {
    Next(Next),
    /// An answer was completed, and the guest is paused.
    Answered,
}

/// What ended a guest.
enum End {
    Outcome(Outcome),
    /// A crash, whose report is yet to be written.
    Crash(Box<FaultRecord>),
}

/// An order to end.
#[derive(Clone, Debug)]
enum Order {
    Stop(Stop),
    /// A device found the guest breaking its protocol.
    ProtocolViolation(String),
}

struct Cpu {
    vcpu: Box<dyn Vcpu>,
    /// Emulated hardware: only guests of `hv bench` have any.
    bus: Option<Box<dyn Bus>>,
    /// Doorbells that may still come as exits; not the console's at first.
    bells: Vec<Bell>,
    /// Doorbells of the console that came while this thread drove it.
    console_rings: u32,
    /// The deadline of the `Block` that the guest is in.
    blocked: Option<u64>,
    first_entry: Option<Instant>,
    /// Whether it has made a hypercall.
    called: bool,
    /// How it has ended, while what it has printed is still being written.
    draining: Option<Draining>,
}

impl Domain {
    fn cpu(&self) -> MutexGuard<'_, Cpu> {
        self.cpu.lock().expect("no panic while held")
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect("no panic while held")
    }

    fn now(&self) -> u64 {
        self.clock.lock().expect("no panic while held").time_at(clock::tsc())
    }

    fn order(&self, order: Order) {
        self.order.lock().expect("no panic while held").get_or_insert(order);
        self.ordered.store(true, Ordering::SeqCst);
        self.kicker.kick();
        self.wake_up();
    }

    fn wake_up(&self) {
        if let Some(entity) = self.entity.get().and_then(Weak::upgrade) {
            entity.wake();
        }
    }
}

impl Payer for Domain {
    fn charge(&self, time: Duration) {
        if let Some(entity) = self.entity.get().and_then(Weak::upgrade) {
            entity.charge(time);
        }
    }
}

impl Owner for Domain {
    fn wake(&self) {
        self.wake_up();
    }

    fn interrupt(&self) {
        self.interrupt_cpu();
    }

    fn terminate(&self, reason: String) {
        self.order(Order::ProtocolViolation(reason));
    }
}
