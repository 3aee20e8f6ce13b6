//! Block devices: requests of up to [`MAX_SEGMENTS`] pieces of memory.

use crate::device::{self, Config};
use crate::{GuestAddr, layout::layout};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most segments of one request.
pub const MAX_SEGMENTS: usize = 128;
/// Segments that fit into the request itself.
pub const INLINE_SEGMENTS: usize = 2;

bitflags::bitflags! {
    /// What a block device can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BlockFeatures: u32 {
        /// Writes, discards and write-zeroes are refused.
        const READ_ONLY = 1 << 0;
        /// [`OP_DISCARD`] gives space back.
        const DISCARD = 1 << 1;
    }
}

/// Configuration of a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockConfig {
    /// Size of the device, in its own sectors.
    pub sectors: u64,
    /// Bytes of a sector: 512 or 4096.
    pub sector_size: u32,
    /// [`BlockFeatures`] bits.
    pub features: u32,
    /// Most bytes that one read or write may move.
    pub max_transfer: u32,
    /// Most segments of one request, at most [`MAX_SEGMENTS`].
    pub max_segments: u32,
}

layout!(BlockConfig: 24 {
    sectors @ 0, sector_size @ 8, features @ 12, max_transfer @ 16, max_segments @ 20,
});

impl Config for BlockConfig {
    const KIND: u32 = device::BLOCK;
}

/// Reads sectors into the segments.
pub const OP_READ: u8 = 0;
/// Writes the segments to sectors.
pub const OP_WRITE: u8 = 1;
/// Answers once every write that was answered before it is on the host's disk.
pub const OP_FLUSH: u8 = 2;
/// Says that `count` sectors are no longer needed; they may read as anything old or zero.
pub const OP_DISCARD: u8 = 3;
/// Makes `count` sectors read as zeroes.
pub const OP_WRITE_ZEROES: u8 = 4;

/// A piece of guest memory. Its length is a multiple of the sector size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Where it starts.
    pub address: GuestAddr,
    /// Its length in bytes.
    pub len: u32,
    /// Zero.
    pub reserved: u32,
}

layout!(Segment: 16 { address @ 0, len @ 8, reserved @ 12 });

/// A request. Written by the front end, copied once by the back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockRequest {
    /// Comes back in the response; the back end gives it no meaning.
    pub id: u64,
    /// One of the `OP_` numbers.
    pub op: u8,
    /// Zero.
    pub reserved: u8,
    /// Number of segments (read, write). Up to [`INLINE_SEGMENTS`] stand in
    /// `segments`; with more, `segments[0]` is the guest memory that holds the
    /// list: its address, and `16 * segment_count` as its length.
    pub segment_count: u16,
    /// Zero.
    pub reserved2: u32,
    /// First sector, in sectors of the device.
    pub sector: u64,
    /// Number of sectors (discard, write-zeroes); zero for the others.
    pub count: u64,
    /// See `segment_count`.
    pub segments: [Segment; INLINE_SEGMENTS],
}

layout!(BlockRequest: 64 {
    id @ 0, op @ 8, reserved @ 9, segment_count @ 10, reserved2 @ 12, sector @ 16, count @ 24, segments @ 32,
});

/// A response. Responses may come in another order than the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BlockResponse {
    /// The request's `id`.
    pub id: u64,
    /// 0, or `-errno`.
    pub status: i32,
    /// Zero.
    pub reserved: u32,
}

layout!(BlockResponse: 16 { id @ 0, status @ 8, reserved @ 12 });
