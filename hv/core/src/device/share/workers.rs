//! The threads of a share.
#![forbid(unsafe_code)]

use super::job::Job;
use crate::device::DeviceCounters;
use crossbeam_channel::{Receiver, Sender, bounded};
use hv_abi::Errno;
use hv_host::cpu_clock::CpuClock;
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
use hv_share::Share;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Threads of one share; they start with the first request.
const WORKERS: usize = 4;

/// What a request came to.
pub(super) struct Outcome {
    /// The request's id.
    pub(super) id: u64,
    /// The value of the response.
    pub(super) result: Result<u64, Errno>,
}

/// Threads that carry out jobs, with room for a number of them.
pub(super) struct Workers {
    entries: usize,
    in_flight: usize,
    /// `None` to end the threads.
    jobs: Option<Sender<(u64, Job)>>,
    outcomes: Receiver<Outcome>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
struct Shared {
    share: Share,
    jobs: Receiver<(u64, Job)>,
    outcomes: Sender<Outcome>,
    /// Counts outcomes that were sent.
    event: EventFd,
    counters: Arc<DeviceCounters>,
    /// Outcomes are not needed any more: jobs that have not begun are not done.
    closing: AtomicBool,
}

impl Workers {
    /// Threads for the share. Fails if the host has no more descriptors.
    pub(super) fn new(share: Share, entries: u32, counters: Arc<DeviceCounters>) -> io::Result<Self> {
        let entries = entries as usize;
        let (jobs, waiting) = bounded(entries);
        let (sender, outcomes) = bounded(entries);
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let closing = AtomicBool::new(false);
        let shared = Arc::new(Shared { share, jobs: waiting, outcomes: sender, event, counters, closing });
        Ok(Workers { entries, in_flight: 0, jobs: Some(jobs), outcomes, shared, threads: Vec::new() })
    }

    /// The share.
    pub(super) fn share(&self) -> &Share {
        &self.shared.share
    }

    /// Jobs that can be submitted now.
    pub(super) fn room(&self) -> usize {
        self.entries - self.in_flight
    }

    /// Jobs whose outcome has not been fetched.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes a job. Panics without room.
    pub(super) fn submit(&mut self, id: u64, job: Job) {
        assert!(self.room() > 0, "the caller has looked for room");
        self.in_flight += 1;
        if self.threads.is_empty() {
            self.start();
        }
        let (Some(jobs), false) = (&self.jobs, self.threads.is_empty()) else {
            // Without a thread no later try would succeed either.
            let _ = self.shared.outcomes.send(Outcome { id, result: Err(Errno::Again) });
            let _ = self.shared.event.write(1);
            return;
        };
        // There is room for every job.
        let _ = jobs.send((id, job));
    }

    fn start(&mut self) {
        for index in 0..WORKERS {
            let shared = self.shared.clone();
            match jail::spawn(Kind::Share, format!("share {index}"), move || shared.work()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    let path = escape(&self.share().folder().spec().path).to_string();
                    tracing::warn!("share {path}: cannot start a thread: {error}");
                }
            }
        }
    }

    /// Appends the outcomes that wait.
    pub(super) fn complete(&mut self, done: &mut Vec<Outcome>) {
        let before = done.len();
        done.extend(self.outcomes.try_iter());
        self.in_flight -= done.len() - before;
    }

    /// Whether outcomes wait.
    pub(super) fn has_news(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Takes note that the descriptor was readable.
    pub(super) fn acknowledge(&self) {
        let _ = self.shared.event.read();
    }

    /// Begins no further job.
    pub(super) fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
    }
}

impl AsRawFd for Workers {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }
}

impl Shared {
    fn work(&self) {
        let clock = CpuClock::of_this_thread();
        let mut counted = Duration::ZERO;
        for (id, job) in &self.jobs {
            let result = if self.closing.load(Ordering::Relaxed) { Err(Errno::Io) } else { self.run(job) };
            // Before the outcome: who has that finds the time counted.
            let used = clock.read();
            self.counters.worked(used - counted);
            counted = used;
            // Neither can fail while the device exists: there is room for every job, and the counter does not overflow.
            let _ = self.outcomes.send(Outcome { id, result });
            let _ = self.event.write(1);
        }
    }

    fn run(&self, job: Job) -> Result<u64, Errno> {
        let direction = job.direction();
        let result = job.run(&self.share);
        direction.count(result, &self.counters);
        result
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
