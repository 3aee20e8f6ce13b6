//! Doorbells that come as exits, since nothing is bound to them yet.

use super::devices::{Bell, RINGS_BEFORE_BINDING, Target};
use super::{Cpu, Domain};
use crate::device::console::ConsoleSource;
use crate::device::function::Served;
use crate::platform::Vcpu;
use hv_abi::EventPort;

impl Domain {
    /// The guest rang a doorbell that the platform has not bound.
    pub(super) fn ring(&self, cpu: &mut Cpu, port: EventPort) -> Served {
        self.counters.doorbell();
        if let Some(bell) = cpu.bells.iter_mut().find(|bell| bell.port == port) {
            match &bell.target {
                Target::Function(device) => return device.ring(),
                Target::Descriptor(descriptor) => {
                    if Bell::ring(&mut bell.rings, descriptor)
                        && let Err(error) = cpu.vcpu.bind_doorbell(port, descriptor)
                    {
                        // Rings go on to come as exits: slower, nothing worse.
                        tracing::debug!("binding a doorbell: {error}");
                    }
                }
            }
        } else if port == self.console_port {
            cpu.console_rings += 1;
            if self.console.ring() || cpu.console_rings == RINGS_BEFORE_BINDING {
                cpu.bells.extend(self.hand_console_over(&mut *cpu.vcpu));
            }
        } else {
            self.counters.unbound_doorbell();
        }
        Served::Running
    }

    /// From now on the I/O thread drives the console. Until then the guest's
    /// own thread did: a guest that prints a line and ends needs no other.
    pub(super) fn hand_console_over(&self, vcpu: &mut dyn Vcpu) -> Option<Bell> {
        let engine = self.engine.upgrade()?;
        let bell = vcpu.doorbell(self.console_port).and_then(|bell| Ok((bell.try_clone()?, bell)));
        let (bell, descriptor) =
            bell.inspect_err(|error| tracing::warn!("no doorbell for the console: {error}")).ok()?;
        let source = engine
            .reactor
            .add_for(&self.source_owner, Box::new(ConsoleSource::new(self.console.clone(), bell)));
        self.sources.lock().expect("no panic while held").push(source);
        Some(Bell::new(self.console_port, Target::Descriptor(descriptor)))
    }
}
