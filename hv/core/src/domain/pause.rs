//! Guests that are paused and resumed.

use super::Domain;
use super::life::{Event, State};
use crate::sched::Next;

impl Domain {
    /// Makes all virtual CPUs pause in their next time slice, until the guest is resumed.
    pub(super) fn pause(&self) {
        self.life.happen(Event::Pause);
        self.kick_all();
    }

    /// Resumes the guest.
    pub(super) fn resume(&self) {
        self.allow_to_run();
        self.wake_all();
    }

    /// Allows its virtual CPUs to run from their next time slice on.
    pub(super) fn allow_to_run(&self) {
        self.life.happen(Event::Resume);
    }

    /// Pauses the guest from a time slice of this virtual CPU. Returns how that time slice ends.
    pub(super) fn pause_here(&self, vcpu: usize) -> Next {
        self.life.happen(Event::Pause);
        self.stand_with_others(vcpu)
    }

    /// The guest is pausing: pauses this virtual CPU and kicks the others. Returns how the time slice ends.
    pub(super) fn stand_with_others(&self, vcpu: usize) -> Next {
        self.kick_others(vcpu);
        self.stand(vcpu).unwrap_or(Next::Ready)
    }

    /// Pauses a virtual CPU in its time slice. Returns how that ends. `None` means that it has to run: it can be woken
    /// spuriously, and another thread can resume the guest during that same time slice.
    pub(super) fn stand(&self, vcpu: usize) -> Option<Next> {
        if !self.life.stand(vcpu) {
            // A guest that was never started: the wake-up was spurious.
            return (self.life.state() == State::Created).then_some(Next::Blocked(None));
        }
        if let Some(engine) = self.engine.upgrade() {
            engine.notify_waiting();
        }
        Some(Next::Blocked(None))
    }
}
