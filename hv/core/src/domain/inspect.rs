//! Where a guest is that goes on: registers and backtrace of its virtual CPU, for whoever asks what it does.

use super::Domain;
use super::cpu_copy::CpuCopy;
use super::life::State;
use super::tasks::Tasks;
use super::vcpu::Cpu;
use crate::background::Work;
use crate::crash::{Backtrace, Frame, Registers};
use hv_host::escape::escape;
use serde::Serialize;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Is told where a guest is, once, on a thread that runs no other guest.
pub type Inspector = Box<dyn FnOnce(&GuestState) + Send>;

/// Most who wait for an answer; a guest answers all of them at once.
const MAX_INSPECTORS: usize = 16;

/// Where a guest is. Its text has several lines and ends in a line break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestState {
    /// Name of the guest's image.
    pub guest: String,
    /// One for each virtual CPU.
    pub vcpus: Vec<VcpuState>,
    /// What its executor runs.
    pub tasks: Tasks,
}

/// Where a virtual CPU is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VcpuState {
    /// What it does there.
    pub activity: Activity,
    /// The time until it goes on without an event, in nanoseconds, if it is [blocked](Activity::Blocked) for a time.
    pub deadline_in_ns: Option<u64>,
    /// Its registers.
    pub registers: Registers,
    /// Innermost first, at most [`MAX_FRAMES`](crate::crash::MAX_FRAMES).
    pub backtrace: Vec<Frame>,
    /// Why names are missing from the backtrace that might be there, if so.
    pub missing: Option<&'static str>,
}

/// What a virtual CPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It executes the guest's instructions.
    Running,
    /// It waits for an event or a time, in the block hypercall.
    Blocked,
    /// It does not run until [`Guest::resume`](super::Guest::resume).
    Paused,
    /// The guest has ended. Its console has still to be read by whoever reads it.
    Ended,
}

impl fmt::Display for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.activity, self.deadline_in_ns) {
            (Activity::Running, _) => "running",
            (Activity::Blocked, None) => "waits for an event",
            (Activity::Blocked, Some(_)) => "waits for an event, or a time",
            (Activity::Paused, _) => "paused",
            (Activity::Ended, _) => "has ended; what it printed is not read",
        })?;
        if let Some(nanos) = self.deadline_in_ns {
            write!(f, " {:?} from now", Duration::from_nanos(nanos))?;
        }
        write!(f, "\n{}", self.registers)?;
        for (index, frame) in self.backtrace.iter().enumerate() {
            writeln!(f, "{index:>3}: {frame}")?;
        }
        if let Some(missing) = self.missing {
            writeln!(f, "  names are missing: {missing}")?;
        }
        Ok(())
    }
}

impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, vcpu) in self.vcpus.iter().enumerate() {
            write!(f, "guest {}, virtual CPU {number}: {vcpu}", escape(&self.guest))?;
        }
        write!(f, "{}", self.tasks)
    }
}

/// Who wants to know where a guest is.
#[derive(Default)]
pub(super) struct Inspectors {
    /// Says that `waiting` holds somebody.
    any: AtomicBool,
    waiting: Mutex<Vec<Inspector>>,
}

impl Inspectors {
    fn add(&self, inspector: Inspector) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_INSPECTORS {
            waiting.push(inspector);
            self.any.store(true, Ordering::SeqCst);
        }
    }

    fn take(&self) -> Vec<Inspector> {
        // Mostly nobody is there, and every time slice comes by here.
        if !self.any.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::SeqCst);
        std::mem::take(&mut waiting)
    }
}

/// All that a [`GuestState`] is made of, taken from a guest so that it goes on meanwhile.
struct Inspection {
    guest: String,
    activity: Activity,
    deadline_in_ns: Option<u64>,
    registers: Registers,
    cpu: CpuCopy,
    tasks: Tasks,
    inspectors: Vec<Inspector>,
}

impl Inspection {
    fn answer(self, backtrace: Backtrace) {
        let vcpu = VcpuState {
            activity: self.activity,
            deadline_in_ns: self.deadline_in_ns,
            registers: self.registers,
            backtrace: backtrace.frames,
            missing: backtrace.missing,
        };
        let state = GuestState { guest: self.guest, vcpus: vec![vcpu], tasks: self.tasks };
        self.inspectors.into_iter().for_each(|inspector| inspector(&state));
    }
}

impl Work for Inspection {
    fn run(self: Box<Self>) {
        let backtrace = self.cpu.backtrace();
        self.answer(backtrace);
    }

    fn refused(self: Box<Self>) {
        let backtrace = self.cpu.without_names("many reports are being written at the same time");
        self.answer(backtrace);
    }
}

impl Domain {
    /// Has the thread that runs the guest answer as soon as it is out of the guest.
    pub(super) fn inspect(&self, inspector: Inspector) {
        self.inspectors.add(inspector);
        self.kick_all();
    }

    /// Answers those who want to know where the guest is. By other threads if this one has other guests to run.
    pub(super) fn answer_inspectors(&self, cpu: &mut Cpu, ended: bool) {
        let inspectors = self.inspectors.take();
        if inspectors.is_empty() {
            return;
        }
        let activity = match cpu.blocked {
            _ if ended => Activity::Ended,
            _ if self.life.state() == State::Paused => Activity::Paused,
            Some(_) => Activity::Blocked,
            None => Activity::Running,
        };
        let deadline = cpu.blocked.filter(|&at| activity == Activity::Blocked && at != u64::MAX);
        let registers = cpu.vcpu.registers();
        let inspection = Box::new(Inspection {
            guest: self.name.clone(),
            activity,
            deadline_in_ns: deadline.map(|at| at.saturating_sub(self.now())),
            registers,
            cpu: self.body().copy_cpu(Some(registers)),
            tasks: self.tasks(),
            inspectors,
        });
        let engine = self.engine.upgrade();
        match engine.as_ref().and_then(|engine| engine.reports.as_ref()) {
            Some(reports) => reports.submit(inspection),
            None => inspection.run(),
        }
    }
}
