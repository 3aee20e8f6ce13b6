//! Virtual CPUs that the guest itself starts and stops.

use super::Domain;
use super::end::End;
use super::vcpu::{Cpu, VcpuHandle};
use crate::platform::CpuState;
use crate::sched::Next;
use hv_abi::{Errno, GuestAddr};
use std::sync::MutexGuard;

/// Whether a virtual CPU runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// It does not run until it is started.
    Stopped,
    /// It begins at this address in its next time slice.
    Starting { entry: GuestAddr, stack: GuestAddr },
    /// It runs.
    Running,
}

impl Power {
    /// The power state of a virtual CPU that begins with this CPU state.
    pub(super) fn of(state: &CpuState) -> Power {
        if state.is_stopped() { Power::Stopped } else { Power::Running }
    }
}

impl VcpuHandle {
    pub(super) fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().expect("no panic while held")
    }
}

impl Domain {
    /// The state of a virtual CPU that is stopped or has not begun. `None` if it runs: then the platform has its state.
    pub(super) fn state_before_start(&self, number: usize) -> Option<CpuState> {
        match *self.vcpus[number].power() {
            Power::Stopped => Some(CpuState::stopped()),
            Power::Starting { entry, stack } => Some(CpuState::at_entry(entry.0, stack.0, number as u64)),
            Power::Running => None,
        }
    }

    /// Starts a virtual CPU at a validated address with a validated stack. Returns the result of the hypercall.
    pub(super) fn start_vcpu(&self, number: u64, entry: GuestAddr, stack: GuestAddr) -> i64 {
        let vcpu = usize::try_from(number).ok().and_then(|number| self.vcpus.get(number));
        let Some(vcpu) = vcpu else { return Errno::Invalid.to_status().into() };
        {
            let power = &mut *vcpu.power();
            if *power != Power::Stopped {
                return Errno::Busy.to_status().into();
            }
            *power = Power::Starting { entry, stack };
        }
        vcpu.wake();
        0
    }

    /// Stops the virtual CPU that this thread runs. If it is the last one, it continues, and this is the result of the hypercall.
    pub(super) fn stop_vcpu(&self, number: usize) -> Option<i64> {
        // All locks are taken, in order: two virtual CPUs that stop at the same time would each see the other one running.
        let mut powers: Vec<_> = self.vcpus.iter().map(VcpuHandle::power).collect();
        let others = powers.iter().enumerate().filter(|(other, _)| *other != number);
        if others.map(|(_, power)| **power).all(|power| power == Power::Stopped) {
            return Some(Errno::Invalid.to_status().into());
        }
        *powers[number] = Power::Stopped;
        None
    }

    /// Begins a virtual CPU that was started. Returns how its time slice ends; `None` if the virtual CPU runs already.
    pub(super) fn begin(&self, cpu: &mut Cpu) -> Result<Option<Next>, End> {
        let start = {
            let power = &mut *self.vcpus[cpu.number].power();
            match *power {
                Power::Stopped => return Ok(Some(Next::Blocked(None))),
                Power::Running => return Ok(None),
                Power::Starting { entry, stack } => {
                    *power = Power::Running;
                    CpuState::at_entry(entry.0, stack.0, cpu.number as u64)
                }
            }
        };
        (cpu.blocked, cpu.called) = (None, true);
        match cpu.vcpu.reset(&start) {
            // A kick that came meanwhile asks it to look at the guest's state, and a reset drops kicks. So it looks again.
            Ok(()) => Ok(Some(Next::Ready)),
            Err(error) => Err(self.crash(cpu, format!("the host failed to start a virtual CPU: {error}"))),
        }
    }
}
