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
        if port.is_of_vcpu() {
            self.hub.raise(port);
            return Served::Running;
        }
        let doorbells = &mut *self.doorbells.lock().expect("no panic while held");
        let Some(bell) = doorbells.bells.iter_mut().find(|bell| bell.port == port) else {
            self.counters.unbound_doorbell();
            return Served::Running;
        };
        match &bell.target {
            Target::Handler(handler) => {
                let served = handler.ring();
                if served == Served::HandOver {
                    self.hand_over(doorbells, port);
                }
                return served;
            }
            Target::Descriptor(descriptor, _) => {
                if Bell::ring(&mut bell.rings, descriptor)
                    && let Err(error) = doorbells.machine.bind_doorbell(port, descriptor)
                {
                    // Rings continue to arrive as exits. That is slower, but correct.
                    tracing::debug!("binding a doorbell: {error}");
                }
            }
        }
        Served::Running
    }

    /// The guest rings a doorbell and waits. A guest that does not wait may look for the answer, and that comes sooner from the I/O thread, which looks for
    /// the next request in turn.
    pub(super) fn ring_and_wait(&self, port: EventPort) -> Served {
        if self.quick_handler(port).is_some_and(|handler| handler.try_ring()) {
            self.counters.doorbell();
            return Served::Running;
        }
        self.ring(port)
    }

    /// What may be able to do on this thread what the guest rings for. Its work is done without the lock: other virtual CPUs ring meanwhile.
    fn quick_handler(&self, port: EventPort) -> Option<Arc<dyn QuickHandler>> {
        let doorbells = self.doorbells.lock().expect("no panic while held");
        match &doorbells.bells.iter().find(|bell| bell.port == port)?.target {
            Target::Descriptor(_, quick) => quick.clone(),
            Target::Handler(_) => None,
        }
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
