//! The back end of a share: requests from the ring to the threads, outcomes back.
//!
//! # What a guest can do to it
//!
//! A request is only taken when there is room for its response, so a guest that never fetches responses stops its own share, and nothing
//! else. One call of `poll` takes [`POLL_TIME`] and one round at most; a storm of doorbells costs one such call each. Indices that make no
//! sense end the guest.
#![forbid(unsafe_code)]

use super::back_end::ENTRIES;
use super::job::Job;
use super::workers::{Outcome, Workers};
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
/// After this long, the reactor calls other sources.
const POLL_TIME: Duration = Duration::from_micros(100);

const DOORBELL: u32 = 0;
const OUTCOMES: u32 = 1;

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
        loop {
            self.workers.complete(&mut self.done);
            let taken = self.take()?;
            let answered = self.answer()?;
            if !taken && !answered {
                if self.arm()? {
                    return Ok(None);
                }
                continue;
            }
            let time = Instant::now();
            if time.duration_since(now) >= POLL_TIME {
                return Ok(Some(time));
            }
        }
    }

    /// Takes requests off the ring, as many as there is room for, and hands them to the threads.
    fn take(&mut self) -> Result<bool, Violation> {
        let owed = self.workers.in_flight() + self.done.len();
        let room = (self.ring.responses.room()? as usize).saturating_sub(owed);
        let mut requests = [ShareRequest::default(); ROUND];
        let limit = room.min(self.workers.room()).min(ROUND);
        let count = self.ring.requests.pop(&mut requests[..limit])?;
        for request in &requests[..count] {
            match Job::new(request, &self.config, &self.memory) {
                Ok(job) => self.workers.submit(request.id, job),
                Err(errno) => self.done.push(Outcome { id: request.id, result: Err(errno) }),
            }
        }
        Ok(count > 0)
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
        let owed = self.workers.in_flight() as u32;
        if self.workers.has_news() {
            return Ok(false);
        }
        if self.workers.room() == 0 {
            // Requests wait for a job to end, whose outcome is news.
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
        self.workers.in_flight() == 0
    }

    fn settle_ring(&mut self) -> Result<bool, Violation> {
        self.workers.complete(&mut self.done);
        self.answer()?;
        Ok(self.workers.in_flight() == 0)
    }
}

fn response(outcome: Outcome) -> ShareResponse {
    let (status, value) =
        outcome.result.map_or_else(|errno: Errno| (errno.to_status(), 0), |value| (0, value));
    ShareResponse { id: outcome.id, status, reserved: 0, value }
}

impl Source for ShareDevice {
    fn start(&mut self, io: Registrar) -> io::Result<()> {
        io.register(&mut SourceFd(&self.doorbell.as_raw_fd()), DOORBELL, Interest::READABLE)?;
        io.register(&mut SourceFd(&self.workers.as_raw_fd()), OUTCOMES, Interest::READABLE)
    }

    fn ready(&mut self, key: u32, _event: &Event) {
        match key {
            DOORBELL => drop(self.doorbell.read()),
            _ => self.workers.acknowledge(),
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
                self.workers.share().clear();
                true
            }
            _ => false,
        }
    }
}
