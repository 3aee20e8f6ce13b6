//! Guests that are paused and resumed.

use super::Domain;
use crate::sched::Next;
use std::sync::atomic::Ordering;

impl Domain {
    /// Has the guest stop at its next turn, until it is resumed.
    pub(super) fn pause(&self) {
        self.pause_ordered.store(true, Ordering::SeqCst);
        self.kicker.kick();
        self.wake_up();
    }

    /// Lets the guest go on.
    pub(super) fn resume(&self) {
        self.allow_to_run();
        self.wake_up();
    }

    /// From its next turn on, the guest runs.
    pub(super) fn allow_to_run(&self) {
        let mut status = self.status();
        self.pause_ordered.store(false, Ordering::SeqCst);
        status.paused = false;
    }

    /// What a turn ends with from which on the guest is paused.
    pub(super) fn pause_here(&self) -> Next {
        self.pause_ordered.store(true, Ordering::SeqCst);
        self.stay_paused().unwrap_or(Next::Ready)
    }

    /// What a turn ends with in which the guest stays paused. A guest can be woken for nothing, and be
    /// resumed by another thread in that very turn: then there is none, and the guest has to run.
    pub(super) fn stay_paused(&self) -> Option<Next> {
        let mut status = self.status();
        if !self.pause_ordered.load(Ordering::SeqCst) {
            return None;
        }
        status.paused = true;
        drop(status);
        self.changed.notify_all();
        if let Some(engine) = self.engine.upgrade() {
            engine.notify_waiting();
        }
        Some(Next::Blocked(None))
    }
}
