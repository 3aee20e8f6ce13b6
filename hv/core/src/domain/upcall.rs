//! Upcalls: redirecting a guest to its handler.

use super::Domain;
use super::end::End;
use super::vcpu::Cpu;
use crate::platform::{Exit, PlatformError};
use std::sync::atomic::Ordering;

impl Domain {
    /// Redirects the guest to its handler if events are pending for it, then runs the guest until it exits.
    pub(super) fn enter(&self, cpu: &mut Cpu) -> Result<Exit, End> {
        cpu.vcpu.set_crowded(self.crowded.load(Ordering::Relaxed));
        // From here on, raising an event also kicks. Events raised before are seen by the check below.
        let executing = &self.vcpus[cpu.number].executing;
        executing.store(true, Ordering::SeqCst);
        let exit = match self.hub.take_upcall(cpu.number).map(|handler| cpu.vcpu.redirect(handler)) {
            None | Some(Ok(())) => Ok(cpu.vcpu.run()),
            // The guest has set its stack pointer to an invalid address.
            Some(Err(error @ (PlatformError::NoStack(_) | PlatformError::LostStack(_)))) => {
                Err(self.crash(cpu, error.to_string()))
            }
            Some(Err(error)) => Err(self.crash(cpu, format!("the host failed: {error}"))),
        };
        executing.store(false, Ordering::SeqCst);
        exit
    }

    /// Makes an executing virtual CPU exit, so that it is redirected to the handler. A virtual CPU that does not execute
    /// checks by itself before it does.
    pub(super) fn interrupt_vcpu(&self, number: usize) {
        let vcpu = &self.vcpus[number];
        if vcpu.executing.load(Ordering::SeqCst) {
            vcpu.kicker.kick();
        }
    }
}
