//! Doorbells that arrive as exits because they are not bound to a descriptor yet.

use super::Domain;
use super::devices::{Bell, Target};
use crate::device::{QuickHandler, Served};
use crate::platform::Machine;
use hv_abi::EventPort;
use hv_abi::ring::Violation;
use std::sync::Arc;

/// The doorbells of a guest, and the machine in which they can be bound.
pub(super) struct Doorbells {
    machine: Box<dyn Machine>,
    /// Those that may still come as exits.
    bells: Vec<Bell>,
    /// The console's.
    console: EventPort,
}

impl Doorbells {
    pub(super) fn new(machine: Box<dyn Machine>, bells: Vec<Bell>, console: EventPort) -> Self {
        Doorbells { machine, bells, console }
    }

    /// Resets the counters, and resets the devices that no source drives to the state of the rings in memory.
    pub(super) fn reset(&mut self) -> Result<(), Violation> {
        for bell in &mut self.bells {
            bell.rings = 0;
            if let Target::Handler(device) = &bell.target {
                device.reset()?;
            }
        }
        Ok(())
    }
}

impl Domain {
    /// The guest rang a doorbell that the platform has not bound, or rang one and [waits](Self::ring_and_wait).
    pub(super) fn ring(&self, port: EventPort) -> Served {
        self.counters.doorbell();
        self.pass_on(port, false).unwrap_or(Served::Running)
    }

    /// The guest rings a doorbell and waits. A guest that does not wait may look for the answer, and that comes sooner from the I/O thread, which looks for
    /// the next request in turn.
    pub(super) fn ring_and_wait(&self, port: EventPort) -> Served {
        self.counters.doorbell();
        match self.pass_on(port, true) {
            Ok(served) => served,
            // Without the lock of the doorbells: other virtual CPUs ring meanwhile.
            Err(quick) if quick.try_ring() => Served::Running,
            Err(_) => self.pass_on(port, false).unwrap_or(Served::Running),
        }
    }

    /// Passes a ring on. With `or_quick`, returns instead what may be able to do on this thread what the guest rings for, if there is such a thing.
    fn pass_on(&self, port: EventPort, or_quick: bool) -> Result<Served, Arc<dyn QuickHandler>> {
        if port.is_of_vcpu() {
            self.hub.raise(port);
            return Ok(Served::Running);
        }
        let doorbells = &mut *self.doorbells.lock().expect("no panic while held");
        let Some(bell) = doorbells.bells.iter_mut().find(|bell| bell.port == port) else {
            self.counters.unbound_doorbell();
            return Ok(Served::Running);
        };
        match &bell.target {
            Target::Handler(handler) => {
                let served = handler.ring();
                if served == Served::HandOver {
                    self.hand_over(doorbells, port);
                }
                return Ok(served);
            }
            Target::Descriptor(_, Some(quick)) if or_quick => return Err(quick.clone()),
            Target::Descriptor(descriptor, _) => {
                if Bell::ring(&mut bell.rings, descriptor)
                    && let Err(error) = doorbells.machine.bind_doorbell(port, descriptor)
                {
                    // Rings continue to arrive as exits. That is slower, but correct.
                    tracing::debug!("binding a doorbell: {error}");
                }
            }
        }
        Ok(Served::Running)
    }

    /// From now on the I/O thread drives the console.
    pub(super) fn hand_console_over(&self) {
        let doorbells = &mut *self.doorbells.lock().expect("no panic while held");
        self.hand_over(doorbells, doorbells.console);
    }

    /// From now on the I/O thread drives the device behind this doorbell. Until now the guest's own thread drove it. Does
    /// nothing if the I/O thread drives it already, or if there is no descriptor for it.
    fn hand_over(&self, doorbells: &mut Doorbells, port: EventPort) {
        let Some(bell) = doorbells.bells.iter_mut().find(|bell| bell.port == port) else { return };
        let (Target::Handler(handler), Some(engine)) = (&bell.target, self.engine.upgrade()) else { return };
        let doorbell = doorbells.machine.doorbell(port);
        let (doorbell, descriptor) = match doorbell.and_then(|bell| Ok((bell.try_clone()?, bell))) {
            Ok(both) => both,
            Err(error) => {
                tracing::warn!("no doorbell for a device: {error}");
                return;
            }
        };
        let Some(source) = handler.clone().source(doorbell) else { return };
        let quick = handler.clone().quick();
        let source = engine.reactor.add_for(&self.source_owner, source);
        self.sources.lock().expect("no panic while held").push(source);
        (bell.target, bell.rings) = (Target::Descriptor(descriptor, quick), 0);
    }
}
