//! A device whose guest asks by requests: its ring, and the wakers of those that wait for responses.
#![forbid(unsafe_code)]

mod operation;

pub(crate) use operation::Operation;

use crate::ring::RingMemory;
use crate::{doorbell, event, hypercall, tasks};
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::task::Waker;
use hv_abi::device::RingInfo;
use hv_abi::ring::{Front, Violation};
use hv_abi::{Errno, EventPort};
use spin::{Mutex, MutexGuard, Once};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A request of a device.
pub(crate) trait Request: IntoBytes + Immutable + Copy + Send + 'static {
    /// The answer to it.
    type Response: Response;
    /// What has to stay where it is until the response comes, besides the caller's buffers.
    type Kept: Send;

    /// Gives it its number.
    fn set_id(&mut self, id: u64);
}

/// A response of a device.
pub(crate) trait Response: FromBytes + IntoBytes + Copy + Send + 'static {
    /// The number of its request.
    fn id(&self) -> u64;

    /// 0, or `-errno`.
    fn status(&self) -> i32;
}

/// The front end of one device.
pub(crate) struct RequestQueue<R: Request> {
    port: EventPort,
    depth: usize,
    listening: Once,
    state: Mutex<State<R>>,
}

impl<R: Request> core::fmt::Debug for RequestQueue<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RequestQueue").field("port", &self.port).finish_non_exhaustive()
    }
}

struct State<R: Request> {
    front: Front<RingMemory, R, R::Response>,
    slots: Vec<Slot<R>>,
    free: Vec<u16>,
    /// Wakers of those that found no free slot.
    queued: Vec<Waker>,
    /// The host broke the protocol: all requests fail from now on.
    broken: bool,
}

/// A request in flight, by its id.
struct Slot<R: Request> {
    waker: Option<Waker>,
    /// The response, once it has come.
    response: Option<Result<R::Response, Errno>>,
    /// Kept until the response comes, since the host may still be reading it.
    kept: Option<R::Kept>,
    /// Nobody waits for the response.
    detached: bool,
}

impl<R: Request> Slot<R> {
    fn new(waker: Option<&Waker>, kept: Option<R::Kept>, detached: bool) -> Self {
        Slot { waker: waker.cloned(), response: None, kept, detached }
    }
}

/// Collects responses whenever the device's event comes.
struct QueueListener<R: Request>(&'static RequestQueue<R>);

impl<R: Request> Wake for QueueListener<R> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        event::take_fired(self.0.port);
        self.0.collect();
    }
}

impl<R: Request> RequestQueue<R> {
    /// `None` if the host's description of the ring is invalid.
    pub(crate) fn new(ring: &RingInfo) -> Option<RequestQueue<R>> {
        let (memory, layout) = RingMemory::new::<R, R::Response>(ring)?;
        // Every request in flight has space for its response, so that a request with a slot never waits for the ring.
        let depth = ring.requests.min(ring.responses).min(u16::MAX.into()) as usize;
        let state = State {
            front: Front::new(memory, &layout),
            slots: Vec::new(),
            free: (0..depth as u16).rev().collect(),
            queued: Vec::new(),
            broken: false,
        };
        let (listening, state) = (Once::new(), Mutex::new(state));
        Some(RequestQueue { port: ring.event, depth, listening, state })
    }

    /// Collects responses from now on.
    pub(crate) fn listen(&'static self) {
        self.listening.call_once(|| {
            self.state().slots.resize_with(self.depth, || Slot::new(None, None, false));
            event::register(self.port, &Waker::from(Arc::new(QueueListener(self))));
        });
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock()
    }

    /// How many requests can be in flight at a time.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Hands a request to the host, with an id that is filled in here. `None` if too many are in flight. Then the waker
    /// is woken when a retry can succeed, and `kept` is as it was.
    pub(crate) fn submit(
        &self,
        request: R,
        kept: &mut Option<R::Kept>,
        waker: Option<&Waker>,
    ) -> Result<Option<u16>, Errno> {
        let state = &mut *self.state();
        if state.broken {
            return Err(Errno::Io);
        }
        let Some(id) = state.free.pop() else {
            if waker.is_some() {
                tasks::waits_for_event(self.port);
            }
            state.queued.extend(waker.cloned());
            return Ok(None);
        };
        state.push(self.port, id, request, Slot::new(waker, kept.take(), false))?;
        Ok(Some(id))
    }

    /// Hands over a request whose outcome nobody waits for. Waits, without an executor, while too many are in flight.
    pub(crate) fn submit_detached(&self, request: R) {
        while !self.try_submit_detached(request) {
            self.wait();
        }
    }

    /// Whether that is over: also if the host broke the protocol.
    fn try_submit_detached(&self, request: R) -> bool {
        let state = &mut *self.state();
        if !state.broken && state.free.is_empty() && state.collect(self.port).is_err() {
            state.fail();
        }
        if state.broken {
            return true;
        }
        let Some(id) = state.free.pop() else { return false };
        // An error is that of a broken ring.
        let _ = state.push(self.port, id, request, Slot::new(None, None, true));
        true
    }

    /// The outcome of a request, if it has come. The slot is free afterwards. Otherwise the waker is woken when it comes.
    pub(crate) fn finish(&self, id: u16, waker: Option<&Waker>) -> Option<Result<R::Response, Errno>> {
        let state = &mut *self.state();
        let slot = &mut state.slots[usize::from(id)];
        let Some(response) = slot.response.take() else {
            if waker.is_some() {
                tasks::waits_for_event(self.port);
            }
            match (&mut slot.waker, waker) {
                (Some(old), Some(new)) => old.clone_from(new),
                (old, new) => *old = new.cloned(),
            }
            return None;
        };
        // With a broken ring the host may still write to the slot's buffers. The slot is never used again.
        if !state.broken {
            slot.kept = None;
            state.give_back(id);
        }
        Some(response)
    }

    /// Takes the responses that have arrived, and wakes those that wait for them.
    pub(crate) fn collect(&self) {
        let state = &mut *self.state();
        if let Err(Violation { .. }) = state.collect(self.port) {
            state.fail();
        }
    }

    /// Waits for something to happen on this ring, without an executor.
    pub(crate) fn wait(&self) {
        doorbell::ring();
        event::wait_only(self.port, None);
    }
}

impl<R: Request> State<R> {
    fn push(&mut self, port: EventPort, id: u16, mut request: R, slot: Slot<R>) -> Result<(), Errno> {
        self.slots[usize::from(id)] = slot;
        request.set_id(id.into());
        // There is space: fewer requests than entries are in flight, and the host takes a request off the ring before it answers it.
        match self.front.requests.push(&[request]) {
            Ok(1) => {}
            _ => return Err(self.fail()),
        }
        if self.front.requests.publish() {
            doorbell::ring_soon(port);
        }
        Ok(())
    }

    fn give_back(&mut self, id: u16) {
        self.free.push(id);
        self.queued.drain(..).for_each(Waker::wake);
    }

    fn collect(&mut self, port: EventPort) -> Result<(), Violation> {
        loop {
            while let Some(response) = self.front.responses.pop_one()? {
                let Some(slot) = self.slots.get_mut(response.id() as usize) else { continue };
                if slot.detached {
                    slot.detached = false;
                    self.give_back(response.id() as u16);
                    continue;
                }
                slot.response = Some(Errno::check(response.status()).map(|_| response));
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
            if self.front.responses.release() {
                hypercall::event_send(port);
            }
            if !self.front.responses.wait_for_entries()? {
                return Ok(());
            }
        }
    }

    /// Fails all requests permanently: the host's indices are invalid.
    fn fail(&mut self) -> Errno {
        self.broken = true;
        for slot in &mut self.slots {
            slot.response.get_or_insert(Err(Errno::Io));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
        self.queued.drain(..).for_each(Waker::wake);
        Errno::Io
    }
}
