//! Guests that are kept from running, and let go.

use super::Domain;
use crate::sched::Next;
use std::sync::atomic::Ordering;

impl Domain {
    /// Has the guest stop at its next turn, until it is released.
    pub(super) fn hold(&self) {
        self.hold.store(true, Ordering::SeqCst);
        self.kicker.kick();
        self.wake_up();
    }

    /// Lets the guest go on.
    pub(super) fn release(&self) {
        self.let_go();
        self.wake_up();
    }

    /// From its next turn on, the guest runs.
    pub(super) fn let_go(&self) {
        let mut status = self.status();
        self.hold.store(false, Ordering::SeqCst);
        status.held = false;
    }

    /// What a turn ends with from which on the guest is held.
    pub(super) fn held(&self) -> Next {
        self.hold.store(true, Ordering::SeqCst);
        self.stay_held().unwrap_or(Next::Ready)
    }

    /// What a turn ends with in which the guest is held still. A guest can be woken for nothing, and be
    /// let go by another thread in that very turn: then there is none, and the guest has to run.
    pub(super) fn stay_held(&self) -> Option<Next> {
        let mut status = self.status();
        if !self.hold.load(Ordering::SeqCst) {
            return None;
        }
        status.held = true;
        drop(status);
        self.changed.notify_all();
        if let Some(engine) = self.engine.upgrade() {
            engine.notify_waiting();
        }
        Some(Next::Blocked(None))
    }
}
