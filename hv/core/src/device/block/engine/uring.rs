//! ⚠ The engine on io_uring.
//!
//! Completions are fetched right after each submission, since reads from the
//! page cache are done by then. For the others, readiness is that of the
//! ring's own descriptor: unlike an eventfd registered with the ring, it is
//! not readable when everything has been fetched already, so the common case
//! costs no wake-up.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. A slot's job is neither dropped nor touched between the submission of
//!    its step and the arrival of that step's completion. A job owns its memory
//!    (bounce buffer, scatter list, a share of the guest's mapping) on the heap.
//! 2. A slot has at most one step in the ring, and the ring has an entry for
//!    every slot: the submission queue never overflows.
#![allow(unsafe_code, reason = "io_uring")]

use super::job::{IoStep, Iovecs, Job};
use super::on_image::{self, Way};
use super::threads::Threads;
use super::{Completion, DiskEngine};
use crate::device::DeviceCounters;
use crate::device::block::disk::Disk;
use crate::device::block::request::Plan;
use hv_disk::Guard;
use hv_host::escape::escape;
use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};
use libc::iovec;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};

/// The index of the disk's own file in the ring's table of files.
const FILE: types::Fixed = types::Fixed(0);

struct JobSlot {
    token: u64,
    job: Option<Job>,
    /// The list of a step on a part of its memory.
    room: Vec<iovec>,
    /// Of the image that the step is on.
    guard: Guard,
}

// SAFETY: the pointers of a list are those of the job beside it, which may be sent: into the guest's mapping, which the job
// keeps, and only for the kernel.
unsafe impl Send for JobSlot {}

/// See the [module](self).
pub(super) struct Uring {
    ring: ManuallyDrop<IoUring>,
    disk: Arc<Disk>,
    /// As many as the ring has entries. Leaked with the ring if the kernel will not end its work.
    slots: ManuallyDrop<Box<[JobSlot]>>,
    free: Vec<u32>,
    /// Steps in the submission queue that the kernel has not taken.
    queued: usize,
    /// A failure that does not pass was logged.
    reported: bool,
    /// Jobs end after the step that they are at.
    closing: bool,
    /// For what does not only move bytes of a file, where the disk is an image.
    threads: Option<Threads>,
    /// Outcomes of what needed no step.
    ready: Vec<Completion>,
}

impl Uring {
    /// A ring for the disk, with this many slots.
    pub(super) fn new(disk: Arc<Disk>, entries: u32, counters: &Arc<DeviceCounters>) -> io::Result<Self> {
        let (ring, _) = ring(entries, &disk.descriptors())?;
        let slot = |_| JobSlot { token: 0, job: None, room: Vec::new(), guard: Guard::default() };
        let slots = (0..entries).map(slot).collect();
        let threads = match disk.chain() {
            Some(_) => Some(Threads::new(disk.clone(), entries, counters.clone())?),
            None => None,
        };
        Ok(Uring {
            ring: ManuallyDrop::new(ring),
            disk,
            slots: ManuallyDrop::new(slots),
            free: (0..entries).rev().collect(),
            queued: 0,
            reported: false,
            closing: false,
            threads,
            ready: Vec::new(),
        })
    }

    /// Queues the next step of a slot's job.
    fn push(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(job) = &mut slot.job else { return };
        let entry = match self.disk.chain() {
            None => entry(job.step(), FILE),
            Some(chain) => loop {
                match on_image::way(&*chain.image, job, u64::MAX) {
                    Way::Move { file, offset, len, guard } => {
                        slot.guard = guard;
                        slot.room.clear();
                        let step = job.step().moved_to(offset, len, &mut slot.room);
                        break entry(step, types::Fixed(file as u32));
                    }
                    Way::Sync => break entry(IoStep::Sync, FILE),
                    Way::Made(result) => match job.done(result) {
                        None => {}
                        Some(result) => {
                            self.ready.push(Completion { token: slot.token, result });
                            slot.job = None;
                            self.free.push(index);
                            return;
                        }
                    },
                    Way::Blocking => {
                        let (token, job) = (slot.token, slot.job.take());
                        self.free.push(index);
                        if let (Some(threads), Some(job)) = (&mut self.threads, job) {
                            threads.submit_job(job, token);
                        }
                        return;
                    }
                }
            },
        };
        let entry = entry.user_data(index.into());
        // SAFETY: the step's memory lives, in its slot, until its completion
        // has arrived (invariant 1); the file is in the ring's own table.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the ring has an entry for every slot (invariant 2)");
        self.queued += 1;
    }

    /// Slots that are taken.
    fn in_ring(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Enters the kernel with what is queued, for `want` completions to come.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        let taken = self.ring.submit_and_wait(want)?;
        self.queued = self.queued.saturating_sub(taken);
        Ok(())
    }

    /// Fetches completions.
    fn reap(&mut self, done: &mut Vec<Completion>) {
        loop {
            let Some(completion) = self.ring.completion().next() else { break };
            let index = completion.user_data() as u32;
            let slot = &mut self.slots[index as usize];
            let Some(job) = &mut slot.job else { continue };
            slot.guard = Guard::default();
            match job.done(completion.result()) {
                None if !self.closing => self.push(index),
                outcome => {
                    slot.job = None;
                    self.free.push(index);
                    done.push(Completion { token: slot.token, result: outcome.unwrap_or(Ok(())) });
                }
            }
        }
    }
}

/// Whether the kernel makes rings. Asked once.
pub(super) fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| IoUring::new(2).is_ok())
}

/// A ring with the files of a disk, and whether the kernel lets it do nothing but an engine's work on them: what is submitted
/// passes no system call filter.
fn ring(entries: u32, files: &[RawFd]) -> io::Result<(IoUring, bool)> {
    let mut builder = IoUring::builder();
    let invalid = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    // A kernel before 5.19 does not know the first two flags, one before 5.10 not the last.
    let made = match builder.setup_coop_taskrun().setup_taskrun_flag().setup_r_disabled().build(entries) {
        Err(error) if invalid(&error) => IoUring::builder().setup_r_disabled().build(entries),
        made => made,
    };
    let (ring, disabled) = match made {
        Err(error) if invalid(&error) => (IoUring::new(entries)?, false),
        made => (made?, true),
    };
    let submitter = ring.submitter();
    submitter.register_files(files)?;
    if disabled {
        submitter.register_restrictions(&mut restrictions())?;
        submitter.register_enable_rings()?;
    }
    Ok((ring, disabled))
}

/// The operations of [`entry`], on registered files only; and giving these back.
fn restrictions() -> [Restriction; 9] {
    /// `IORING_UNREGISTER_FILES`
    const UNREGISTER_FILES: u8 = 3;
    let fixed = squeue::Flags::FIXED_FILE.bits();
    [
        Restriction::register_op(UNREGISTER_FILES),
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_op(opcode::Fallocate::CODE),
        Restriction::sqe_flags_allowed(fixed),
        Restriction::sqe_flags_required(fixed),
    ]
}

fn entry(step: IoStep<'_>, file: types::Fixed) -> squeue::Entry {
    match step {
        IoStep::Read(Iovecs::One(piece), offset) => {
            opcode::Read::new(file, piece.iov_base.cast(), piece.iov_len as u32).offset(offset).build()
        }
        IoStep::Read(Iovecs::Many(pieces), offset) => {
            opcode::Readv::new(file, pieces.as_ptr(), pieces.len() as u32).offset(offset).build()
        }
        IoStep::Write(Iovecs::One(piece), offset) => {
            opcode::Write::new(file, piece.iov_base.cast(), piece.iov_len as u32).offset(offset).build()
        }
        IoStep::Write(Iovecs::Many(pieces), offset) => {
            opcode::Writev::new(file, pieces.as_ptr(), pieces.len() as u32).offset(offset).build()
        }
        IoStep::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        IoStep::Allocate(mode, span) => {
            opcode::Fallocate::new(file, span.len).offset(span.offset).mode(mode).build()
        }
    }
}

impl AsRawFd for Uring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl DiskEngine for Uring {
    fn room(&self) -> usize {
        self.slots.len().saturating_sub(self.in_flight())
    }

    fn in_flight(&self) -> usize {
        let elsewhere = self.threads.as_ref().map_or(0, Threads::in_flight);
        self.in_ring() + elsewhere + self.ready.len()
    }

    fn submit(&mut self, plan: Plan, token: u64) {
        let index = self.free.pop().expect("the caller has looked for room");
        let job = Job::new(plan, self.disk.memory_alignment());
        let slot = &mut self.slots[index as usize];
        (slot.token, slot.job) = (token, Some(job));
        self.push(index);
    }

    fn kick(&mut self) -> bool {
        let submission = self.ring.submission();
        let work = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if self.queued == 0 && !work {
            return true;
        }
        match self.enter(0) {
            Ok(()) => self.queued == 0,
            // Short of memory, or completions have to be fetched first.
            Err(e) if is_passing(&e) => false,
            Err(e) => {
                if !std::mem::replace(&mut self.reported, true) {
                    tracing::error!("disk {}: io_uring_enter: {e}", escape(self.disk.path()));
                }
                false
            }
        }
    }

    fn complete(&mut self, done: &mut Vec<Completion>) {
        self.reap(done);
        done.append(&mut self.ready);
        if let Some(threads) = &mut self.threads {
            threads.complete(done);
        }
    }

    fn has_news(&mut self) -> bool {
        if !self.ready.is_empty() || self.threads.as_mut().is_some_and(Threads::has_news) {
            return true;
        }
        if !self.ring.completion().is_empty() || self.queued > 0 {
            return true;
        }
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    fn acknowledge(&mut self) {
        if let Some(threads) = &mut self.threads {
            threads.acknowledge();
        }
    }

    fn other_descriptor(&self) -> Option<RawFd> {
        self.threads.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn close(&mut self) {
        self.closing = true;
        if let Some(threads) = &mut self.threads {
            threads.close();
        }
    }
}

fn is_passing(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut done = Vec::new();
        self.closing = true;
        while self.in_ring() > 0 {
            self.reap(&mut done);
            done.clear();
            if self.in_ring() == 0 {
                break;
            }
            match self.enter(1) {
                Ok(()) => {}
                Err(e) if is_passing(&e) => std::thread::yield_now(),
                Err(e) => {
                    // The kernel may still write: neither the ring nor the memory of its requests may be
                    // freed.
                    std::mem::forget(self.disk.clone());
                    tracing::error!("disk {}: cannot wait for its requests: {e}", escape(self.disk.path()));
                    return;
                }
            }
        }
        // So that a block device is free at once: the kernel closes the ring some time later.
        let _ = self.ring.submitter().unregister_files();
        // SAFETY: dropped here only, and nothing is in flight: the kernel has
        // no pointer into a slot's memory any more.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_does_nothing_but_work_on_its_file() {
        let file = tempfile::tempfile().unwrap();
        let Ok((mut ring, true)) = ring(4, &[file.as_raw_fd()]) else {
            hv_skip::skip("needs io_uring with restrictions (Linux 5.10)");
            return;
        };
        let mut result = |entry: squeue::Entry| {
            // SAFETY: the entries below point to no memory.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            ring.completion().next().unwrap().result()
        };
        assert_eq!(result(entry(IoStep::Sync, FILE)), 0);
        assert_eq!(result(opcode::Nop::new().build()), -libc::EACCES);
        assert_eq!(result(opcode::Close::new(types::Fd(file.as_raw_fd())).build()), -libc::EACCES);
        let not_registered = opcode::Fsync::new(types::Fd(file.as_raw_fd())).build();
        assert_eq!(result(not_registered), -libc::EACCES);
        assert!(ring.submitter().register_files(&[file.as_raw_fd()]).is_err());
    }
}
