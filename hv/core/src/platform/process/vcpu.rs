//! A virtual CPU that is a process.

use super::handle::Process;
use super::kick::ProcessKicker;
use super::machine::Bells;
use super::page::{ExitArgs, Page, Wake, move_sleeper};
use super::zygote::Zygote;
use crate::memory::GuestMemory;
use crate::platform::{CpuState, Exit, Fault, Kick, PlatformError, Registers, StartVcpu, Vcpu, push_return};
use hv_abi::hypercall::STUB_SIZE;
use hv_abi::{GuestAddr, PAGE_SIZE};
use hv_stub::kind;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// How often hv checks whether a process that has control still lives.
const LOOK: Duration = Duration::from_millis(20);

/// How often hv checks the run of a guest that has been kicked.
const LOOK_AFTER_KICK: Duration = Duration::from_millis(1);

/// How long a guest may leave a kick unanswered, in its own processor time. The stub answers at once. A guest that has
/// damaged its stub so that it does not answer is ended.
const GRACE: Duration = Duration::from_millis(200);

/// The same in elapsed time, for a process that the host does not run: on a busy host this can take so long. A guest
/// cannot sleep while it has control (`filter`).
const GRACE_STARVED: Duration = Duration::from_secs(10);

/// How often the limit of processor time is raised while a guest has control.
const RENEWAL: Duration = Duration::from_millis(100);

pub(super) struct ProcessVcpu {
    zygote: Arc<Zygote>,
    kicker: Arc<ProcessKicker>,
    page: Page,
    memory: Arc<GuestMemory>,
    /// Offset in the memory of the hypercall page.
    hypercall_page: u64,
    bells: Bells,
    /// Whether its process has not run yet.
    fresh: bool,
    /// How the last run ended.
    kind: u32,
    /// Arguments of its hypercall.
    arguments: [u64; 3],
    /// When the limit of processor time was last raised.
    renewed: Option<Instant>,
    /// The process sleeps on one of them while it is [parked](Page::park), and on the other one once that was checked.
    futexes: Box<[AtomicU32; 2]>,
    /// Which one that is.
    asleep_at: usize,
}

impl ProcessVcpu {
    /// Makes a process with this page and these doorbells.
    pub(super) fn new(
        zygote: Arc<Zygote>,
        bells: Bells,
        mut page: Page,
        memory: &Arc<GuestMemory>,
        start: &StartVcpu<'_>,
    ) -> Result<Self, PlatformError> {
        page.prepare(start.state);
        let process = zygote.fork(memory, page.offset(), bells.iter())?;
        Ok(ProcessVcpu {
            zygote,
            kicker: Arc::new(ProcessKicker::new(process, page.alert())),
            page,
            memory: memory.clone(),
            hypercall_page: start.page.stubs,
            bells,
            fresh: true,
            kind: kind::INTERRUPTED,
            arguments: [0; 3],
            renewed: None,
            futexes: Box::default(),
            asleep_at: 0,
        })
    }

    /// Raises the limit of processor time. A guest that runs although it has no control, and is not given control any
    /// more, reaches the limit soon.
    fn renew(&mut self) {
        if self.renewed.is_none_or(|renewed| renewed.elapsed() >= RENEWAL) {
            self.kicker.process().renew_limit();
            self.renewed = Some(Instant::now());
        }
    }

    /// Hands control to the guest, and waits until hv has it again.
    fn hand_over(&mut self) -> Result<(), Fault> {
        self.renew();
        let kicker = self.kicker.clone();
        let mut kicked = None;
        if kicker.is_parked() {
            self.begin_anew()?;
        } else {
            self.page.give();
        }
        loop {
            let limit = if kicker.is_requested() { LOOK_AFTER_KICK } else { LOOK };
            match self.page.wait(limit, || kicker.is_requested()) {
                Wake::Over if !kicker.has_slept() => return Ok(()),
                Wake::Over | Wake::Unsaid => {
                    kicker.charge(self.page.waited());
                    return Ok(());
                }
                Wake::Look => {}
            }
            self.renew();
            let process = kicker.process();
            if !process.is_alive() {
                return Err(Fault::Killed);
            }
            if kicker.is_requested() {
                let used = process.used();
                let (since, before) = *kicked.get_or_insert_with(|| (Instant::now(), used));
                if used.saturating_sub(before) > GRACE || since.elapsed() > GRACE_STARVED {
                    process.kill();
                    return Err(Fault::Crossing);
                }
            }
        }
    }

    /// The number of its process.
    #[cfg(test)]
    pub(super) fn process(&self) -> i32 {
        self.kicker.process().number()
    }

    /// Brings the page that the guest lacked, if that is how its run ended. Returns false if it is not.
    fn bring(&self, exit: &ExitArgs) -> std::io::Result<bool> {
        match exit.missing_page() {
            // The stub uses nothing that could be missing, unless the guest has given it away.
            Some((address, access)) if self.page.is_in_the_guest() => self.memory.bring(address, access),
            _ => Ok(false),
        }
    }

    /// Gives control to a process that is parked. It begins as a process that has just been made.
    ///
    /// A process that was interrupted while it was parked may have executed what the guest before wanted. It is not parked any more
    /// then. A freezer and a debugger interrupt it, and so does the kernel, rarely, when it wakes a thread once more for what it no longer waits for.
    fn begin_anew(&mut self) -> Result<(), Fault> {
        let kicker = self.kicker.clone();
        let given = kicker.begin_anew(|| {
            let parked = self.is_asleep();
            self.page.give_parked();
            parked
        });
        if given { Ok(()) } else { Err(Fault::Unparked) }
    }

    /// Whether the process, which was parked, has been asleep since.
    fn is_asleep(&mut self) -> bool {
        let here = self.asleep_at;
        self.asleep_at = 1 - here;
        move_sleeper(&self.futexes[here], 0, &self.futexes[self.asleep_at])
    }

    /// The address of the stub in the hypercall page, if this instruction pointer is in one.
    fn stub_of(&self, rip: u64) -> Option<u64> {
        let page = self.memory.base().0 + self.hypercall_page;
        let offset = rip.checked_sub(page).filter(|&offset| offset < PAGE_SIZE)?;
        Some(page + offset / STUB_SIZE * STUB_SIZE)
    }
}

impl Vcpu for ProcessVcpu {
    fn set_crowded(&mut self, crowded: bool) {
        self.page.set_impatient(crowded);
    }

    fn run(&mut self) -> Exit {
        let kicker = self.kicker.clone();
        let exit = loop {
            match kicker.running(|| self.hand_over()) {
                None => return Exit::Interrupted,
                Some(Err(fault)) => return Exit::Fault(fault),
                Some(Ok(())) => {}
            }
            let exit = self.page.exit_args();
            match self.bring(&exit) {
                Ok(false) => break exit,
                // As if it had been interrupted before the access.
                Ok(true) => self.kind = kind::INTERRUPTED,
                Err(error) => return Exit::Failed(format!("no memory for a page of the guest: {error}")),
            }
        };
        if self.memory.is_incomplete() {
            return Exit::Failed("no memory for pages of the guest".into());
        }
        let fresh = std::mem::take(&mut self.fresh);
        self.kind = exit.kind;
        self.arguments = exit.arguments;
        match exit.kind {
            kind::HYPERCALL => Exit::Hypercall { number: exit.number, arguments: exit.arguments },
            kind::DOORBELL => Exit::Doorbell(exit.number),
            kind::INTERRUPTED => {
                self.kicker.answered();
                Exit::Interrupted
            }
            kind::FAULT => Exit::Fault(exit.fault()),
            // Later, this value can only come from the guest itself.
            kind::UNCONFINED if fresh => Exit::Failed(
                "the kernel refused the guest's system-call filter (seccomp); `hv doctor` says more".into(),
            ),
            _ => Exit::Fault(Fault::Crossing),
        }
    }

    fn set_result(&mut self, value: i64) {
        self.page.set_result(value);
    }

    fn registers(&mut self) -> Registers {
        let mut registers = self.page.state(self.kind).registers();
        if self.kind == kind::HYPERCALL {
            [registers.rdi, registers.rsi, registers.rdx] = self.arguments;
        }
        registers
    }

    fn save(&mut self) -> Result<CpuState, PlatformError> {
        let mut state = self.page.state(self.kind);
        // A call that was about to be made is made again.
        state.rip = self.stub_of(state.rip).unwrap_or(state.rip);
        Ok(state)
    }

    fn redirect(&mut self, handler: GuestAddr) -> Result<(), PlatformError> {
        if self.kind == kind::FAULT {
            return Ok(());
        }
        let state = self.page.state(self.kind);
        let stack = push_return(&self.memory, state.rsp, state.rip)?;
        self.page.redirect(handler.0, stack);
        Ok(())
    }

    fn halt(&mut self) {
        if !self.kicker.park(|| self.page.park(&self.futexes[0])) {
            self.kicker.end();
        }
        self.asleep_at = 0;
    }

    fn is_undisturbed(&mut self) -> bool {
        let kicker = self.kicker.clone();
        match kicker.is_parked() {
            true => kicker.stays_parked(|| self.is_asleep()),
            // It waits for control, which nothing but its end disturbs.
            false => kicker.process().is_alive(),
        }
    }

    fn reset(&mut self, state: &CpuState) -> Result<(), PlatformError> {
        let parked = self.kicker.is_parked();
        if !parked {
            self.kicker.end();
            self.page.clear();
        }
        self.page.prepare(state);
        if !parked {
            let process = self.zygote.fork(&self.memory, self.page.offset(), self.bells.iter())?;
            self.kicker.replace(process);
        }
        (self.fresh, self.kind, self.renewed) = (true, kind::INTERRUPTED, None);
        self.kicker.answered();
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kicker.clone()
    }
}

impl Drop for ProcessVcpu {
    fn drop(&mut self) {
        self.kicker.process().kill();
    }
}

const _: () = assert!(size_of::<Process>() <= 16);
