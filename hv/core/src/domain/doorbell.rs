//! Doorbells that come as exits, since nothing is bound to them yet.

use super::Domain;
use super::devices::{Bell, RINGS_BEFORE_BINDING, Target};
use crate::device::console::ConsoleSource;
use crate::device::function::Served;
use crate::platform::Machine;
use hv_abi::EventPort;

/// The doorbells of a guest, and the machine that they can be bound in.
pub(super) struct Doorbells {
    machine: Box<dyn Machine>,
    /// Those that may still come as exits; not the console's at first.
    pub(super) bells: Vec<Bell>,
    console: EventPort,
    /// How often the console's came while the guest's own thread drove it.
    console_rings: u32,
}

impl Doorbells {
    pub(super) fn new(machine: Box<dyn Machine>, bells: Vec<Bell>, console: EventPort) -> Self {
        Doorbells { machine, bells, console, console_rings: 0 }
    }

    /// Counts from 0 again.
    pub(super) fn reset(&mut self) {
        self.console_rings = 0;
        self.bells.iter_mut().for_each(|bell| bell.rings = 0);
    }
}

impl Domain {
    /// The guest rang a doorbell that the platform has not bound.
    pub(super) fn ring(&self, port: EventPort) -> Served {
        self.counters.doorbell();
        let doorbells = &mut *self.doorbells.lock().expect("no panic while held");
        if let Some(bell) = doorbells.bells.iter_mut().find(|bell| bell.port == port) {
            match &bell.target {
                Target::Function(device) => return device.ring(),
                Target::Descriptor(descriptor) => {
                    if Bell::ring(&mut bell.rings, descriptor)
                        && let Err(error) = doorbells.machine.bind_doorbell(port, descriptor)
                    {
                        // Rings go on to come as exits: slower, nothing worse.
                        tracing::debug!("binding a doorbell: {error}");
                    }
                }
            }
        } else if port == doorbells.console {
            doorbells.console_rings += 1;
            if self.console.ring() || doorbells.console_rings == RINGS_BEFORE_BINDING {
                self.give_console(doorbells);
            }
        } else {
            self.counters.unbound_doorbell();
        }
        Served::Running
    }

    /// From now on the I/O thread drives the console. Until then the guest's
    /// own thread did: a guest that prints a line and ends needs no other.
    pub(super) fn hand_console_over(&self) {
        let doorbells = &mut *self.doorbells.lock().expect("no panic while held");
        if !doorbells.bells.iter().any(|bell| bell.port == doorbells.console) {
            self.give_console(doorbells);
        }
    }

    fn give_console(&self, doorbells: &mut Doorbells) {
        let Some(engine) = self.engine.upgrade() else { return };
        let bell = doorbells.machine.doorbell(doorbells.console);
        let (bell, descriptor) = match bell.and_then(|bell| Ok((bell.try_clone()?, bell))) {
            Ok(both) => both,
            Err(error) => {
                tracing::warn!("no doorbell for the console: {error}");
                return;
            }
        };
        let source = engine
            .reactor
            .add_for(&self.source_owner, Box::new(ConsoleSource::new(self.console.clone(), bell)));
        self.sources.lock().expect("no panic while held").push(source);
        doorbells.bells.push(Bell::new(doorbells.console, Target::Descriptor(descriptor)));
    }
}
