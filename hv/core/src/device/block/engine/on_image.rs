//! Steps of jobs on disks that are images: those that only move bytes of a file are made as they are, elsewhere in that
//! file; the rest is the image's own work, which blocks.
#![forbid(unsafe_code)]

use super::job::{IoStep, Job, RANGE};
use crate::device::block::request::Span;
use hv_disk::{Access, Guard, Image, Run};
use std::io::{self, ErrorKind};

/// Bytes that go through memory of hv at a time, where clusters are unpacked or get their places.
const COPIED: u64 = 1 << 20;

/// What the next step of a job is about.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Read(Span),
    Write(Span),
    Sync,
    Zero(Span),
    Discard(Span),
}

fn asked(job: &mut Job) -> Asked {
    match job.step() {
        IoStep::Read(pieces, offset) => Asked::Read(Span { offset, len: pieces.len() }),
        IoStep::Write(pieces, offset) => Asked::Write(Span { offset, len: pieces.len() }),
        IoStep::Sync => Asked::Sync,
        IoStep::Allocate(RANGE, span) => Asked::Zero(span),
        IoStep::Allocate(_, span) => Asked::Discard(span),
    }
}

/// How the next step of a job can be made, as far as memory tells.
#[derive(Debug)]
pub(super) enum Way {
    /// By moving so many bytes, at this offset of one of the image's files.
    Move { file: usize, offset: u64, len: u64, guard: Guard },
    /// By syncing the first file.
    Sync,
    /// It has been made, with this result.
    Made(i32),
    /// By [`step`].
    Blocking,
}

/// See [`Way`]. Of what is to be read, at most `most` bytes are looked for.
pub(super) fn way(image: &dyn Image, job: &mut Job, most: u64) -> Way {
    let (span, access) = match asked(job) {
        Asked::Read(span) => (span, Access::Read),
        Asked::Write(span) => (span, Access::Write),
        Asked::Sync if image.is_clean() => return Way::Sync,
        Asked::Sync | Asked::Zero(_) | Asked::Discard(_) => return Way::Blocking,
    };
    match image.find(span.offset, span.len.min(most), access) {
        Run::Data { file, offset, len, guard } => Way::Move { file, offset, len, guard },
        Run::Zeroes(len) if access == Access::Read => {
            job.put(&vec![0; len as usize]);
            Way::Made(len as i32)
        }
        _ => Way::Blocking,
    }
}

/// Makes a step for which there is no other [way]; returns what a system call would.
pub(super) fn step(image: &dyn Image, job: &mut Job, most: u64) -> i32 {
    let mut moved = 0;
    let result = match asked(job) {
        Asked::Read(span) => {
            let mut bytes = vec![0; span.len.min(most).min(COPIED) as usize];
            moved = bytes.len() as i32;
            image.read(&mut bytes, span.offset).map(|()| job.put(&bytes))
        }
        Asked::Write(span) => {
            let mut bytes = vec![0; span.len.min(COPIED) as usize];
            job.get(&mut bytes);
            moved = bytes.len() as i32;
            image.write(&bytes, span.offset)
        }
        Asked::Sync => image.flush(),
        Asked::Zero(span) => image.zero(span.offset, span.len),
        Asked::Discard(span) => image.discard(span.offset, span.len),
    };
    result.map_or_else(|error| number(&error), |()| moved)
}

/// An error as a system call returns it. What is wrong with an image has no number of its own.
fn number(error: &io::Error) -> i32 {
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => -number,
        (None, ErrorKind::ReadOnlyFilesystem) => -libc::EROFS,
        _ => -libc::EIO,
    }
}
