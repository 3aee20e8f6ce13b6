//! The run loop: a time slice of a virtual CPU on a thread, from one exit to the next.

use super::end::End;
use super::life::{Event, State};
use super::vcpu::Cpu;
use super::{BootPhases, Domain, Outcome};
use crate::device::Served;
use crate::hypercall::{self, Action};
use crate::platform::{BusAccess, Exit};
use crate::sched::Next;
use hv_abi::{Errno, EventPort};
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What ended a time slice of a virtual CPU.
pub(super) enum RunExit {
    Next(Next),
    /// The guest has done its work, and is paused.
    Done,
}

/// A time slice of a virtual CPU.
pub(super) struct RunLoop<'a> {
    domain: &'a Domain,
    cpu: &'a mut Cpu,
}

impl<'a> RunLoop<'a> {
    pub(super) fn new(domain: &'a Domain, cpu: &'a mut Cpu) -> Self {
        RunLoop { domain, cpu }
    }

    /// The state of a `Block` until `deadline`: finished with this result, or still waiting until the given time.
    fn block(&self, deadline: u64) -> Result<i64, Option<Instant>> {
        if self.domain.hub.any_pending(self.cpu.number) {
            return Ok(1);
        }
        if deadline == u64::MAX {
            return Err(None);
        }
        let now = self.domain.now();
        if deadline <= now {
            return Ok(0);
        }
        // A deadline beyond the range of the host's clock is treated as none.
        Err(Instant::now().checked_add(Duration::from_nanos(deadline - now)))
    }

    /// The virtual CPU waits from now on, until this time if there is one. Returns `None` if it does not have to.
    fn begin_block(&mut self, deadline: u64) -> Option<Option<Instant>> {
        match self.block(deadline) {
            Ok(result) => {
                self.cpu.vcpu.set_result(result);
                self.cpu.blocked = None;
                None
            }
            Err(until) => {
                self.cpu.blocked = Some(deadline);
                Some(until)
            }
        }
    }

    /// Runs a virtual CPU until it has to wait, it yields, or the guest ends.
    pub(super) fn run(&mut self) -> Result<RunExit, End> {
        let domain = self.domain;
        domain.answer_inspectors(self.cpu, false);
        if domain.done.swap(false, Ordering::SeqCst)
            && let Some(exit) = self.after_work()
        {
            return Ok(exit);
        }
        match domain.life.state() {
            State::Starting | State::Running => {}
            State::Created | State::Pausing | State::Paused => {
                if let Some(next) = domain.stand(self.cpu.number) {
                    return Ok(RunExit::Next(next));
                }
            }
            State::Stopping | State::Ended => return Err(domain.obey(self.cpu)),
        }
        if let Some(next) = domain.begin(self.cpu)? {
            return Ok(RunExit::Next(next));
        }
        if let Some(deadline) = self.cpu.blocked
            && let Some(until) = self.begin_block(deadline)
        {
            return Ok(RunExit::Next(Next::Blocked(until)));
        }
        self.cpu.first_entry.get_or_insert_with(Instant::now);
        loop {
            let exit = domain.enter(self.cpu)?;
            if domain.life.state() == State::Stopping {
                return Err(domain.obey(self.cpu));
            }
            let (number, arguments) = match exit {
                Exit::Hypercall { number, arguments } => (number, arguments),
                Exit::Doorbell(port) => {
                    if !std::mem::replace(&mut self.cpu.called, true) {
                        self.note_phase(|phases| &mut phases.first_hypercall);
                    }
                    if domain.ring(EventPort(port)) == Served::Answered
                        && let Some(exit) = self.after_work()
                    {
                        return Ok(exit);
                    }
                    continue;
                }
                Exit::Access(access) => {
                    self.access(&access)?;
                    continue;
                }
                Exit::Interrupted => {
                    domain.counters.interruption();
                    return Ok(RunExit::Next(Next::Ready));
                }
                Exit::Fault(fault) => return Err(domain.fault(self.cpu, &fault)),
                Exit::Failed(reason) => {
                    return Err(domain.crash(self.cpu, format!("the host failed: {reason}")));
                }
            };
            domain.counters.hypercall(number);
            if !std::mem::replace(&mut self.cpu.called, true) {
                self.note_phase(|phases| &mut phases.first_hypercall);
            }
            match hypercall::dispatch(&domain.memory, number, arguments) {
                Action::Return(value) => self.cpu.vcpu.set_result(value),
                Action::Ready => {
                    self.note_phase(|phases| &mut phases.ready);
                    self.cpu.vcpu.set_result(0);
                    if domain.life.happen(Event::Ready) {
                        return Ok(RunExit::Next(domain.stand_with_others(self.cpu.number)));
                    }
                }
                Action::SetUpcall(handler) => {
                    domain.hub.set_handler(handler);
                    self.cpu.vcpu.set_result(0);
                }
                Action::StartVcpu { vcpu, entry, stack } => {
                    let result = domain.start_vcpu(vcpu, entry, stack);
                    self.cpu.vcpu.set_result(result);
                }
                Action::StopVcpu => match domain.stop_vcpu(self.cpu.number) {
                    Some(result) => self.cpu.vcpu.set_result(result),
                    None => return Ok(RunExit::Next(Next::Blocked(None))),
                },
                Action::WatchFreeMap => {
                    domain.watch_free_map();
                    self.cpu.vcpu.set_result(0);
                }
                Action::ErrorOutput(bytes) => self.cpu.vcpu.set_result(self.write_errors(&bytes)),
                Action::Yield => {
                    self.cpu.vcpu.set_result(0);
                    return Ok(RunExit::Next(Next::Ready));
                }
                Action::Block(deadline) => {
                    if let Some(until) = self.begin_block(deadline) {
                        return Ok(RunExit::Next(Next::Blocked(until)));
                    }
                }
                Action::SendAndBlock(port, deadline) => {
                    self.cpu.blocked = Some(deadline);
                    if domain.ring_and_wait(port) == Served::Answered
                        && let Some(exit) = self.after_work()
                    {
                        return Ok(exit);
                    }
                    if let Some(until) = self.begin_block(deadline) {
                        return Ok(RunExit::Next(Next::Blocked(until)));
                    }
                }
                Action::Exit(code) => return Err(End::Outcome(Outcome::Exited(code))),
                Action::Panic(message) => return Err(domain.crash(self.cpu, format!("panic: {message}"))),
            }
        }
    }

    /// Writes as much of a text to the error output as fits, without waiting. Returns the result of the hypercall.
    fn write_errors(&self, text: &[u8]) -> i64 {
        let Some(output) = &self.domain.errors else { return Errno::NoSys.to_status().into() };
        match output.lock().expect("no panic while held").write(text) {
            Ok(count) => count as i64,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => {
                // It has no reader any more. That is no reason to end the guest.
                tracing::debug!("error output: {error}");
                text.len() as i64
            }
        }
    }

    /// Handles the end of the guest's work. Returns how the time slice of this virtual CPU ends, if it does.
    fn after_work(&self) -> Option<RunExit> {
        let hook = self.domain.hook.as_ref()?;
        if hook.pauses_when_done() {
            self.domain.pause_here(self.cpu.number);
            return Some(RunExit::Done);
        }
        hook.done();
        None
    }

    /// The guest accessed emulated hardware. Guests without it cannot get here.
    fn access(&mut self, access: &BusAccess) -> Result<(), End> {
        let domain = self.domain;
        domain.counters.access(access.space);
        let Some(bus) = &domain.bus else {
            return Err(
                domain.crash(self.cpu, format!("the host failed: an access without a device: {access:x?}"))
            );
        };
        let mut bus = bus.lock().expect("no panic while held");
        for element in self.cpu.vcpu.access_data().chunks_exact_mut(usize::from(access.size).max(1)) {
            let mut value = [0; 8];
            value.iter_mut().zip(&*element).for_each(|(to, from)| *to = *from);
            let value = access.value.map(|_| u64::from_le_bytes(value));
            if let Some(read) = bus.access(&BusAccess { value, ..*access }) {
                element.iter_mut().zip(read.to_le_bytes()).for_each(|(to, from)| *to = from);
            }
        }
        Ok(())
    }

    fn note_phase(&self, phase: impl Fn(&mut BootPhases) -> &mut Option<Duration>) {
        let phases = &mut *self.domain.phases.lock().expect("no panic while held");
        phase(phases)
            .get_or_insert_with(|| self.cpu.first_entry.map_or(Duration::ZERO, |first| first.elapsed()));
    }
}
