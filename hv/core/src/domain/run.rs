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

impl Domain {
    /// How a `Block` until `deadline` stands: over, with its result, or not until.
    fn block(&self, vcpu: usize, deadline: u64) -> Result<i64, Option<Instant>> {
        if self.hub.any_pending(vcpu) {
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

    /// Runs a virtual CPU until it has to wait, gives way, or the guest ends.
    pub(super) fn run_cpu(&self, cpu: &mut Cpu) -> Result<RunExit, End> {
        self.answer_inspectors(cpu, false);
        if self.done.swap(false, Ordering::SeqCst)
            && let Some(exit) = self.after_work(cpu.number)
        {
            return Ok(exit);
        }
        match self.life.state() {
            State::Starting | State::Running => {}
            State::Created | State::Pausing | State::Paused => {
                if let Some(next) = self.stand(cpu.number) {
                    return Ok(RunExit::Next(next));
                }
            }
            State::Stopping | State::Ended => return Err(self.obey(cpu)),
        }
        if let Some(next) = self.begin(cpu)? {
            return Ok(RunExit::Next(next));
        }
        if let Some(deadline) = cpu.blocked {
            match self.block(cpu.number, deadline) {
                Ok(result) => cpu.vcpu.set_result(result),
                Err(until) => return Ok(RunExit::Next(Next::Blocked(until))),
            }
            cpu.blocked = None;
        }
        cpu.first_entry.get_or_insert_with(Instant::now);
        loop {
            let exit = self.enter(cpu)?;
            if self.life.state() == State::Stopping {
                return Err(self.obey(cpu));
            }
            let (number, arguments) = match exit {
                Exit::Hypercall { number, arguments } => (number, arguments),
                Exit::Doorbell(port) => {
                    if !std::mem::replace(&mut cpu.called, true) {
                        self.note_phase(cpu, |phases| &mut phases.first_hypercall);
                    }
                    if self.ring(EventPort(port)) == Served::Answered
                        && let Some(exit) = self.after_work(cpu.number)
                    {
                        return Ok(exit);
                    }
                    continue;
                }
                Exit::Access(access) => {
                    self.access(cpu, &access)?;
                    continue;
                }
                Exit::Interrupted => {
                    self.counters.interruption();
                    return Ok(RunExit::Next(Next::Ready));
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
                    if self.life.happen(Event::Ready) {
                        return Ok(RunExit::Next(self.stand_with_others(cpu.number)));
                    }
                }
                Action::SetUpcall(handler) => {
                    self.hub.set_handler(handler);
                    cpu.vcpu.set_result(0);
                }
                Action::StartVcpu { vcpu, entry, stack } => {
                    let result = self.start_vcpu(vcpu, entry, stack);
                    cpu.vcpu.set_result(result);
                }
                Action::StopVcpu => match self.stop_vcpu(cpu.number) {
                    Some(result) => cpu.vcpu.set_result(result),
                    None => return Ok(RunExit::Next(Next::Blocked(None))),
                },
                Action::ErrorOutput(bytes) => cpu.vcpu.set_result(self.write_errors(&bytes)),
                Action::Yield => {
                    cpu.vcpu.set_result(0);
                    return Ok(RunExit::Next(Next::Ready));
                }
                Action::Block(deadline) => match self.block(cpu.number, deadline) {
                    Ok(result) => cpu.vcpu.set_result(result),
                    Err(until) => {
                        cpu.blocked = Some(deadline);
                        return Ok(RunExit::Next(Next::Blocked(until)));
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

    /// What follows when the guest has done its work, if that ends the time slice of this virtual CPU.
    fn after_work(&self, vcpu: usize) -> Option<RunExit> {
        let hook = self.hook.as_ref()?;
        if hook.pauses_when_done() {
            self.pause_here(vcpu);
            return Some(RunExit::Done);
        }
        hook.done();
        None
    }

    /// The guest touched emulated hardware: nothing that guests without it can do.
    fn access(&self, cpu: &mut Cpu, access: &BusAccess) -> Result<(), End> {
        self.counters.access(access.space);
        let Some(bus) = &self.bus else {
            return Err(self.crash(cpu, format!("the host failed: an access without a device: {access:x?}")));
        };
        if let Some(value) = bus.lock().expect("no panic while held").access(access) {
            cpu.vcpu.answer(value);
        }
        Ok(())
    }

    fn note_phase(&self, cpu: &Cpu, phase: impl Fn(&mut BootPhases) -> &mut Option<Duration>) {
        let phases = &mut *self.phases.lock().expect("no panic while held");
        phase(phases).get_or_insert_with(|| cpu.first_entry.map_or(Duration::ZERO, |first| first.elapsed()));
    }
}
