//! A request under way, as its sender sees it.

use super::instance::Begun;
use super::{Instance, Progress, RequestUsage};
use hv_core::device::function::Answer;
use std::sync::{Arc, Mutex, MutexGuard};

/// A request that is being answered. Dropping it before the answer is complete
/// cancels it.
pub struct Call {
    target: CallTarget,
    /// A machine was made for it.
    cold: bool,
    complete: bool,
}

enum CallTarget {
    /// In an instance.
    Running(Begun),
    /// Waiting for an instance at first.
    Pending(Arc<PendingCall>),
}

/// A request that waits for a virtual machine that is being made.
pub(super) struct PendingCall(Mutex<PendingState>);

enum PendingState {
    Starting {
        /// Its number.
        request: u64,
        head: Vec<u8>,
        answer: Box<dyn Answer>,
        /// The body is complete.
        ended: bool,
        /// The sender was told that there is no room.
        waits: bool,
    },
    Running(Begun),
    Cancelled,
}

impl PendingCall {
    pub(super) fn starting(request: u64, head: &[u8], answer: Box<dyn Answer>) -> Arc<Self> {
        let state =
            PendingState::Starting { request, head: head.to_vec(), answer, ended: false, waits: false };
        Arc::new(PendingCall(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, PendingState> {
        self.0.lock().expect("no panic while held")
    }

    /// The machine is ready. Returns false if the request was cancelled.
    pub(super) fn begin(&self, instance: &Arc<Instance>) -> bool {
        let mut state = self.state();
        let PendingState::Starting { request, head, mut answer, ended, waits } =
            std::mem::replace(&mut *state, PendingState::Cancelled)
        else {
            return false;
        };
        if waits {
            answer.writable();
        }
        let begun = instance.begin(request, &head, answer);
        let number = begun.exchange;
        *state = PendingState::Running(begun);
        drop(state);
        if ended {
            instance.device.finish(number, true);
        }
        true
    }

    /// Whether it still waits for a machine.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.state(), PendingState::Starting { .. })
    }

    /// There will be no machine.
    pub(super) fn fail(&self, failure: super::Failure) {
        let state = std::mem::replace(&mut *self.state(), PendingState::Cancelled);
        if let PendingState::Starting { mut answer, .. } = state {
            answer.failed(failure);
        }
    }
}

impl Call {
    pub(super) fn running(begun: Begun) -> Self {
        Call { target: CallTarget::Running(begun), cold: false, complete: false }
    }

    /// A machine is being made.
    pub(super) fn starting(pending: Arc<PendingCall>) -> Self {
        Call { target: CallTarget::Pending(pending), cold: true, complete: false }
    }

    /// A machine will be free.
    pub(super) fn waiting(pending: Arc<PendingCall>) -> Self {
        Call { target: CallTarget::Pending(pending), cold: false, complete: false }
    }

    /// The request in its instance, once there is one.
    fn begun(&self) -> Option<Begun> {
        match &self.target {
            CallTarget::Running(begun) => Some(begun.clone()),
            CallTarget::Pending(pending) => match &*pending.state() {
                PendingState::Running(begun) => Some(begun.clone()),
                _ => None,
            },
        }
    }

    /// The instance that answers the request, once there is one.
    fn instance(&self) -> Option<(Arc<Instance>, u64)> {
        let begun = match &self.target {
            CallTarget::Running(begun) => return Some((begun.instance()?, begun.exchange)),
            CallTarget::Pending(_) => self.begun()?,
        };
        Some((begun.instance()?, begun.exchange))
    }

    /// Whether no virtual machine was waiting: one had to be made.
    pub fn is_cold(&self) -> bool {
        self.cold
    }

    /// Sends some of the request's body. Returns how many bytes were taken; when
    /// it is fewer than given, [`Answer::writable`] says when to go on.
    pub fn send(&self, body: &[u8]) -> usize {
        if let CallTarget::Pending(pending) = &self.target
            && let PendingState::Starting { waits, .. } = &mut *pending.state()
        {
            *waits = true;
            return 0;
        }
        self.instance().map_or(body.len(), |(instance, number)| instance.device.send(number, body))
    }

    /// The request's body is complete.
    pub fn end(&mut self) {
        self.complete = true;
        if let CallTarget::Pending(pending) = &self.target
            && let PendingState::Starting { ended, .. } = &mut *pending.state()
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

    /// What becomes of it, once it is in an instance.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        self.begun().map(|begun| begun.progress)
    }

    /// What the guest has used for this request.
    pub fn usage(&self) -> Option<RequestUsage> {
        self.begun()?.usage()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let CallTarget::Pending(pending) = &self.target {
            let mut state = pending.state();
            if matches!(*state, PendingState::Starting { .. }) {
                *state = PendingState::Cancelled;
                return;
            }
        }
        if let Some((instance, number)) = self.instance() {
            instance.abandon(number);
        }
    }
}
