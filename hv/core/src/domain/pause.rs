//! Guests that are paused and resumed.

use super::Domain;
use super::life::{Event, State};
use crate::sched::Next;

impl Domain {
    /// Has all virtual CPUs come to stand still in their next time slice, until the guest is resumed.
    pub(super) fn pause(&self) {
        self.life.happen(Event::Pause);
        self.kick_all();
    }

    /// Lets the guest go on.
    pub(super) fn resume(&self) {
        self.allow_to_run();
        self.wake_all();
    }

    /// From their next time slice on, its virtual CPUs run.
    pub(super) fn allow_to_run(&self) {
        self.life.happen(Event::Resume);
    }

    /// Pauses the guest from a time slice of this virtual CPU. What that ends with.
    pub(super) fn pause_here(&self, vcpu: usize) -> Next {
        self.life.happen(Event::Pause);
        self.stand_with_others(vcpu)
    }

    /// The guest is pausing: this virtual CPU stands still, and the others are told to. What its time slice ends with.
    pub(super) fn stand_with_others(&self, vcpu: usize) -> Next {
        self.kick_others(vcpu);
        self.stand(vcpu).unwrap_or(Next::Ready)
    }

    /// What a time slice ends with in which a virtual CPU stands still. It can be woken for nothing, and the guest be
    /// resumed by another thread in that very time slice: then there is none, and it has to run.
    pub(super) fn stand(&self, vcpu: usize) -> Option<Next> {
        if !self.life.stand(vcpu) {
            // One that was never started is woken for nothing.
            return (self.life.state() == State::Created).then_some(Next::Blocked(None));
        }
        if let Some(engine) = self.engine.upgrade() {
            engine.notify_waiting();
        }
        Some(Next::Blocked(None))
    }
}
