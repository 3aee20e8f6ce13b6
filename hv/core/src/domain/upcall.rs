//! Upcalls: taking a guest to its handler.

use super::Domain;
use super::end::End;
use super::vcpu::Cpu;
use crate::platform::{Exit, PlatformError};
use std::sync::atomic::Ordering;

impl Domain {
    /// Takes the guest to its handler if events wait for it there, then runs it until it exits.
    pub(super) fn enter(&self, cpu: &mut Cpu) -> Result<Exit, End> {
        cpu.vcpu.set_crowded(self.crowded.load(Ordering::Relaxed));
        // From here on whoever raises an event kicks; what was raised before is seen now.
        let executing = &self.vcpus[cpu.number].executing;
        executing.store(true, Ordering::SeqCst);
        let exit = match self.hub.take_upcall(cpu.number).map(|handler| cpu.vcpu.redirect(handler)) {
            None | Some(Ok(())) => Ok(cpu.vcpu.run()),
            // What the guest did to its stack.
            Some(Err(error @ (PlatformError::NoStack(_) | PlatformError::LostStack(_)))) => {
                Err(self.crash(cpu, error.to_string()))
            }
            Some(Err(error)) => Err(self.crash(cpu, format!("the host failed: {error}"))),
        };
        executing.store(false, Ordering::SeqCst);
        exit
    }

    /// Has a virtual CPU leave the guest, if it executes, so that it is taken to the handler. One that does not execute
    /// looks for itself before it does.
    pub(super) fn interrupt_vcpu(&self, number: usize) {
        let vcpu = &self.vcpus[number];
        if vcpu.executing.load(Ordering::SeqCst) {
            vcpu.kicker.kick();
        }
    }
}
