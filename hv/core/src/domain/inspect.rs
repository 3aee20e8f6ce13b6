//! Where a running guest is: registers and backtraces of its virtual CPUs.

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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Is told where a guest is. Called once, on a thread that runs no other guest.
pub type Inspector = Box<dyn FnOnce(&GuestState) + Send>;

/// Most inspectors that wait for an answer. A guest answers all of them at once.
const MAX_INSPECTORS: usize = 16;

/// Where a guest is. Its text has several lines and ends in a line break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestState {
    /// Name of the guest's image.
    pub guest: String,
    /// One for each virtual CPU.
    pub vcpus: Vec<VcpuState>,
    /// The tasks of its executor.
    pub tasks: Tasks,
}

/// Where a virtual CPU is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VcpuState {
    /// What it does there.
    pub activity: Activity,
    /// The time until its deadline, in nanoseconds, if it is [blocked](Activity::Blocked) with a deadline.
    pub deadline_in_ns: Option<u64>,
    /// Its registers.
    pub registers: Registers,
    /// Innermost first, at most [`MAX_FRAMES`](crate::crash::MAX_FRAMES).
    pub backtrace: Vec<Frame>,
    /// Why names may be missing from the backtrace, if so.
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
    /// It does not run until the guest starts it: it was stopped, or has not been started.
    Stopped,
    /// The guest has ended. Its console output is still being written.
    Ended,
}

impl fmt::Display for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.activity, self.deadline_in_ns) {
            (Activity::Running, _) => "running",
            (Activity::Blocked, None) => "waits for an event",
            (Activity::Blocked, Some(_)) => "waits for an event, or a time",
            (Activity::Paused, _) => "paused",
            (Activity::Stopped, _) => "stopped",
            (Activity::Ended, _) => "has ended; what it printed is not read",
        })?;
        if let Some(nanos) = self.deadline_in_ns {
            write!(f, " {:?} from now", Duration::from_nanos(nanos))?;
        }
        writeln!(f)?;
        if self.activity != Activity::Stopped {
            write!(f, "{}", self.registers)?;
        }
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

/// The inspectors of a guest, and what its virtual CPUs have reported so far.
#[derive(Default)]
pub(super) struct Inspectors {
    /// Whether there is a round.
    any: AtomicBool,
    rounds: Mutex<Vec<Round>>,
}

/// An answer to which every virtual CPU contributes a part.
#[derive(Default)]
struct Round {
    inspectors: Vec<Inspector>,
    parts: Vec<Part>,
}

impl Inspectors {
    fn add(&self, inspector: Inspector) {
        let rounds = &mut *self.rounds();
        if rounds.iter().map(|round| round.inspectors.len()).sum::<usize>() >= MAX_INSPECTORS {
            return;
        }
        // An inspector that is added after the first part needs a new round: that part is older than its request.
        match rounds.last_mut().filter(|round| round.parts.is_empty()) {
            Some(round) => round.inspectors.push(inspector),
            None => rounds.push(Round { inspectors: vec![inspector], parts: Vec::new() }),
        }
        self.any.store(true, Ordering::SeqCst);
    }

    fn rounds(&self) -> MutexGuard<'_, Vec<Round>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a virtual CPU has to report a part. Called in every time slice; usually there is no round.
    fn want(&self, vcpu: usize) -> bool {
        self.any.load(Ordering::SeqCst) && self.rounds().iter().any(|round| round.wants(vcpu))
    }

    /// Adds a virtual CPU's part to a round that lacks it. Returns the round if that was the last part of `count`.
    fn tell(&self, part: Part, count: usize) -> Option<Round> {
        let rounds = &mut *self.rounds();
        let at = rounds.iter().position(|round| round.wants(part.number))?;
        rounds[at].parts.push(part);
        (rounds[at].parts.len() >= count).then(|| self.take(rounds, at))
    }

    fn take(&self, rounds: &mut Vec<Round>, at: usize) -> Round {
        let mut round = rounds.remove(at);
        self.any.store(!rounds.is_empty(), Ordering::SeqCst);
        round.parts.sort_by_key(|part| part.number);
        round
    }
}

impl Round {
    fn wants(&self, vcpu: usize) -> bool {
        self.parts.iter().all(|part| part.number != vcpu)
    }
}

/// What a virtual CPU reports: a copy, so that the virtual CPU can continue meanwhile.
struct Part {
    number: usize,
    activity: Activity,
    deadline_in_ns: Option<u64>,
    registers: Registers,
    cpu: CpuCopy,
}

impl Part {
    fn state(self, backtrace: Backtrace) -> VcpuState {
        VcpuState {
            activity: self.activity,
            deadline_in_ns: self.deadline_in_ns,
            registers: self.registers,
            backtrace: backtrace.frames,
            missing: backtrace.missing,
        }
    }
}

/// Everything that a [`GuestState`] is made of.
struct Inspection {
    guest: String,
    tasks: Tasks,
    round: Round,
}

impl Inspection {
    fn answer(self, backtrace: impl Fn(&CpuCopy) -> Backtrace) {
        let vcpus = self.round.parts.into_iter().map(|part| {
            let backtrace = backtrace(&part.cpu);
            part.state(backtrace)
        });
        let state = GuestState { guest: self.guest, vcpus: vcpus.collect(), tasks: self.tasks };
        self.round.inspectors.into_iter().for_each(|inspector| inspector(&state));
    }
}

impl Work for Inspection {
    fn run(self: Box<Self>) {
        self.answer(CpuCopy::backtrace);
    }

    fn refused(self: Box<Self>) {
        self.answer(|cpu| cpu.without_names("many reports are being written at the same time"));
    }
}

impl Domain {
    /// Makes the threads that run the guest answer at their next exit.
    pub(super) fn inspect(&self, inspector: Inspector) {
        self.inspectors.add(inspector);
        self.kick_all();
    }

    /// Reports the state of this virtual CPU to the inspectors. The last virtual CPU has them answered, on the background
    /// thread if this one has other guests to run. If the guest has `ended`, its other virtual CPUs report nothing any more.
    pub(super) fn answer_inspectors(&self, cpu: &mut Cpu, ended: bool) {
        while self.inspectors.want(cpu.number) {
            let count = if ended { 1 } else { self.vcpus.len() };
            if let Some(round) = self.inspectors.tell(self.part(cpu, ended), count) {
                let inspection = Inspection { guest: self.name.clone(), tasks: self.tasks(), round };
                self.report(Box::new(inspection));
            }
        }
    }

    fn part(&self, cpu: &mut Cpu, ended: bool) -> Part {
        let stopped = self.state_before_start(cpu.number).is_some();
        let activity = match cpu.blocked {
            _ if ended => Activity::Ended,
            _ if stopped => Activity::Stopped,
            _ if self.life.state() == State::Paused => Activity::Paused,
            Some(_) => Activity::Blocked,
            None => Activity::Running,
        };
        let deadline = cpu.blocked.filter(|&at| activity == Activity::Blocked && at != u64::MAX);
        let registers = (!stopped).then(|| cpu.vcpu.registers());
        Part {
            number: cpu.number,
            activity,
            deadline_in_ns: deadline.map(|at| at.saturating_sub(self.now())),
            registers: registers.unwrap_or_default(),
            cpu: self.body().copy_cpu(registers),
        }
    }

    fn report(&self, inspection: Box<Inspection>) {
        let engine = self.engine.upgrade();
        match engine.as_ref().and_then(|engine| engine.reports.as_ref()) {
            Some(reports) => reports.submit(inspection),
            None => inspection.run(),
        }
    }
}
