//! A plan being carried out: which system call comes next, and what its result means.
//!
//! Both engines run the same jobs; they only differ in how they make a step.
#![forbid(unsafe_code)]

use super::super::buffers::AlignedBuffer;
use super::super::request::{Plan, Span, Transfer};
use hv_abi::Errno;
use libc::iovec;

/// Bytes that go through a host buffer at a time where guest memory is not
/// aligned for `O_DIRECT`. Each request in flight may have one such buffer.
const BOUNCE: usize = 64 << 10;

/// Times that a step is made again after `EAGAIN` or `EINTR` before the guest is told.
const TRIES: u32 = 1000;

/// The source of zeroes for file systems that cannot make them otherwise.
#[repr(C, align(4096))]
struct Zeroes([u8; 64 << 10]);
static ZEROES: Zeroes = Zeroes([0; 64 << 10]);

/// Memory of one step. Pointers and the slice stay valid, and do not move, until the job is told the step's
/// result or is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Iovecs<'a> {
    One(iovec),
    Many(&'a [iovec]),
}

impl<'a> Iovecs<'a> {
    /// Bytes.
    pub(super) fn len(self) -> u64 {
        match self {
            Iovecs::One(one) => one.iov_len as u64,
            Iovecs::Many(many) => many.iter().map(|piece| piece.iov_len as u64).sum(),
        }
    }

    /// The first bytes, as many as there are up to `len`; with a list of its own in `room`.
    pub(super) fn first(self, len: u64, room: &'a mut Vec<iovec>) -> Iovecs<'a> {
        let many = match self {
            Iovecs::One(one) => {
                return Iovecs::One(iovec { iov_len: one.iov_len.min(len as usize), ..one });
            }
            Iovecs::Many(many) => many,
        };
        let mut left = len as usize;
        room.extend(many.iter().map_while(|&piece| {
            let iov_len = piece.iov_len.min(left);
            left -= iov_len;
            (iov_len > 0).then_some(iovec { iov_len, ..piece })
        }));
        Iovecs::Many(room)
    }
}

/// One system call.
#[derive(Clone, Copy, Debug)]
pub(super) enum IoStep<'a> {
    /// `preadv`
    Read(Iovecs<'a>, u64),
    /// `pwritev`
    Write(Iovecs<'a>, u64),
    /// `fdatasync`
    Sync,
    /// `fallocate` with this mode
    Allocate(i32, Span),
}

impl<'a> IoStep<'a> {
    /// The same with at most `len` bytes, at another offset, of another file.
    pub(super) fn moved_to(self, offset: u64, len: u64, room: &'a mut Vec<iovec>) -> IoStep<'a> {
        match self {
            IoStep::Read(pieces, _) => IoStep::Read(pieces.first(len, room), offset),
            IoStep::Write(pieces, _) => IoStep::Write(pieces.first(len, room), offset),
            other => other,
        }
    }
}

/// Ways to make zeroes, from the best to the one that always works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeroing {
    /// Keeps the blocks allocated, or frees them, as the file system decides.
    Range,
    /// A hole reads as zeroes too.
    Hole,
    /// Plain writes.
    Write,
}

#[derive(Debug)]
enum JobState {
    Read(Transfer, Option<AlignedBuffer>),
    Write(Transfer, Option<AlignedBuffer>),
    Flush,
    Discard(Span),
    Zero(Span, Zeroing),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Job {
    state: JobState,
    tries: u32,
}

pub(super) const HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
pub(super) const RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

impl Job {
    /// The job of a plan on a disk that wants buffers aligned to this.
    pub(super) fn new(plan: Plan, alignment: usize) -> Self {
        let bounce = |transfer: &Transfer| {
            (!transfer.buffers.are_aligned(alignment))
                .then(|| AlignedBuffer::new(BOUNCE.min(transfer.buffers.len() as usize), alignment))
        };
        let state = match plan {
            Plan::Read(transfer) => {
                let bounce = bounce(&transfer);
                JobState::Read(transfer, bounce)
            }
            Plan::Write(transfer) => {
                let bounce = bounce(&transfer);
                JobState::Write(transfer, bounce)
            }
            Plan::Flush => JobState::Flush,
            Plan::Discard(span) => JobState::Discard(span),
            Plan::WriteZeroes(span) => JobState::Zero(span, Zeroing::Range),
        };
        Job { state, tries: 0 }
    }

    /// What is to be done next. The same again if it is asked twice.
    pub(super) fn step(&mut self) -> IoStep<'_> {
        match &mut self.state {
            JobState::Read(transfer, None) => IoStep::Read(direct(transfer), transfer.offset),
            JobState::Write(transfer, None) => IoStep::Write(direct(transfer), transfer.offset),
            JobState::Read(transfer, Some(bounce)) => IoStep::Read(chunk(transfer, bounce), transfer.offset),
            JobState::Write(transfer, Some(bounce)) => {
                transfer.buffers.copy_to(bounce.as_mut_slice());
                IoStep::Write(chunk(transfer, bounce), transfer.offset)
            }
            JobState::Flush => IoStep::Sync,
            JobState::Discard(span) => IoStep::Allocate(HOLE, *span),
            JobState::Zero(span, Zeroing::Range) => IoStep::Allocate(RANGE, *span),
            JobState::Zero(span, Zeroing::Hole) => IoStep::Allocate(HOLE, *span),
            JobState::Zero(span, Zeroing::Write) => {
                let len = span.len.min(ZEROES.0.len() as u64) as usize;
                // The kernel only reads from the buffer of a write.
                let iov_base = ZEROES.0.as_ptr().cast_mut().cast();
                IoStep::Write(Iovecs::One(iovec { iov_base, iov_len: len }), span.offset)
            }
        }
    }

    /// Copies bytes over what is to be read next, as many as there are. Of a disk without alignment.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if let JobState::Read(transfer, None) = &self.state {
            transfer.buffers.copy_from(bytes);
        }
    }

    /// Copies what is to be written next, as many bytes as there is room for. Of a disk without alignment.
    pub(super) fn get(&self, bytes: &mut [u8]) {
        if let JobState::Write(transfer, None) = &self.state {
            transfer.buffers.copy_to(bytes);
        }
    }

    /// Takes the result of the step (what the call returned, or `-errno`), and returns the outcome, or `None`
    /// if there is another step to make.
    pub(super) fn done(&mut self, result: i32) -> Option<Result<(), Errno>> {
        let Ok(count) = u32::try_from(result) else { return self.failed(result.wrapping_neg()) };
        self.tries = 0;
        let count = u64::from(count);
        match &mut self.state {
            JobState::Flush | JobState::Discard(_) | JobState::Zero(_, Zeroing::Range | Zeroing::Hole) => {
                Some(Ok(()))
            }
            // The file has become shorter than it was, or the kernel gave up.
            _ if count == 0 => Some(Err(Errno::Io)),
            JobState::Read(transfer, bounce) => {
                if let Some(bounce) = bounce {
                    let count = (count as usize).min(bounce.as_slice().len());
                    transfer.buffers.copy_from(&bounce.as_slice()[..count]);
                }
                transfer.moved(count)
            }
            JobState::Write(transfer, _) => transfer.moved(count),
            JobState::Zero(span, Zeroing::Write) => {
                let count = count.min(span.len);
                *span = Span { offset: span.offset + count, len: span.len - count };
                (span.len == 0).then_some(Ok(()))
            }
        }
    }

    fn failed(&mut self, errno: i32) -> Option<Result<(), Errno>> {
        match (errno, &mut self.state) {
            (libc::EAGAIN | libc::EINTR, _) => {
                self.tries += 1;
                (self.tries >= TRIES).then_some(Err(Errno::Again))
            }
            // To keep the space is a way to discard it.
            (libc::EOPNOTSUPP, JobState::Discard(_)) => Some(Ok(())),
            (libc::EOPNOTSUPP, JobState::Zero(_, how @ Zeroing::Range)) => {
                *how = Zeroing::Hole;
                None
            }
            (libc::EOPNOTSUPP, JobState::Zero(_, how @ Zeroing::Hole)) => {
                *how = Zeroing::Write;
                None
            }
            (libc::ENOSPC | libc::EDQUOT, _) => Some(Err(Errno::NoSpace)),
            _ => Some(Err(Errno::Io)),
        }
    }
}

impl Transfer {
    fn moved(&mut self, count: u64) -> Option<Result<(), Errno>> {
        self.buffers.advance(count);
        self.offset += count;
        self.buffers.is_empty().then_some(Ok(()))
    }
}

fn direct(transfer: &Transfer) -> Iovecs<'_> {
    match transfer.buffers.iovecs() {
        [one] => Iovecs::One(*one),
        many => Iovecs::Many(many),
    }
}

fn chunk(transfer: &Transfer, bounce: &mut AlignedBuffer) -> Iovecs<'static> {
    let len = transfer.buffers.len().min(bounce.as_slice().len() as u64) as usize;
    Iovecs::One(iovec { iov_base: bounce.as_mut_slice().as_mut_ptr().cast(), iov_len: len })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { offset: 4096, len: 100 << 10 };

    #[test]
    fn zeroes_fall_back_to_a_hole_and_then_to_writing() {
        let mut job = Job::new(Plan::WriteZeroes(SPAN), 1);
        assert!(matches!(job.step(), IoStep::Allocate(RANGE, SPAN)));
        assert_eq!(job.done(-libc::EOPNOTSUPP), None);
        assert!(matches!(job.step(), IoStep::Allocate(HOLE, SPAN)));
        assert_eq!(job.done(-libc::EOPNOTSUPP), None);
        let written = |job: &mut Job| match job.step() {
            IoStep::Write(Iovecs::One(piece), offset) => (offset, piece.iov_len),
            other => panic!("{other:?}"),
        };
        assert_eq!(written(&mut job), (4096, 64 << 10));
        assert_eq!(job.done(60 << 10), None, "a short write goes on");
        assert_eq!(written(&mut job), (64 << 10, 40 << 10));
        assert_eq!(job.done(40 << 10), Some(Ok(())));
    }

    #[test]
    fn a_file_system_without_holes_discards_nothing() {
        assert_eq!(Job::new(Plan::Discard(SPAN), 1).done(-libc::EOPNOTSUPP), Some(Ok(())));
        assert_eq!(Job::new(Plan::Discard(SPAN), 1).done(-libc::EIO), Some(Err(Errno::Io)));
    }

    #[test]
    fn interrupted_steps_are_made_again_but_not_for_ever() {
        let mut job = Job::new(Plan::Flush, 1);
        for _ in 1..TRIES {
            assert_eq!(job.done(-libc::EAGAIN), None);
        }
        assert_eq!(job.done(-libc::EINTR), Some(Err(Errno::Again)));
        assert_eq!(Job::new(Plan::Flush, 1).done(-libc::ENOSPC), Some(Err(Errno::NoSpace)));
        assert_eq!(Job::new(Plan::Flush, 1).done(i32::MIN), Some(Err(Errno::Io)));
    }
}
