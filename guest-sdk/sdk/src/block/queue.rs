//! The ring of a disk, and the wakers of those that wait for its responses.

use crate::ring::RingMemory;
use crate::{doorbell, event, hypercall, tasks};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::task::Waker;
use hv_abi::device::DeviceInfo;
use hv_abi::io::block::{BlockConfig, BlockRequest, BlockResponse, INLINE_SEGMENTS, Segment};
use hv_abi::ring::{Front, Violation};
use hv_abi::{Errno, EventPort, GuestAddr};
use spin::{Mutex, MutexGuard, Once};

/// The front end of one block device.
pub(super) struct RequestQueue {
    config: BlockConfig,
    port: EventPort,
    depth: usize,
    listening: Once,
    state: Mutex<State>,
}

impl core::fmt::Debug for RequestQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RequestQueue")
            .field("config", &self.config)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

struct State {
    front: Front<RingMemory, BlockRequest, BlockResponse>,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Wakers of transfers that found no free slot.
    queued: Vec<Waker>,
    /// The host broke the protocol: all requests fail from now on.
    broken: bool,
}

/// A request in flight, by its id.
#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    /// The response's status, once it has come.
    status: Option<i32>,
    /// The segment list. Kept until the response comes, since the host may still be reading it.
    list: Option<Box<[Segment]>>,
}

/// Collects responses whenever the device's event comes.
struct QueueListener(&'static RequestQueue);

impl Wake for QueueListener {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        event::take_fired(self.0.port);
        self.0.collect();
    }
}

impl RequestQueue {
    /// `None` if the host's description of the device is invalid.
    pub(super) fn new(info: &DeviceInfo, config: BlockConfig) -> Option<RequestQueue> {
        let ring = &info.rings[0];
        if config.sector_size == 0 || config.max_transfer < config.sector_size || config.max_segments == 0 {
            return None;
        }
        let (memory, layout) = RingMemory::new::<BlockRequest, BlockResponse>(ring)?;
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
        Some(RequestQueue { config, port: ring.event, depth, listening, state })
    }

    /// Collects responses from now on.
    pub(super) fn listen(&'static self) {
        self.listening.call_once(|| {
            self.state().slots.resize_with(self.depth, Slot::default);
            event::register(self.port, &Waker::from(Arc::new(QueueListener(self))));
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn config(&self) -> &BlockConfig {
        &self.config
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Hands a request to the host, with an id that is filled in here. `None` if too many are in flight. Then the waker
    /// is woken when a retry can succeed.
    pub(super) fn submit(
        &self,
        mut request: BlockRequest,
        list: &[Segment],
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
        let slot = &mut state.slots[usize::from(id)];
        *slot = Slot { waker: waker.cloned(), status: None, list: None };
        request.id = id.into();
        request.segment_count = list.len() as u16;
        if list.len() <= INLINE_SEGMENTS {
            request.segments[..list.len()].copy_from_slice(list);
        } else {
            let list: &[Segment] = slot.list.insert(list.into());
            let address = GuestAddr(list.as_ptr().expose_provenance() as u64);
            request.segments[0] = Segment { address, len: size_of_val(list) as u32, reserved: 0 };
        }
        // There is space: fewer requests than entries are in flight, and the host takes a request off the ring before it answers it.
        match state.front.requests.push(&[request]) {
            Ok(1) => {}
            _ => return Err(state.fail()),
        }
        if state.front.requests.publish() {
            doorbell::ring_soon(self.port);
        }
        Ok(Some(id))
    }

    /// The outcome of a request, if it has come. The slot is free afterwards. Otherwise the waker is woken when it comes.
    pub(super) fn finish(&self, id: u16, waker: Option<&Waker>) -> Option<Result<(), Errno>> {
        let state = &mut *self.state();
        let slot = &mut state.slots[usize::from(id)];
        let Some(status) = slot.status.take() else {
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
            slot.list = None;
            state.free.push(id);
            state.queued.drain(..).for_each(Waker::wake);
        }
        Some(Errno::check(status).map(drop))
    }

    /// Takes the responses that have arrived, and wakes those that wait for them.
    pub(super) fn collect(&self) {
        let state = &mut *self.state();
        if let Err(Violation { .. }) = state.collect(self.port) {
            state.fail();
        }
    }

    /// Waits for something to happen on this ring, without an executor.
    pub(super) fn wait(&self) {
        doorbell::ring();
        event::wait_only(self.port, None);
    }
}

impl State {
    fn collect(&mut self, port: EventPort) -> Result<(), Violation> {
        loop {
            while let Some(response) = self.front.responses.pop_one()? {
                let Some(slot) = self.slots.get_mut(response.id as usize) else { continue };
                slot.status = Some(response.status);
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
            slot.status.get_or_insert(Errno::Io.to_status());
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
        self.queued.drain(..).for_each(Waker::wake);
        Errno::Io
    }
}
