//! The words of a request for a process: see [`MESSAGE_WORDS`].
#![forbid(unsafe_code)]

use super::failure::StartFailure;
use crate::memory::{Access, GuestMemory, Piece, Source};
use crate::platform::PlatformError;
use crate::platform::process::filter;
use hv_abi::PAGE_SIZE;
use hv_stub::{MEMORY, MESSAGE_WORDS, field};
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// Most mappings beyond the ranges of the access map: each costs some microseconds at the start.
const MORE_MAPPINGS: usize = 24;

/// A request for the process of a guest.
pub(super) struct Request<'a> {
    /// The nonce is filled in later.
    pub(super) words: Vec<u64>,
    pub(super) descriptors: Vec<BorrowedFd<'a>>,
}

/// Makes the request for a process with this memory, whose part of the tail is at `part`, and these doorbells.
pub(super) fn request<'a>(
    memory: &'a GuestMemory,
    part: u64,
    doorbells: impl Iterator<Item = BorrowedFd<'a>>,
) -> Result<Request<'a>, StartFailure> {
    let filter = filter::program();
    assert!(
        size_of_val(&filter[..]) as u64 + 16 + field::FILTER <= PAGE_SIZE,
        "the page has room for the filter"
    );
    let file = memory.shared_file().expect("this platform's memory is shared");
    let mut descriptors: Vec<_> = std::iter::once(file).chain(doorbells).collect();
    let pieces = memory.pieces(MORE_MAPPINGS);
    let is_mapped = pieces.iter().any(|piece| piece.source == Source::Template);
    let template = memory.template().filter(|_| is_mapped).map(|template| template.file());
    // The kernel numbers the descriptors of a message one after the other.
    let number = template.map_or(0, |_| MEMORY as u64 + descriptors.len() as u64);
    descriptors.extend(template);
    let mut words = vec![0, part, pieces.len() as u64, filter.len() as u64, number];
    words.extend(pieces.iter().flat_map(|piece| mapping(memory, piece)));
    // `struct sock_filter`: code, jump if true, jump if false, operand.
    words.extend(filter.iter().map(|instruction| {
        u64::from(instruction.code)
            | u64::from(instruction.jt) << 16
            | u64::from(instruction.jf) << 24
            | u64::from(instruction.k) << 32
    }));
    if words.len() > MESSAGE_WORDS {
        return Err(StartFailure::Refused(PlatformError::TooManyRanges(pieces.len())));
    }
    Ok(Request { words, descriptors })
}

/// The four words of a mapping.
fn mapping(memory: &GuestMemory, piece: &Piece) -> [u64; 4] {
    let protection = [
        (Access::READ, libc::PROT_READ),
        (Access::WRITE, libc::PROT_WRITE),
        (Access::EXECUTE, libc::PROT_EXEC),
    ];
    let protection = protection.iter().filter(|(access, _)| piece.access.contains(*access));
    let source = match piece.source {
        Source::File => 0,
        Source::OnDemand => hv_stub::mapping::ON_DEMAND,
        Source::Template => hv_stub::mapping::TEMPLATE,
    };
    let flags = protection.fold(source, |flags, (_, protection)| flags | *protection as u64);
    let Range { start, end } = piece.range;
    [memory.base().0 + start, end - start, start, flags]
}
