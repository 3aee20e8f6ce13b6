//! A request under way, as its sender sees it.

use super::Instance;
use hv_core::device::function::Answer;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A request that is being answered. Dropping it before the answer is complete
/// tells the function that nobody waits for it any more.
pub struct Call {
    place: Place,
    complete: bool,
}

enum Place {
    /// In this exchange of this instance.
    Running(Weak<Instance>, u64),
    /// Waiting for an instance at first.
    Slot(Arc<Slot>),
}

/// A request that waits for a virtual machine that is being made.
pub(super) struct Slot(Mutex<State>);

enum State {
    Starting {
        head: Vec<u8>,
        answer: Box<dyn Answer>,
        /// The body is complete.
        ended: bool,
        /// Somebody was told that there is no room.
        waits: bool,
    },
    Running(Weak<Instance>, u64),
    Cancelled,
}

impl Slot {
    pub(super) fn starting(head: &[u8], answer: Box<dyn Answer>) -> Arc<Self> {
        let state = State::Starting { head: head.to_vec(), answer, ended: false, waits: false };
        Arc::new(Slot(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    /// The machine is there. Returns false if nobody wants it any more.
    pub(super) fn begin(&self, instance: &Arc<Instance>) -> bool {
        let mut state = self.state();
        let State::Starting { head, mut answer, ended, waits } =
            std::mem::replace(&mut *state, State::Cancelled)
        else {
            return false;
        };
        if waits {
            answer.writable();
        }
        let number = instance.begin(&head, answer);
        *state = State::Running(Arc::downgrade(instance), number);
        drop(state);
        if ended {
            instance.device.finish(number, true);
        }
        true
    }

    /// There will be no machine.
    pub(super) fn fail(&self, failure: super::Failure) {
        let state = std::mem::replace(&mut *self.state(), State::Cancelled);
        if let State::Starting { mut answer, .. } = state {
            answer.failed(failure);
        }
    }
}

impl Call {
    pub(super) fn running(instance: &Arc<Instance>, number: u64) -> Self {
        Call { place: Place::Running(Arc::downgrade(instance), number), complete: false }
    }

    pub(super) fn starting(slot: Arc<Slot>) -> Self {
        Call { place: Place::Slot(slot), complete: false }
    }

    /// Where the request is, once it is somewhere.
    fn instance(&self) -> Option<(Arc<Instance>, u64)> {
        match &self.place {
            Place::Running(instance, number) => Some((instance.upgrade()?, *number)),
            Place::Slot(slot) => match &*slot.state() {
                State::Running(instance, number) => Some((instance.upgrade()?, *number)),
                _ => None,
            },
        }
    }

    /// Whether no virtual machine was waiting: one had to be made.
    pub fn is_cold(&self) -> bool {
        matches!(self.place, Place::Slot(_))
    }

    /// Sends some of the request's body. Returns how many bytes were taken; when
    /// it is fewer than given, [`Answer::writable`] says when to go on.
    pub fn send(&self, body: &[u8]) -> usize {
        if let Place::Slot(slot) = &self.place
            && let State::Starting { waits, .. } = &mut *slot.state()
        {
            *waits = true;
            return 0;
        }
        self.instance().map_or(body.len(), |(instance, number)| instance.device.send(number, body))
    }

    /// The request's body is complete.
    pub fn end(&mut self) {
        self.complete = true;
        if let Place::Slot(slot) = &self.place
            && let State::Starting { ended, .. } = &mut *slot.state()
        {
            *ended = true;
            return;
        }
        if let Some((instance, number)) = self.instance() {
            instance.device.finish(number, true);
        }
    }

    /// There is room for more of the answer, after [`Answer::body`] took fewer bytes than given.
    pub fn resume(&self) {
        if let Some((instance, number)) = self.instance() {
            instance.resume(number);
        }
    }

    /// Processor time that the guest has used for this request.
    pub fn cpu_time(&self) -> Option<std::time::Duration> {
        let (instance, number) = self.instance()?;
        instance.cpu_time(number)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Place::Slot(slot) = &self.place {
            let mut state = slot.state();
            if matches!(*state, State::Starting { .. }) {
                *state = State::Cancelled;
                return;
            }
        }
        if let Some((instance, number)) = self.instance() {
            instance.abandon(number);
        }
    }
}
