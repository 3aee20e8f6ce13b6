//! The back end of a block device: requests from the ring to the engine, outcomes back.
//!
//! # How it keeps up
//!
//! While there is work, the device looks at the ring by itself and the guest
//! rings no doorbell. A *round* takes what waits (up to [`ROUND_REQUESTS`] and
//! [`ROUND_BYTES`]), enters the kernel once, publishes all outcomes at once and
//! notifies the guest at most once. When a round finds nothing, the device
//! looks on for a few microseconds, if that has paid lately ([`MAX_SPIN`](crate::device::spin::MAX_SPIN)),
//! arms the doorbell and goes back to the reactor.
//!
//! # What a guest can do to it
//!
//! A request is only taken when there is room for its response, so a guest that
//! never fetches responses stops its own disk, and nothing else. One call of
//! `poll` takes [`POLL_TIME`] and one round at most; a storm of doorbells costs
//! one such call each. Indices that make no sense end the guest.
#![forbid(unsafe_code)]

mod here;

use super::disk::{Disk, UnansweredCount, UnansweredGuard};
use super::engine::{self, Completion, DiskEngine, EngineError, EngineKind};
use super::request::{Plan, validate};
use crate::device::Ring;
use crate::device::spin::{self, Spin};
use crate::memory::{GuestMemory, RingMemory};
use crate::reactor::{Registrar, Source};
use hv_abi::io::block::{BlockConfig, BlockRequest, BlockResponse};
use hv_abi::ring::{Back, Violation};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Most requests of one round. Few enough that the guest works on the
/// responses of one round while the host works on the next.
pub const ROUND_REQUESTS: usize = 16;
/// A round takes no further request once it moves this many bytes. What is in the page cache is copied while the round goes
/// on, some 50 µs then, in which no other guest is served.
pub const ROUND_BYTES: u64 = 256 << 10;
/// After this long, the reactor calls other sources.
pub const POLL_TIME: Duration = Duration::from_micros(100);
/// When to try again what the host could not take.
const RETRY: Duration = Duration::from_millis(1);

const DOORBELL: u32 = 0;
const ENGINE: u32 = 1;

/// What a block device is made of.
pub struct Parts {
    /// Counts the guest's block devices from 0; it names the device in reports.
    pub index: u32,
    /// The ring, of [`BlockRequest`]s and [`BlockResponse`]s.
    pub ring: Ring,
    /// Entries of its request queue: how many requests may be in flight.
    pub entries: u32,
    /// What the guest rings; nonblocking.
    pub doorbell: EventFd,
    /// The disk.
    pub disk: Disk,
    /// How to work on it.
    pub engine: EngineKind,
    /// Longest time to poll for further requests before sleeping, usually [`MAX_SPIN`](crate::device::spin::MAX_SPIN); zero on a host
    /// without an idle core.
    pub spin: Duration,
}

/// A block device, to be driven by the reactor. Dropping it waits for the
/// requests that the kernel is working on; once it has been [closed](Source::close), there are none.
pub struct BlockDevice {
    name: String,
    config: BlockConfig,
    memory: Arc<GuestMemory>,
    ring: Back<RingMemory, BlockRequest, BlockResponse>,
    /// Where the ring is, and the way back to the guest.
    place: Ring,
    doorbell: EventFd,
    engine: Box<dyn DiskEngine>,
    disk: Arc<Disk>,
    /// What is in the host's memory can be read from the disk without waiting.
    reads_now: bool,
    /// No further requests are to be taken.
    is_settling: bool,
    unanswered: Arc<UnansweredCount>,
    /// Its guest has ended, and the kernel has not finished its requests.
    unanswered_guard: Option<UnansweredGuard>,
    /// Requests that were taken and not submitted: `taken[next..]`.
    taken: Vec<BlockRequest>,
    next: usize,
    /// Outcomes of the round.
    done: Vec<Completion>,
    responses: Vec<BlockResponse>,
    spin: Spin,
    /// The guest broke the protocol.
    dead: bool,
}

/// Why there is no block device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// Its engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ring was broken when it was left.
    #[error("its ring was broken when it was saved: {0}")]
    Ring(#[from] Violation),
}

/// The result of a round.
struct Round {
    /// Requests were taken or outcomes published.
    moved: bool,
    /// The host could not take everything.
    stalled: bool,
}

impl BlockDevice {
    /// A device over a ring. Its doorbell is armed.
    ///
    /// # Errors
    ///
    /// If the host refuses the engine, or the ring of a guest that was saved is broken.
    pub fn new(parts: Parts) -> Result<Self, BlockError> {
        let config = parts.disk.config();
        let counters = parts.ring.counters.clone();
        let disk = Arc::new(parts.disk);
        let mut device = BlockDevice {
            name: format!("block device {}", parts.index),
            config,
            memory: parts.ring.memory.memory().clone(),
            ring: parts.ring.back()?,
            place: parts.ring,
            doorbell: parts.doorbell,
            unanswered: disk.unanswered().clone(),
            unanswered_guard: None,
            engine: engine::open(disk.clone(), parts.entries, parts.engine, &counters)?,
            reads_now: disk.reads_now(),
            is_settling: false,
            disk,
            taken: Vec::with_capacity(ROUND_REQUESTS),
            next: 0,
            done: Vec::new(),
            responses: Vec::new(),
            spin: Spin::new(parts.spin),
            dead: false,
        };
        // The result does not matter: the first poll looks at the ring anyway.
        if let Err(violation) = device.ring.requests.wait_for_entries() {
            device.broken(violation);
        }
        Ok(device)
    }

    /// What the guest is told about it.
    pub fn config(&self) -> BlockConfig {
        self.config
    }

    /// Number of requests that were taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.waiting() + self.engine.in_flight()
    }

    fn waiting(&self) -> usize {
        self.taken.len() - self.next
    }

    fn broken(&mut self, violation: Violation) {
        self.dead = true;
        self.place.channel.violation(&self.name, violation);
    }

    /// Frees requests that have ended, without an answer to the guest.
    fn discard_completed(&mut self) {
        let _ = self.engine.kick();
        self.engine.complete(&mut self.done);
        self.done.clear();
    }

    /// Works until there is nothing to do or time is up.
    fn serve(&mut self, now: Instant) -> Result<Option<Instant>, Violation> {
        let mut worked = false;
        loop {
            let round = self.round()?;
            if round.stalled {
                return Ok(Some(Instant::now() + RETRY));
            }
            let mut time = Instant::now();
            if round.moved {
                if !worked {
                    worked = true;
                    self.spin.works(now);
                    self.ring.requests.suppress_events();
                }
                if time.duration_since(now) >= POLL_TIME {
                    return Ok(Some(time));
                }
                continue;
            }
            if worked && self.look(&mut time)? {
                if time.duration_since(now) >= POLL_TIME {
                    return Ok(Some(time));
                }
                continue;
            }
            if self.arm()? {
                if worked {
                    self.spin.sleeps(time);
                }
                return Ok(None);
            }
        }
    }

    /// One round; see the module.
    fn round(&mut self) -> Result<Round, Violation> {
        self.engine.complete(&mut self.done);
        let taken = self.take()?;
        self.submit();
        let kicked = self.engine.kick();
        self.engine.complete(&mut self.done);
        let answered = self.answer()?;
        Ok(Round { moved: taken || answered, stalled: !kicked })
    }

    /// Takes requests off the ring, once all that were taken before are submitted.
    fn take(&mut self) -> Result<bool, Violation> {
        if self.waiting() > 0 {
            return Ok(true);
        }
        let owed = self.engine.in_flight() + self.done.len();
        let room = (self.ring.responses.room()? as usize).saturating_sub(owed);
        let limit = room.min(self.engine.room()).min(ROUND_REQUESTS);
        self.next = 0;
        self.taken.resize(limit, BlockRequest::default());
        let count = self.ring.requests.pop(&mut self.taken)?;
        self.taken.truncate(count);
        Ok(count > 0)
    }

    /// Validates and submits what was taken, until the round moves enough bytes.
    fn submit(&mut self) {
        let (mut bytes, mut reads, mut read, mut others) = (0, 0, 0, 0);
        while self.next < self.taken.len() && bytes < ROUND_BYTES && self.engine.room() > 0 {
            let request = &self.taken[self.next];
            self.next += 1;
            match validate(request, &self.config, &self.memory) {
                Ok(plan) => {
                    bytes += plan.bytes();
                    match plan {
                        Plan::Read(_) => (reads, read) = (reads + 1, read + plan.bytes()),
                        _ => others += 1,
                    }
                    self.engine.submit(plan, request.id);
                }
                Err(errno) => self.done.push(Completion { token: request.id, result: Err(errno) }),
            }
        }
        if reads + others > 0 {
            self.place.counters.went_in(reads, read);
            self.place.counters.went_out(others, bytes - read);
        }
    }

    /// Publishes the outcomes, and gives the slots of requests back.
    fn answer(&mut self) -> Result<bool, Violation> {
        let mut notify = self.ring.requests.release();
        let answered = !self.done.is_empty();
        if answered {
            self.responses.clear();
            self.responses.extend(self.done.drain(..).map(|completion| BlockResponse {
                id: completion.token,
                status: completion.result.map_or_else(hv_abi::Errno::to_status, |()| 0),
                reserved: 0,
            }));
            let pushed = self.ring.responses.push(&self.responses)?;
            debug_assert_eq!(pushed, self.responses.len(), "requests are taken only with room for responses");
            notify |= self.ring.responses.publish();
        }
        if notify {
            self.place.channel.notify();
        }
        Ok(answered)
    }

    /// Polls for further work for a limited time.
    fn look(&mut self, time: &mut Instant) -> Result<bool, Violation> {
        spin::look(self.spin.limit(), time, || Ok(self.engine.has_news() || self.can_take()?))
    }

    /// Whether a request waits that there is room for.
    fn can_take(&mut self) -> Result<bool, Violation> {
        Ok(self.engine.room() > 0
            && self.ring.requests.available()? > 0
            && self.ring.responses.room()? as usize > self.engine.in_flight())
    }

    /// Arms the doorbell for what the device waits for; false if that is there by now.
    fn arm(&mut self) -> Result<bool, Violation> {
        let owed = self.engine.in_flight() as u32;
        if self.engine.has_news() {
            return Ok(false);
        }
        if self.engine.room() == 0 {
            // Requests wait for free slots; an outcome frees one.
            self.ring.requests.suppress_events();
            return Ok(true);
        }
        if self.ring.responses.room()? > owed {
            return Ok(!self.ring.requests.wait_for_entries()?);
        }
        self.ring.requests.suppress_events();
        Ok(!self.ring.responses.wait_for_room(owed + 1)?)
    }
}

impl BlockDevice {
    /// Works on what was taken, and takes nothing more. Returns whether all of it is answered.
    fn settle(&mut self) -> Result<bool, Violation> {
        self.submit();
        let _ = self.engine.kick();
        self.engine.complete(&mut self.done);
        self.answer()?;
        Ok(self.in_flight() == 0)
    }
}

impl Source for BlockDevice {
    fn settle(&mut self) -> bool {
        if !self.dead {
            match BlockDevice::settle(self) {
                Ok(settled) => return settled,
                Err(violation) => self.broken(violation),
            }
        }
        // The guest gets no answer, but the kernel may still be writing to its memory.
        self.discard_completed();
        self.engine.in_flight() == 0
    }

    fn close(&mut self) -> bool {
        self.dead = true;
        self.engine.close();
        self.discard_completed();
        let over = self.engine.in_flight() == 0;
        if !over && self.unanswered_guard.is_none() {
            self.unanswered_guard = Some(self.unanswered.add());
        }
        over
    }

    fn reset(&mut self) -> bool {
        self.place.fresh = false;
        match self.place.back() {
            Ok(ring) if !self.dead && self.in_flight() == 0 => {
                self.ring = ring;
                if let Some(overlay) = self.disk.overlay() {
                    overlay.clear();
                }
                true
            }
            _ => false,
        }
    }

    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.doorbell.as_raw_fd()), DOORBELL, Interest::READABLE)?;
        if let Some(other) = self.engine.other_descriptor() {
            io.register(&mut SourceFd(&other), ENGINE, Interest::READABLE)?;
        }
        io.register(&mut SourceFd(&self.engine.as_raw_fd()), ENGINE, Interest::READABLE)
    }

    fn ready(&mut self, key: u32, _event: &Event) {
        match key {
            DOORBELL => drop(self.doorbell.read()),
            _ => self.engine.acknowledge(),
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Instant> {
        if self.dead {
            self.discard_completed();
            return None;
        }
        match self.serve(now) {
            Ok(next) => next,
            Err(violation) => {
                self.broken(violation);
                None
            }
        }
    }
}
