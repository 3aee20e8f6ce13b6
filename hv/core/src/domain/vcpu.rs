//! The virtual CPUs of a guest: each is a task of the scheduler.

use super::Domain;
use super::end::End;
use super::power::Power;
use super::run::{RunExit, RunLoop};
use crate::platform::{Kick, Vcpu};
use crate::sched::{Entity, Next, Task};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A virtual CPU, shared by all threads that use it.
pub(super) struct VcpuHandle {
    cpu: Mutex<Cpu>,
    pub(super) kicker: Arc<dyn Kick>,
    /// Whether it executes, or is about to without another check of its events. Then raising an event must also kick it.
    pub(super) executing: AtomicBool,
    /// Whether it runs, or is to.
    pub(super) power: Mutex<Power>,
    entity: OnceLock<Weak<Entity>>,
}

/// The part of a virtual CPU that only the thread that runs it uses.
pub(super) struct Cpu {
    /// Counted from 0.
    pub(super) number: usize,
    pub(super) vcpu: Box<dyn Vcpu>,
    /// The deadline of the `Block` that it is in.
    pub(super) blocked: Option<u64>,
    pub(super) first_entry: Option<Instant>,
    /// Whether it has made a hypercall.
    pub(super) called: bool,
    /// It was the last one to leave the guest for good. The remaining output is still to be written.
    left: bool,
}

impl VcpuHandle {
    pub(super) fn new(number: usize, vcpu: Box<dyn Vcpu>, power: Power) -> Self {
        VcpuHandle {
            power: Mutex::new(power),
            kicker: vcpu.kicker(),
            cpu: Mutex::new(Cpu {
                number,
                vcpu,
                blocked: None,
                first_entry: None,
                called: false,
                left: false,
            }),
            executing: AtomicBool::new(false),
            entity: OnceLock::new(),
        }
    }

    /// If a thread runs it, waits until that thread has left the guest.
    pub(super) fn cpu(&self) -> MutexGuard<'_, Cpu> {
        self.cpu.lock().expect("no panic while held")
    }

    /// Sets its place in the scheduler. Called once.
    pub(super) fn set_entity(&self, entity: &Arc<Entity>) {
        let _ = self.entity.set(Arc::downgrade(entity));
    }

    pub(super) fn entity(&self) -> Option<Arc<Entity>> {
        self.entity.get().and_then(Weak::upgrade)
    }

    pub(super) fn wake(&self) {
        if let Some(entity) = self.entity() {
            entity.wake();
        }
    }
}

impl Domain {
    /// Wakes all virtual CPUs.
    pub(super) fn wake_all(&self) {
        self.vcpus.iter().for_each(VcpuHandle::wake);
    }

    /// Makes all virtual CPUs exit and look at the guest's state.
    pub(super) fn kick_all(&self) {
        for vcpu in &self.vcpus {
            vcpu.kicker.kick();
            vcpu.wake();
        }
    }

    /// The same without this one, whose thread looks by itself.
    pub(super) fn kick_others(&self, number: usize) {
        for (_, vcpu) in self.vcpus.iter().enumerate().filter(|(other, _)| *other != number) {
            vcpu.kicker.kick();
            vcpu.wake();
        }
    }
}

/// A virtual CPU as a task. The scheduler owns it.
pub(super) struct VcpuTask {
    pub(super) domain: Arc<Domain>,
    pub(super) number: usize,
}

impl VcpuTask {
    fn vcpu(&self) -> &VcpuHandle {
        &self.domain.vcpus[self.number]
    }
}

impl Task for VcpuTask {
    fn run(&self) -> Next {
        let domain = &self.domain;
        let mut cpu = self.vcpu().cpu();
        if !cpu.left {
            match domain.measured(|| RunLoop::new(domain, &mut cpu).run()) {
                Ok(RunExit::Next(next)) => return next,
                Ok(RunExit::Done) => {
                    drop(cpu);
                    if let Some(hook) = &domain.hook {
                        hook.done();
                    }
                    return Next::Blocked(None);
                }
                Err(end) => {
                    if !domain.leave(self.number, end) {
                        return Next::Ended;
                    }
                    cpu.left = true;
                }
            }
        }
        domain.answer_inspectors(&mut cpu, true);
        let end = match domain.drain.poll(|| domain.hand_console_over()) {
            Ok(end) => end,
            Err(until) => return Next::Blocked(Some(until)),
        };
        domain.phases.lock().expect("no panic while held").run = cpu.first_entry.map(|first| first.elapsed());
        drop(cpu);
        match end {
            End::Outcome(outcome) => domain.ended(outcome),
            End::Crash(record) => domain.crashed(record),
        }
        Next::Ended
    }

    fn preempt(&self) {
        self.vcpu().kicker.kick();
    }

    fn used_apart(&self) -> Duration {
        self.vcpu().kicker.used_apart()
    }

    fn slept(&self) -> Duration {
        self.vcpu().kicker.slept()
    }
}
