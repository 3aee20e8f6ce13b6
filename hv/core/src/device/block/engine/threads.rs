//! ⚠ The engine on threads, for disks with an overlay, and for hosts whose kernel refuses io_uring.
#![allow(unsafe_code, reason = "`preadv`, `pwritev`, `fallocate` and the like")]

use super::job::{HOLE, IoStep, Iovecs, Job};
use super::on_image::{self, Way};
use super::{Completion, DiskEngine};
use crate::device::DeviceCounters;
use crate::device::block::disk::Disk;
use crate::device::block::overlay::Overlay;
use crate::device::block::request::Plan;
use crossbeam_channel::{Receiver, Sender, bounded};
use hv_abi::Errno;
use hv_host::cpu_clock::CpuClock;
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
use libc::{c_int, iovec, off_t};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Threads of one disk; they start with the first request.
pub(super) const WORKERS: usize = 4;

/// See the [module](self).
pub(super) struct Threads {
    disk: Arc<Disk>,
    entries: usize,
    in_flight: usize,
    /// `None` to end the workers.
    jobs: Option<Sender<(u64, Job)>>,
    outcomes: Receiver<Completion>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What the workers share.
struct Shared {
    disk: Arc<Disk>,
    jobs: Receiver<(u64, Job)>,
    outcomes: Sender<Completion>,
    /// Counts outcomes that were sent.
    event: EventFd,
    counters: Arc<DeviceCounters>,
    /// Outcomes are not needed any more: jobs end after the step that they are at.
    closing: AtomicBool,
}

impl Threads {
    /// Threads for the disk, with this many slots.
    pub(super) fn new(disk: Arc<Disk>, entries: u32, counters: Arc<DeviceCounters>) -> io::Result<Self> {
        let entries = entries as usize;
        let (jobs, waiting) = bounded(entries);
        let (sender, outcomes) = bounded(entries);
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let shared = Arc::new(Shared {
            disk: disk.clone(),
            jobs: waiting,
            outcomes: sender,
            event,
            counters,
            closing: AtomicBool::new(false),
        });
        Ok(Threads { disk, entries, in_flight: 0, jobs: Some(jobs), outcomes, shared, workers: Vec::new() })
    }

    fn start(&mut self) {
        for index in 0..WORKERS.min(self.entries) {
            let shared = self.shared.clone();
            let worker = jail::spawn(Kind::Disk, format!("disk {index}"), move || shared.work());
            match worker {
                Ok(worker) => self.workers.push(worker),
                Err(e) => tracing::warn!("disk {}: cannot start a thread: {e}", escape(self.disk.path())),
            }
        }
    }
}

impl Shared {
    fn work(&self) {
        let clock = CpuClock::of_this_thread();
        let mut counted = Duration::ZERO;
        for (token, job) in &self.jobs {
            let result = self.run(job);
            // Before the outcome: who has that finds the time counted.
            let used = clock.read();
            self.counters.worked(used - counted);
            counted = used;
            // Neither can fail while the engine exists: the queue has room for every slot, and the counter
            // does not overflow.
            let _ = self.outcomes.send(Completion { token, result });
            let _ = self.event.write(1);
        }
        // No more jobs will come: what an image keeps in memory goes to its file, once for all threads.
        if let Some(chain) = self.disk.chain()
            && let Err(error) = chain.image.close()
        {
            tracing::error!("disk {}: what was written last may be lost: {error}", escape(self.disk.path()));
        }
    }

    fn run(&self, mut job: Job) -> Result<(), Errno> {
        loop {
            if self.closing.load(Ordering::Relaxed) {
                return Err(Errno::Io);
            }
            let result = call(&self.disk, &mut job);
            if let Some(outcome) = job.done(result) {
                return outcome;
            }
        }
    }
}

/// Makes a step, and returns what io_uring would: the count, or `-errno`.
fn call(disk: &Disk, job: &mut Job) -> i32 {
    match disk.overlay() {
        None => on_disk(disk, job, u64::MAX),
        Some(overlay) => on_overlay(disk, overlay, job),
    }
}

/// The same where no overlay is asked; of what is read, at most so many bytes.
fn on_disk(disk: &Disk, job: &mut Job, most: u64) -> i32 {
    let mut room = Vec::new();
    let Some(chain) = disk.chain() else {
        return match job.step() {
            IoStep::Read(pieces, offset) => {
                on_file(disk.as_raw_fd(), IoStep::Read(pieces.first(most, &mut room), offset))
            }
            step => on_file(disk.as_raw_fd(), step),
        };
    };
    match on_image::way(&*chain.image, job, most) {
        Way::Move { file, offset, len, guard: _guard } => {
            let file = chain.files[file].shared().as_raw_fd();
            on_file(file, job.step().moved_to(offset, len, &mut room))
        }
        Way::Sync => on_file(disk.as_raw_fd(), IoStep::Sync),
        Way::Made(result) => result,
        Way::Blocking => on_image::step(&*chain.image, job, most),
    }
}

/// The same where writes go to an overlay: the part of the step at its start
/// that one of the two files can do, if not all of it.
fn on_overlay(disk: &Disk, overlay: &Overlay, job: &mut Job) -> i32 {
    // An overlay does not outlive its guest.
    if matches!(job.step(), IoStep::Sync) {
        return 0;
    }
    let top = match overlay.file() {
        Ok(file) => file,
        Err(error) => return -error.raw_os_error().unwrap_or(libc::EIO),
    };
    match job.step() {
        IoStep::Read(pieces, offset) => {
            let (written, len) = overlay.run(offset, pieces.len());
            if !written {
                return on_disk(disk, job, len);
            }
            let mut room = Vec::new();
            on_file(top.as_raw_fd(), IoStep::Read(pieces.first(len, &mut room), offset))
        }
        step @ IoStep::Write(_, offset) => match on_file(top.as_raw_fd(), step) {
            count @ 1.. => match overlay.wrote(offset, count as u64) {
                // Less than a sector does not count.
                0 => -libc::ENOSPC,
                whole => whole as i32,
            },
            failed => failed,
        },
        // A hole that counts as written reads as zeroes.
        IoStep::Allocate(_, span) => match on_file(top.as_raw_fd(), IoStep::Allocate(HOLE, span)) {
            0 => {
                overlay.wrote(span.offset, span.len);
                0
            }
            failed => failed,
        },
        IoStep::Sync => 0,
    }
}

fn on_file(fd: RawFd, step: IoStep<'_>) -> i32 {
    let result = match step {
        IoStep::Read(pieces, offset) => with(pieces, |v, n| {
            // SAFETY: the step's memory lives until its job is told the result,
            // and no Rust reference is made to what the kernel writes.
            unsafe { libc::preadv(fd, v, n, offset as off_t) }
        }),
        IoStep::Write(pieces, offset) => with(pieces, |v, n| {
            // SAFETY: as above; the kernel only reads.
            unsafe { libc::pwritev(fd, v, n, offset as off_t) }
        }),
        // SAFETY: touches no memory.
        IoStep::Sync => unsafe { libc::fdatasync(fd) as isize },
        // SAFETY: touches no memory.
        IoStep::Allocate(mode, span) => unsafe {
            libc::fallocate(fd, mode, span.offset as off_t, span.len as off_t) as isize
        },
    };
    if result >= 0 {
        return result as i32;
    }
    -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn with(pieces: Iovecs<'_>, call: impl FnOnce(*const iovec, c_int) -> isize) -> isize {
    match pieces {
        Iovecs::One(one) => call(&one, 1),
        Iovecs::Many(many) => call(many.as_ptr(), many.len() as c_int),
    }
}

impl AsRawFd for Threads {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }
}

impl DiskEngine for Threads {
    fn room(&self) -> usize {
        self.entries - self.in_flight
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn submit(&mut self, plan: Plan, token: u64) {
        let job = Job::new(plan, self.disk.memory_alignment());
        self.submit_job(job, token);
    }

    fn kick(&mut self) -> bool {
        true
    }

    fn complete(&mut self, done: &mut Vec<Completion>) {
        let before = done.len();
        done.extend(self.outcomes.try_iter());
        self.in_flight -= done.len() - before;
    }

    fn has_news(&mut self) -> bool {
        !self.outcomes.is_empty()
    }

    fn acknowledge(&mut self) {
        let _ = self.shared.event.read();
    }

    fn close(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
    }
}

impl Threads {
    /// Takes a job that may have been begun elsewhere.
    pub(super) fn submit_job(&mut self, job: Job, token: u64) {
        assert!(self.room() > 0, "the caller has looked for room");
        self.in_flight += 1;
        if self.workers.is_empty() {
            self.start();
        }
        if self.workers.is_empty() {
            // Without a thread no later try would succeed either.
            let _ = self.shared.outcomes.send(Completion { token, result: Err(Errno::Again) });
            let _ = self.shared.event.write(1);
            return;
        }
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send((token, job));
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
        self.jobs = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
