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
mod autopsy;
mod builder;
mod cpu_copy;
mod devices;
mod doorbell;
mod drain;
mod guest;
mod hold;
mod identity;
mod inspect;
mod judge;
mod launch;
mod layout;
mod outcome;
mod recycle;
mod restore;
mod saved;
mod tasks;
mod upcall;

pub use builder::{Builder, DEFAULT_MEMORY, MAX_MEMORY, MAX_STRINGS, MIN_STACK, StartError};
pub use devices::ConnectError;
pub use guest::{Controller, Guest};
use identity::Identity;
pub use inspect::{Activity, GuestState, Inspector, VcpuState};
pub use outcome::{BootPhases, Counters, Outcome, Stop};
pub use restore::{Restore, RestoreError};
pub use saved::{CaptureError, Places, Saved};
pub use tasks::{Task as GuestTask, TaskState, Tasks};

pub(crate) use assemble::is_base;
use autopsy::{Body, Remains};
use devices::Bell;
use drain::Draining;

use crate::background::Work;
use crate::clock;
use crate::cpu_clock::CpuClock;
use crate::device::console::{Console, Output};
use crate::device::function::Served;
use crate::emulated::Hardware;
use crate::engine::Inner;
use crate::event::{Hub, Owner};
use crate::hypercall::{self, Action};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::platform::{Access, Exit, Fault, Kick, Vcpu};
use crate::reactor::{Payer, SourceId, SourceOwner};
use crate::sched::{Entity, Next, Task};
use hv_abi::device::DeviceInfo;
use hv_abi::shared_info::Clock;
use hv_abi::{Errno, EventPort};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What the host knows of a running guest.
pub(crate) struct Domain {
    name: String,
    image: Arc<Image>,
    places: Places,
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
    /// Whether to be held at the next [`Ready`](hv_abi::Hypercall::Ready).
    hold_at_ready: AtomicBool,
    /// Another thread has found an answer complete.
    answered: AtomicBool,
    /// Whether to be held as soon as possible.
    hold: AtomicBool,
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
    /// It does not run until it is released.
    held: bool,
    outcome: Option<Outcome>,
}

/// Whoever has a function's guest: hears of its answers and of its end, on the
/// thread that runs it.
pub(crate) trait Observer: Send + Sync {
    /// Whether the guest is to be held after each answer.
    fn one_answer(&self) -> bool;
    /// The guest has completed an answer, and is held if it is to be.
    fn answered(&self);
    /// The guest has ended.
    fn ended(&self, outcome: &Outcome);
}

/// What ended a turn.
enum Turn {
    Next(Next),
    /// An answer was completed, and the guest is held.
    Answered,
}

/// What ended a guest.
enum End {
    Outcome(Outcome),
    /// A crash, whose report is yet to be written.
    Crash(Box<Remains>),
}

/// An order to end.
#[derive(Clone, Debug)]
enum Order {
    Stop(Stop),
    /// A device found the guest breaking its protocol.
    Condemned(String),
}

struct Cpu {
    vcpu: Box<dyn Vcpu>,
    /// Emulated devices: only guests of `hv bench` have any.
    hardware: Option<Hardware>,
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

    /// How a `Block` until `deadline` stands: over, with its result, or not until.
    fn block(&self, deadline: u64) -> Result<i64, Option<Instant>> {
        if self.hub.any_pending() {
            return Ok(1);
        }
        if deadline == u64::MAX {
            return Err(None);
        }
        let now = self.now();
        if deadline <= now {
            return Ok(0);
        }
        // A deadline too far for the host's clock is as good as none.
        Err(Instant::now().checked_add(Duration::from_nanos(deadline - now)))
    }

    /// Runs the guest until it has to wait, gives way, or ends.
    fn run_cpu(&self, cpu: &mut Cpu) -> Result<Turn, End> {
        self.answer_inspectors(cpu, false);
        if self.answered.swap(false, Ordering::SeqCst)
            && let Some(turn) = self.after_answer()
        {
            return Ok(turn);
        }
        if self.hold.load(Ordering::SeqCst)
            && !self.ordered.load(Ordering::SeqCst)
            && let Some(next) = self.stay_held()
        {
            return Ok(Turn::Next(next));
        }
        if let Some(deadline) = cpu.blocked {
            if self.ordered.load(Ordering::SeqCst) {
                return Err(self.obey(cpu));
            }
            match self.block(deadline) {
                Ok(result) => cpu.vcpu.set_result(result),
                Err(until) => return Ok(Turn::Next(Next::Blocked(until))),
            }
            cpu.blocked = None;
        }
        cpu.first_entry.get_or_insert_with(Instant::now);
        loop {
            let exit = self.enter(cpu)?;
            if self.ordered.load(Ordering::SeqCst) {
                return Err(self.obey(cpu));
            }
            let (number, arguments) = match exit {
                Exit::Hypercall { number, arguments } => (number, arguments),
                Exit::Doorbell(port) => {
                    if !std::mem::replace(&mut cpu.called, true) {
                        self.note_phase(cpu, |phases| &mut phases.first_hypercall);
                    }
                    if self.ring(cpu, EventPort(port)) == Served::Answered
                        && let Some(turn) = self.after_answer()
                    {
                        return Ok(turn);
                    }
                    continue;
                }
                Exit::Access(access) => {
                    self.access(cpu, &access)?;
                    continue;
                }
                Exit::Interrupted => {
                    self.counters.interruption();
                    return Ok(Turn::Next(Next::Ready));
                }
                Exit::Fault(fault) => return Err(self.fault(cpu, &fault)),
                Exit::Failed(reason) => return Err(self.crash(cpu, format!("the host failed: {reason}"))),
            };
            self.counters.hypercall(number);
            if !std::mem::replace(&mut cpu.called, true) {
                self.note_phase(cpu, |phases| &mut phases.first_hypercall);
            }
            match hypercall::dispatch(&self.memory, number, arguments) {
                Action::Return(value) => cpu.vcpu.set_result(value),
                Action::Ready => {
                    self.note_phase(cpu, |phases| &mut phases.ready);
                    cpu.vcpu.set_result(0);
                    if self.hold_at_ready.swap(false, Ordering::SeqCst) {
                        return Ok(Turn::Next(self.held()));
                    }
                }
                Action::SetUpcall(handler) => {
                    self.hub.set_handler(handler);
                    cpu.vcpu.set_result(0);
                }
                Action::ErrorOutput(bytes) => cpu.vcpu.set_result(self.write_errors(&bytes)),
                Action::Yield => {
                    cpu.vcpu.set_result(0);
                    return Ok(Turn::Next(Next::Ready));
                }
                Action::Block(deadline) => match self.block(deadline) {
                    Ok(result) => cpu.vcpu.set_result(result),
                    Err(until) => {
                        cpu.blocked = Some(deadline);
                        return Ok(Turn::Next(Next::Blocked(until)));
                    }
                },
                Action::Exit(code) => return Err(End::Outcome(Outcome::Exited(code))),
                Action::Panic(message) => return Err(self.crash(cpu, format!("panic: {message}"))),
            }
        }
    }

    /// Writes what fits of a text to the error output, without waiting: what the hypercall returns.
    fn write_errors(&self, text: &[u8]) -> i64 {
        let Some(output) = &self.errors else { return Errno::NoSys.to_status().into() };
        match output.lock().expect("no panic while held").write(text) {
            Ok(count) => count as i64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => {
                // Nobody reads it any more, which is no reason to end the guest.
                tracing::debug!("error output: {error}");
                text.len() as i64
            }
        }
    }

    /// What follows when the guest has completed an answer, if that ends its turn.
    fn after_answer(&self) -> Option<Turn> {
        let observer = self.observer.as_ref()?;
        if observer.one_answer() {
            self.held();
            return Some(Turn::Answered);
        }
        observer.answered();
        None
    }

    /// The guest touched emulated hardware: nothing that guests without it can do.
    fn access(&self, cpu: &mut Cpu, access: &Access) -> Result<(), End> {
        self.counters.access(access.space);
        let Some(hardware) = &mut cpu.hardware else {
            return Err(self.crash(cpu, format!("the host failed: an access without a device: {access:x?}")));
        };
        if let Some(value) = hardware.access(access) {
            cpu.vcpu.answer(value);
        }
        Ok(())
    }

    fn note_phase(&self, cpu: &Cpu, phase: impl Fn(&mut BootPhases) -> &mut Option<Duration>) {
        let phases = &mut *self.phases.lock().expect("no panic while held");
        phase(phases).get_or_insert_with(|| cpu.first_entry.map_or(Duration::ZERO, |first| first.elapsed()));
    }

    fn obey(&self, cpu: &mut Cpu) -> End {
        // Whoever asked before it was ordered to end wants to know where it was.
        self.answer_inspectors(cpu, false);
        let order = self.order.lock().expect("no panic while held").clone();
        match order {
            Some(Order::Condemned(reason)) => self.crash(cpu, reason),
            Some(Order::Stop(stop)) => End::Outcome(Outcome::Stopped(stop)),
            None => End::Outcome(Outcome::Stopped(Stop::Dropped)),
        }
    }

    fn body(&self) -> Body<'_> {
        Body {
            name: &self.name,
            image: &self.image,
            image_base: self.memory.base().0 + self.places.image,
            memory: &self.memory,
            stack: self.memory.base().0 + self.places.stack,
            stack_size: self.places.stack_size(),
        }
    }

    fn crash(&self, cpu: &mut Cpu, reason: String) -> End {
        End::Crash(Box::new(self.body().remains(reason, Some(cpu.vcpu.registers()))))
    }

    fn fault(&self, cpu: &mut Cpu, fault: &Fault) -> End {
        End::Crash(Box::new(self.body().of_fault(fault, cpu.vcpu.registers())))
    }

    /// The guest has crashed: has the report written, by others if this thread has other guests to run.
    fn crashed(&self, remains: Box<Remains>) {
        let engine = self.engine.upgrade();
        let reports = engine.as_ref().and_then(|engine| engine.reports.as_ref());
        match (reports, self.me.upgrade()) {
            (Some(reports), Some(domain)) => reports.submit(Box::new(Crash { domain, remains })),
            _ => self.ended(Outcome::Crashed(Box::new(remains.report()))),
        }
    }

    /// The guest has ended: tells all who wait for that.
    fn ended(&self, outcome: Outcome) {
        if let Some(observer) = &self.observer {
            observer.ended(&outcome);
        }
        self.status().outcome = Some(outcome);
        self.changed.notify_all();
    }
}

/// A guest that has crashed, and waits for its report.
struct Crash {
    domain: Arc<Domain>,
    remains: Box<Remains>,
}

impl Work for Crash {
    fn run(self: Box<Self>) {
        self.domain.ended(Outcome::Crashed(Box::new(self.remains.report())));
    }

    fn refused(self: Box<Self>) {
        let missing = "many guests crash at the same time";
        self.domain.ended(Outcome::Crashed(Box::new(self.remains.without_names(missing))));
    }
}

impl Task for Domain {
    fn run(&self) -> Next {
        let mut cpu = self.cpu();
        let draining = match cpu.draining.take() {
            Some(draining) => draining,
            None => match self.run_cpu(&mut cpu) {
                Ok(Turn::Next(next)) => return next,
                Ok(Turn::Answered) => {
                    drop(cpu);
                    if let Some(observer) = &self.observer {
                        observer.answered();
                    }
                    return Next::Blocked(None);
                }
                Err(end) => Draining::new(end),
            },
        };
        self.answer_inspectors(&mut cpu, true);
        let end = match self.drain(&mut cpu, draining) {
            Ok(end) => end,
            Err(until) => return Next::Blocked(Some(until)),
        };
        self.phases.lock().expect("no panic while held").run = cpu.first_entry.map(|first| first.elapsed());
        drop(cpu);
        match end {
            End::Outcome(outcome) => self.ended(outcome),
            End::Crash(remains) => self.crashed(remains),
        }
        Next::Ended
    }

    fn preempt(&self) {
        self.kicker.kick();
    }

    fn clock(&self) -> Option<CpuClock> {
        self.kicker.clock()
    }

    fn slept(&self) -> Duration {
        self.kicker.slept()
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

    fn condemn(&self, reason: String) {
        self.order(Order::Condemned(reason));
    }
}
