//! The back end of a share: requests from the ring to the threads, outcomes back.
//!
//! What the host has in its memory (attributes, names, data of files that were used lately) is answered without another thread: on the
//! guest's own, if it rings and waits, or on the I/O thread. The kernel is asked in ways in which it never waits for a file system.
//!
//! # What a guest can do to it
//!
//! A request is only taken when there is room for its response, so a guest that never fetches responses stops its own share, and nothing
//! else. One call of `poll` takes [`POLL_TIME`] and one round at most, which moves [`ROUND_BYTES`] itself; a storm of doorbells costs one such
//! call each. Indices that make no sense end the guest.
#![forbid(unsafe_code)]

use super::back_end::ENTRIES;
use super::job::Job;
use super::waiting::ChangeRequests;
use super::workers::{Outcome, Workers};
use crate::device::spin::{self, MAX_SPIN, Spin};
use crate::device::two_threads::QuickDevice;
use crate::device::{ConnectError, Ring};
use crate::memory::{GuestMemory, RingMemory};
use crate::reactor::{Registrar, Source};
use hv_abi::Errno;
use hv_abi::io::share::{ShareConfig, ShareRequest, ShareResponse};
use hv_abi::ring::{Back, Violation};
use hv_share::Share;
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Most requests of one round.
const ROUND: usize = 16;
/// Most bytes that a round reads itself, some 30 µs; more is read by threads.
const ROUND_BYTES: u64 = 256 << 10;
/// Most requests at a time that the guest's own thread works on. They take some 4 µs each, and the guest waits for them.
const FEW: u32 = 32;
/// Most bytes that it reads, some 100 µs.
const FEW_BYTES: u64 = 1 << 20;
/// After this long, the reactor calls other sources.
const POLL_TIME: Duration = Duration::from_micros(100);

const DOORBELL: u32 = 0;
const OUTCOMES: u32 = 1;
const CHANGES: u32 = 2;

/// A share, to be driven by the reactor. Dropping it waits for what is under way; once it has been [closed](Source::close), nothing is.
pub(super) struct ShareDevice {
    name: String,
    config: ShareConfig,
    memory: Arc<GuestMemory>,
    ring: Back<RingMemory, ShareRequest, ShareResponse>,
    /// Where the ring is, and the way back to the guest.
    place: Ring,
    doorbell: EventFd,
    workers: Workers,
    changes: ChangeRequests,
    spin: Spin,
    /// No further requests are to be taken.
    is_settling: bool,
    done: Vec<Outcome>,
    /// The guest broke the protocol.
    dead: bool,
}

impl ShareDevice {
    /// A device over a ring. Its doorbell is armed.
    pub(super) fn new(
        index: u32,
        place: Ring,
        doorbell: EventFd,
        share: Share,
    ) -> Result<Self, ConnectError> {
        let config = share.folder().config();
        let workers = Workers::new(share, ENTRIES, place.counters.clone()).map_err(ConnectError::Doorbell)?;
        let mut device = ShareDevice {
            name: format!("share {index}"),
            config,
            memory: place.memory.memory().clone(),
            ring: place.back()?,
            place,
            doorbell,
            workers,
            changes: ChangeRequests::default(),
            spin: Spin::new(MAX_SPIN),
            is_settling: false,
            done: Vec::new(),
            dead: false,
        };
        // The result does not matter: the first poll looks at the ring anyway.
        if let Err(violation) = device.ring.requests.wait_for_entries() {
            device.broken(violation);
        }
        Ok(device)
    }

    fn broken(&mut self, violation: Violation) {
        self.dead = true;
        self.place.channel.violation(&self.name, violation);
    }

    /// Works until there is nothing to do, or time is up.
    fn serve(&mut self, now: Instant) -> Result<Option<Instant>, Violation> {
        let mut worked = false;
        loop {
            self.workers.complete(&mut self.done);
            let taken = self.take(&mut { ROUND_BYTES })?;
            let more = self.changes.look(self.workers.share(), CHANGES, &mut self.done);
            let moved = self.answer()? || taken || more;
            let mut time = Instant::now();
            if moved && !worked {
                worked = true;
                self.spin.works(now);
                self.ring.requests.suppress_events();
            }
            if moved || worked && self.look(&mut time)? {
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

    /// Polls for further work for a limited time.
    fn look(&mut self, time: &mut Instant) -> Result<bool, Violation> {
        spin::look(self.spin.limit(), time, || {
            let can_take = self.workers.room() > 0
                && self.ring.requests.available()? > 0
                && self.ring.responses.room()? as usize > self.owed();
            Ok(can_take || self.workers.has_news())
        })
    }

    /// Takes requests off the ring, as many as there is room for. Answers those that need no wait, reading so many bytes at most, and hands the others
    /// to the threads.
    fn take(&mut self, bytes: &mut u64) -> Result<bool, Violation> {
        let owed = self.owed() + self.done.len();
        let room = (self.ring.responses.room()? as usize).saturating_sub(owed);
        let mut requests = [ShareRequest::default(); ROUND];
        let limit = room.min(self.workers.room()).min(ROUND);
        let count = self.ring.requests.pop(&mut requests[..limit])?;
        for request in &requests[..count] {
            let job = Job::new(request, &self.config, &self.memory);
            match job.and_then(|job| job.begin(self.workers.share())) {
                Ok(Job::Changes { handle, now, to }) => {
                    if let Err(errno) = self.changes.push(request.id, handle, now, to) {
                        self.done.push(Outcome { id: request.id, result: Err(errno) });
                    }
                }
                Ok(job) => match self.try_now(&job, bytes) {
                    Some(result) => self.done.push(Outcome { id: request.id, result }),
                    None => self.workers.submit(request.id, job),
                },
                Err(errno) => self.done.push(Outcome { id: request.id, result: Err(errno) }),
            }
        }
        Ok(count > 0)
    }

    /// Requests that were taken and are not answered.
    fn owed(&self) -> usize {
        self.workers.in_flight() + self.changes.len()
    }

    fn try_now(&self, job: &Job, bytes: &mut u64) -> Option<Result<u64, Errno>> {
        if !hv_jail::looks_up_paths() {
            return None;
        }
        let result = job.try_now(self.workers.share(), bytes)?;
        job.direction().count(result, &self.place.counters);
        Some(result)
    }

    /// Publishes the outcomes, and gives the slots of requests back.
    fn answer(&mut self) -> Result<bool, Violation> {
        let mut notify = self.ring.requests.release();
        let answered = !self.done.is_empty();
        if answered {
            let responses: Vec<_> = self.done.drain(..).map(response).collect();
            let pushed = self.ring.responses.push(&responses)?;
            debug_assert_eq!(pushed, responses.len(), "requests are taken only with room for responses");
            notify |= self.ring.responses.publish();
        }
        if notify {
            self.place.channel.notify();
        }
        Ok(answered)
    }

    /// Arms the doorbell for what the device waits for; false if that is there by now.
    fn arm(&mut self) -> Result<bool, Violation> {
        let owed = self.owed() as u32;
        if self.workers.has_news() {
            return Ok(false);
        }
        if self.workers.room() == 0 || owed >= ENTRIES {
            // Requests wait for a job to end, whose outcome is news, or for a change.
            self.ring.requests.suppress_events();
            return Ok(true);
        }
        if self.ring.responses.room()? > owed {
            return Ok(!self.ring.requests.wait_for_entries()?);
        }
        self.ring.requests.suppress_events();
        Ok(!self.ring.responses.wait_for_room(owed + 1)?)
    }

    /// Frees what has ended, without an answer to the guest. Returns whether nothing is under way.
    fn discard_completed(&mut self) -> bool {
        self.workers.complete(&mut self.done);
        self.done.clear();
        self.changes.clear();
        self.workers.in_flight() == 0
    }

    fn settle_ring(&mut self) -> Result<bool, Violation> {
        self.workers.complete(&mut self.done);
        self.changes.finish(&mut self.done);
        self.answer()?;
        Ok(self.workers.in_flight() == 0)
    }
}

fn response(outcome: Outcome) -> ShareResponse {
    let (status, value) =
        outcome.result.map_or_else(|errno: Errno| (errno.to_status(), 0), |value| (0, value));
    ShareResponse { id: outcome.id, status, reserved: 0, value }
}

impl QuickDevice for ShareDevice {
    /// What has to wait is begun here as well: the threads then call the I/O thread.
    fn serve_here(&mut self) -> Result<bool, Violation> {
        if self.dead || self.is_settling {
            return Ok(false);
        }
        let mut bytes = FEW_BYTES;
        // More than once for what came after the first look and rang no doorbell.
        for _ in 0..4 {
            if self.ring.requests.available()? > FEW {
                return Ok(false);
            }
            self.take(&mut bytes)?;
            self.answer()?;
            if self.arm()? {
                // Changes are looked for by the I/O thread, and so is what else it has to answer.
                return Ok(self.changes.len() == 0);
            }
        }
        Ok(false)
    }

    fn broken(&mut self, violation: Violation) {
        ShareDevice::broken(self, violation);
    }

    fn settles(&mut self, settles: bool) {
        self.is_settling = settles;
    }
}

impl Source for ShareDevice {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.doorbell.as_raw_fd()), DOORBELL, Interest::READABLE)?;
        io.register(&mut SourceFd(&self.workers.as_raw_fd()), OUTCOMES, Interest::READABLE)?;
        self.changes.start(io);
        Ok(())
    }

    fn ready(&mut self, key: u32, _event: &Event) {
        match key {
            DOORBELL => drop(self.doorbell.read()),
            OUTCOMES => self.workers.acknowledge(),
            // They are read by `poll`.
            _ => {}
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

    fn settle(&mut self) -> bool {
        if !self.dead {
            match self.settle_ring() {
                Ok(settled) => return settled,
                Err(violation) => self.broken(violation),
            }
        }
        self.discard_completed()
    }

    fn close(&mut self) -> bool {
        self.dead = true;
        self.workers.close();
        self.discard_completed()
    }

    fn reset(&mut self) -> bool {
        self.place.fresh = false;
        match self.place.back() {
            Ok(ring) if !self.dead && self.workers.in_flight() == 0 => {
                self.ring = ring;
                self.changes.clear();
                self.workers.share().clear();
                true
            }
            _ => false,
        }
    }
}
