//! What the processes of a guest share: its doorbells.

use super::page::{Bindings, Page};
use super::vcpu::ProcessVcpu;
use super::zygote::Zygote;
use crate::platform::{Machine, PlatformError, Start, Started, Vcpu};
use hv_abi::EventPort;
use hv_host::clock;
use hv_stub::MAX_DOORBELLS;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The descriptors that the doorbells of a guest signal. All of its processes have them.
pub(super) type Bells = Arc<[EventFd]>;

/// Makes the processes of a guest, one for each virtual CPU.
pub(super) fn start(zygote: &Arc<Zygote>, start: &Start<'_>) -> Result<Started, PlatformError> {
    let bells: Bells = (0..start.doorbells.min(MAX_DOORBELLS))
        .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC))
        .collect::<io::Result<_>>()
        .map_err(super::failed("making an eventfd"))?;
    let (mut bindings, mut vcpus) = (Vec::new(), Vec::<Box<dyn Vcpu>>::new());
    for (number, vcpu) in start.vcpus.iter().enumerate() {
        let page = Page::new(start.memory.clone(), number);
        bindings.push(page.bindings());
        vcpus.push(Box::new(ProcessVcpu::new(zygote.clone(), bells.clone(), page, start.memory, vcpu)?));
    }
    let owners = vec![None; bells.len()];
    Ok(Started { machine: Box::new(ProcessMachine { bells, owners, bindings }), vcpus })
}

struct ProcessMachine {
    bells: Bells,
    /// The port of each of them.
    owners: Vec<Option<EventPort>>,
    /// For each process, the table of ports and the doorbells that they signal.
    bindings: Vec<Bindings>,
}

impl Machine for ProcessMachine {
    fn doorbell(&mut self, port: EventPort) -> io::Result<EventFd> {
        let mut bells = self.bells.iter().zip(&mut self.owners);
        match bells.find(|(_, owner)| owner.is_none_or(|owner| owner == port)) {
            Some((bell, owner)) => {
                *owner = Some(port);
                bell.try_clone()
            }
            None => EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC),
        }
    }

    fn bind_doorbell(&mut self, port: EventPort, _: &EventFd) -> io::Result<()> {
        let number = self.owners.iter().position(|owner| *owner == Some(port));
        let number = number.ok_or(io::ErrorKind::Unsupported)?;
        self.bindings.iter().for_each(|bindings| bindings.bind(port.0, number as u8 + 1));
        Ok(())
    }

    fn tsc_khz(&self) -> u32 {
        clock::tsc_khz()
    }

    fn tsc_refined_at(&self) -> Option<Instant> {
        clock::refined_at()
    }
}

const _: () = assert!(MAX_DOORBELLS < u8::MAX as usize);
