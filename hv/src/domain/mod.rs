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
mod devices;
mod layout;
mod outcome;

pub use builder::{Builder, DEFAULT_MEMORY, MAX_MEMORY, MAX_STRINGS, StartError};
pub use devices::ConnectError;
pub use outcome::{BootPhases, Counters, Outcome, Stop};

use autopsy::Body;
use devices::Bell;

use crate::clock;
use crate::device::console::{Console, ConsoleSource};
use crate::engine::{Engine, Inner};
use crate::event::{Hub, Owner};
use crate::hypercall::{self, Action};
use crate::loader::Image;
use crate::memory::GuestMemory;
use crate::platform::{Exit, Fault, Kick, Vcpu};
use crate::reactor::SourceId;
use crate::sched::{Entity, Next, Share, Task};
use hv_abi::EventPort;
use hv_abi::event::POWER;
use hv_abi::shared_info::Clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// What the host knows of a running guest.
pub(crate) struct Domain {
    name: String,
    image: Arc<Image>,
    image_base: u64,
    /// Lowest address of its stack.
    stack: u64,
    memory: Arc<GuestMemory>,
    hub: Arc<Hub>,
    clock: Clock,
    cpu: Mutex<Cpu>,
    kicker: Arc<dyn Kick>,
    entity: OnceLock<Weak<Entity>>,
    console: Arc<Console>,
    console_port: EventPort,
    engine: Weak<Inner>,
    /// What the I/O thread drives for this guest.
    sources: Mutex<Vec<SourceId>>,
    /// Looked at after every exit; says that `order` holds something.
    ordered: AtomicBool,
    order: Mutex<Option<Order>>,
    /// Ends even a wait for the reader of the console.
    abandon: AtomicBool,
    outcome: Mutex<Option<Outcome>>,
    ended: Condvar,
    counters: Counters,
    phases: Mutex<BootPhases>,
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
    /// Doorbells that may still come as exits; not the console's at first.
    bells: Vec<Bell>,
    /// Doorbells of the console that came while this thread drove it.
    console_rings: u32,
    /// The deadline of the `Block` that the guest is in.
    blocked: Option<u64>,
    first_entry: Option<Instant>,
    /// Whether it has made a hypercall.
    called: bool,
}

impl Domain {
    fn cpu(&self) -> MutexGuard<'_, Cpu> {
        self.cpu.lock().expect("no panic while held")
    }

    fn now(&self) -> u64 {
        self.clock.time_at(clock::tsc())
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
    fn run_cpu(&self, cpu: &mut Cpu) -> Result<Next, Outcome> {
        if let Some(deadline) = cpu.blocked {
            if self.ordered.load(Ordering::SeqCst) {
                return Err(self.obey(cpu));
            }
            match self.block(deadline) {
                Ok(result) => cpu.vcpu.set_result(result),
                Err(until) => return Ok(Next::Blocked(until)),
            }
            cpu.blocked = None;
        }
        cpu.first_entry.get_or_insert_with(Instant::now);
        loop {
            let exit = cpu.vcpu.run();
            if self.ordered.load(Ordering::SeqCst) {
                return Err(self.obey(cpu));
            }
            let (number, arguments) = match exit {
                Exit::Hypercall { number, arguments } => (number, arguments),
                Exit::Doorbell(port) => {
                    if !std::mem::replace(&mut cpu.called, true) {
                        self.note_phase(cpu, |phases| &mut phases.first_hypercall);
                    }
                    self.ring(cpu, EventPort(port));
                    continue;
                }
                Exit::Interrupted => {
                    self.counters.interruption();
                    return Ok(Next::Ready);
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
                }
                Action::Yield => {
                    cpu.vcpu.set_result(0);
                    return Ok(Next::Ready);
                }
                Action::Block(deadline) => match self.block(deadline) {
                    Ok(result) => cpu.vcpu.set_result(result),
                    Err(until) => {
                        cpu.blocked = Some(deadline);
                        return Ok(Next::Blocked(until));
                    }
                },
                Action::Exit(code) => return Err(Outcome::Exited(code)),
                Action::Panic(message) => return Err(self.crash(cpu, format!("panic: {message}"))),
            }
        }
    }

    /// The guest rang a doorbell that the platform has not bound.
    fn ring(&self, cpu: &mut Cpu, port: EventPort) {
        self.counters.doorbell();
        if let Some(bell) = cpu.bells.iter_mut().find(|bell| bell.port == port) {
            if bell.ring()
                && let Err(error) = cpu.vcpu.bind_doorbell(port, &bell.descriptor)
            {
                // Rings go on to come as exits: slower, nothing worse.
                tracing::debug!("binding a doorbell: {error}");
            }
        } else if port == self.console_port {
            cpu.console_rings += 1;
            if self.console.ring() || cpu.console_rings == devices::RINGS_BEFORE_BINDING {
                cpu.bells.extend(self.hand_console_over());
            }
        } else {
            self.counters.unbound_doorbell();
        }
    }

    /// From now on the I/O thread drives the console. Until then the guest's
    /// own thread did: a guest that prints a line and ends needs no other.
    fn hand_console_over(&self) -> Option<Bell> {
        let engine = self.engine.upgrade()?;
        let bell = devices::doorbell().and_then(|bell| Ok((bell.try_clone()?, bell)));
        let (bell, descriptor) =
            bell.inspect_err(|error| tracing::warn!("no doorbell for the console: {error}")).ok()?;
        let source = engine.reactor.add(Box::new(ConsoleSource::new(self.console.clone(), bell)));
        self.sources.lock().expect("no panic while held").push(source);
        Some(Bell::new(self.console_port, descriptor))
    }

    fn note_phase(&self, cpu: &Cpu, phase: impl Fn(&mut BootPhases) -> &mut Option<Duration>) {
        let phases = &mut *self.phases.lock().expect("no panic while held");
        phase(phases).get_or_insert_with(|| cpu.first_entry.map_or(Duration::ZERO, |first| first.elapsed()));
    }

    fn obey(&self, cpu: &mut Cpu) -> Outcome {
        let order = self.order.lock().expect("no panic while held").clone();
        match order {
            Some(Order::Condemned(reason)) => self.crash(cpu, reason),
            Some(Order::Stop(stop)) => Outcome::Stopped(stop),
            None => Outcome::Stopped(Stop::Dropped),
        }
    }

    fn body(&self) -> Body<'_> {
        Body {
            name: &self.name,
            image: &self.image,
            image_base: self.image_base,
            memory: &self.memory,
            stack: self.stack,
        }
    }

    fn crash(&self, cpu: &mut Cpu, reason: String) -> Outcome {
        Outcome::Crashed(Box::new(self.body().report(reason, Some(cpu.vcpu.registers()))))
    }

    fn fault(&self, cpu: &mut Cpu, fault: &Fault) -> Outcome {
        Outcome::Crashed(Box::new(self.body().of_fault(fault, cpu.vcpu.registers())))
    }
}

impl Task for Domain {
    fn run(&self) -> Next {
        let cpu = &mut *self.cpu();
        let outcome = match self.run_cpu(cpu) {
            Ok(next) => return next,
            Err(outcome) => outcome,
        };
        self.console.finish(&|| !self.abandon.load(Ordering::SeqCst));
        self.phases.lock().expect("no panic while held").run = cpu.first_entry.map(|first| first.elapsed());
        *self.outcome.lock().expect("no panic while held") = Some(outcome);
        self.ended.notify_all();
        Next::Ended
    }

    fn preempt(&self) {
        self.kicker.kick();
    }
}

impl Owner for Domain {
    fn wake(&self) {
        self.wake_up();
    }

    fn condemn(&self, reason: String) {
        self.order(Order::Condemned(reason));
    }
}

/// A guest that was started. Dropping it ends the guest.
pub struct Guest {
    domain: Arc<Domain>,
    entity: Arc<Entity>,
    engine: Engine,
}

impl Guest {
    /// Waits for the guest's end. On an engine without threads of its own, the
    /// engine's guests run on the calling thread meanwhile; of several threads
    /// that wait, on one of them.
    pub fn wait(&self) -> Outcome {
        /// When to see whether the thread that ran the guests has left.
        const AGAIN: Duration = Duration::from_millis(10);
        loop {
            if !self.engine.has_workers()
                && let Ok(_driver) = self.engine.inner.driver.try_lock()
            {
                let ended = || self.domain.outcome.lock().expect("no panic while held").is_some();
                self.engine.inner.scheduler.work(&ended);
            }
            let outcome = self.domain.outcome.lock().expect("no panic while held");
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            let (outcome, _) = self.domain.ended.wait_timeout(outcome, AGAIN).expect("no panic while held");
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
        }
    }

    /// Ends the guest. What it has printed is still written.
    pub fn stop(&self, reason: Stop) {
        self.controller().stop(reason);
    }

    /// A handle that can end the guest from another thread.
    pub fn controller(&self) -> Controller {
        Controller { domain: Arc::downgrade(&self.domain) }
    }

    /// How often the guest left to hv, by reason.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.domain.counters.list()
    }

    /// Bytes of guest memory that are backed by host memory: what the guest
    /// has touched, and what was loaded for it.
    pub fn resident_memory(&self) -> u64 {
        self.domain.memory.resident()
    }

    /// CPU time that its virtual CPU has used, with what hv did for it on the
    /// same thread.
    pub fn cpu_time(&self) -> Duration {
        self.entity.cpu_time()
    }

    /// How long its start took.
    pub fn phases(&self) -> BootPhases {
        *self.domain.phases.lock().expect("no panic while held")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop(Stop::Dropped);
        self.controller().abandon();
        let sources = std::mem::take(&mut *self.domain.sources.lock().expect("no panic while held"));
        for source in sources {
            self.engine.inner.reactor.remove(source);
        }
    }
}

/// Ends a guest from elsewhere; does not keep it alive.
#[derive(Clone)]
pub struct Controller {
    domain: Weak<Domain>,
}

impl Controller {
    /// Ends the guest. What it has printed is still written.
    pub fn stop(&self, reason: Stop) {
        if let Some(domain) = self.domain.upgrade() {
            domain.order(Order::Stop(reason));
        }
    }

    /// Gives the guest another weight and cap, from now on.
    pub fn set_share(&self, share: Share) {
        let entity = self.domain.upgrade().and_then(|domain| domain.entity.get().and_then(Weak::upgrade));
        if let Some(entity) = entity {
            entity.set_share(share);
        }
    }

    /// Asks the guest to end by itself. Returns false if it does not listen to
    /// such requests: then it has to be [stopped](Self::stop).
    pub fn request_shutdown(&self) -> bool {
        self.domain.upgrade().is_some_and(|domain| {
            domain.hub.raise(POWER);
            domain.hub.is_unmasked(POWER)
        })
    }

    /// Does not wait for the reader of the guest's console any longer.
    pub fn abandon(&self) {
        if let Some(domain) = self.domain.upgrade() {
            domain.abandon.store(true, Ordering::SeqCst);
        }
    }
}
