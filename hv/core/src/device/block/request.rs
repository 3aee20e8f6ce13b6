//! Validating requests: from what a guest wrote to what an engine may do.
//!
//! Everything here is about one copy of the request; the guest's own may
//! change meanwhile and is not looked at again.
#![forbid(unsafe_code)]

use super::buffers::Buffers;
use crate::memory::{Access, GuestMemory};
use hv_abi::Errno;
use hv_abi::io::block::{
    BlockConfig, BlockFeatures, BlockRequest, INLINE_SEGMENTS, MAX_SEGMENTS, OP_DISCARD, OP_FLUSH, OP_READ,
    OP_WRITE, OP_WRITE_ZEROES, Segment,
};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// A request that may be carried out as it is.
#[derive(Debug)]
pub enum Plan {
    /// Disk to memory.
    Read(Transfer),
    /// Memory to disk.
    Write(Transfer),
    /// All writes that were answered are brought to the disk.
    Flush,
    /// The span is no longer needed.
    Discard(Span),
    /// The span reads as zeroes.
    WriteZeroes(Span),
}

/// Bytes to move; they lie within the disk and within what the guest may touch.
#[derive(Debug)]
pub struct Transfer {
    /// Byte offset on the disk, a multiple of the sector size.
    pub offset: u64,
    /// Guest memory; its length is a multiple of the sector size, from one sector to `max_transfer`.
    pub buffers: Buffers,
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Byte offset on the disk, a multiple of the sector size.
    pub offset: u64,
    /// Bytes, a multiple of the sector size, at least one sector.
    pub len: u64,
}

impl Plan {
    /// Bytes that carrying it out moves through this process.
    pub fn bytes(&self) -> u64 {
        match self {
            Plan::Read(transfer) | Plan::Write(transfer) => transfer.buffers.len(),
            Plan::Flush | Plan::Discard(_) | Plan::WriteZeroes(_) => 0,
        }
    }
}

/// Validates a request against the disk and the guest's memory.
///
/// # Errors
///
/// - [`Errno::NotSupported`]: an operation that there is not, or a discard on a disk without it;
/// - [`Errno::ReadOnly`]: a change of a disk that is read-only;
/// - [`Errno::Invalid`]: sectors outside the disk, a count of segments or a
///   length that is zero, too large or not whole sectors;
/// - [`Errno::Fault`]: memory that the guest itself could not touch this way.
pub fn validate(
    request: &BlockRequest,
    config: &BlockConfig,
    memory: &Arc<GuestMemory>,
) -> Result<Plan, Errno> {
    let features = BlockFeatures::from_bits_truncate(config.features);
    if matches!(request.op, OP_WRITE | OP_DISCARD | OP_WRITE_ZEROES)
        && features.contains(BlockFeatures::READ_ONLY)
    {
        return Err(Errno::ReadOnly);
    }
    match request.op {
        OP_READ => Ok(Plan::Read(transfer(request, config, memory, Access::WRITE)?)),
        OP_WRITE => Ok(Plan::Write(transfer(request, config, memory, Access::READ)?)),
        OP_FLUSH => Ok(Plan::Flush),
        OP_DISCARD if !features.contains(BlockFeatures::DISCARD) => Err(Errno::NotSupported),
        OP_DISCARD => Ok(Plan::Discard(span(request.sector, request.count, config)?)),
        OP_WRITE_ZEROES => Ok(Plan::WriteZeroes(span(request.sector, request.count, config)?)),
        _ => Err(Errno::NotSupported),
    }
}

fn span(sector: u64, count: u64, config: &BlockConfig) -> Result<Span, Errno> {
    let end = sector.checked_add(count).ok_or(Errno::Invalid)?;
    if count == 0 || end > config.sectors {
        return Err(Errno::Invalid);
    }
    // Within the disk, whose size in bytes is a u64.
    let size = u64::from(config.sector_size);
    Ok(Span { offset: sector * size, len: count * size })
}

fn transfer(
    request: &BlockRequest,
    config: &BlockConfig,
    memory: &Arc<GuestMemory>,
    access: Access,
) -> Result<Transfer, Errno> {
    let count = usize::from(request.segment_count);
    if count == 0 || count > MAX_SEGMENTS.min(config.max_segments as usize) {
        return Err(Errno::Invalid);
    }
    if count <= INLINE_SEGMENTS {
        return pieces(request.sector, &request.segments[..count], config, memory, access);
    }
    let indirect = request.segments[0];
    let mut list = [Segment::default(); MAX_SEGMENTS];
    let list = &mut list[..count];
    if indirect.len as usize != size_of_val(list) {
        return Err(Errno::Invalid);
    }
    memory.read(indirect.address, list.as_mut_bytes())?;
    pieces(request.sector, list, config, memory, access)
}

fn pieces(
    sector: u64,
    segments: &[Segment],
    config: &BlockConfig,
    memory: &Arc<GuestMemory>,
    access: Access,
) -> Result<Transfer, Errno> {
    let mut total = 0;
    for segment in segments {
        if segment.len == 0 || !segment.len.is_multiple_of(config.sector_size) {
            return Err(Errno::Invalid);
        }
        total += u64::from(segment.len);
    }
    if total > config.max_transfer.into() {
        return Err(Errno::Invalid);
    }
    let span = span(sector, total / u64::from(config.sector_size), config)?;
    Ok(Transfer { offset: span.offset, buffers: Buffers::new(memory, segments, access)? })
}
