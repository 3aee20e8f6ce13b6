//! Disks: reads and writes of whole sectors. Many can be in flight at a time.
//!
//! Every operation is a future, [`Transfer`], and has a form ending in `_blocking` that needs no executor. Buffers are
//! not copied: the host reads and writes them in place.
//!
//! # In flight
//!
//! A transfer is handed to the host when it is first polled. Dropping it before it is done waits for the host to finish,
//! since the host may be writing into the buffer. So code that gives up on a transfer, for example with select!, waits
//! for as long as the disk takes. For the same reason a transfer must not be leaked (`core::mem::forget`) while it is in flight.
//!
//! Doorbells are batched: all requests of one pass of the executor cost at most one crossing of the boundary, whether
//! they come from several tasks or from one task that joins several futures.
#![forbid(unsafe_code)]

mod bytes;
mod queue;
mod transfer;

pub use bytes::{DiskReader, ReadError};
pub use transfer::Transfer;

use crate::devices::devices;
use alloc::vec::Vec;
use hv_abi::Errno;
use hv_abi::device::{Config, DeviceInfo};
use hv_abi::io::block::{
    BlockConfig, BlockFeatures, OP_DISCARD, OP_FLUSH, OP_READ, OP_WRITE, OP_WRITE_ZEROES,
};
use queue::RequestQueue;
use spin::LazyLock;
use transfer::Memory;

/// A block device of this guest. Copies are handles to the same device.
#[derive(Clone, Copy, Debug)]
pub struct Disk(&'static RequestQueue);

static DISKS: LazyLock<Vec<RequestQueue>> = LazyLock::new(|| devices().filter_map(open).collect());

fn open(info: DeviceInfo) -> Option<RequestQueue> {
    RequestQueue::new(&info, BlockConfig::of(&info)?)
}

/// The guest's disks, in the order of the command line.
pub fn disks() -> impl Iterator<Item = Disk> {
    DISKS.iter().map(|queue| {
        queue.listen();
        Disk(queue)
    })
}

/// Disk number `n`, counted from 0.
pub fn disk(n: usize) -> Option<Disk> {
    disks().nth(n)
}

impl Disk {
    fn config(&self) -> &'static BlockConfig {
        self.0.config()
    }

    fn has(&self, feature: BlockFeatures) -> bool {
        BlockFeatures::from_bits_truncate(self.config().features).contains(feature)
    }

    /// Its size, in sectors of [`sector_size`](Self::sector_size) bytes.
    pub fn sectors(&self) -> u64 {
        self.config().sectors
    }

    /// Bytes of a sector: 512 or 4096.
    pub fn sector_size(&self) -> usize {
        self.config().sector_size as usize
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.sectors() * self.sector_size() as u64
    }

    /// Whether writes, discards and write-zeroes are refused with [`Errno::ReadOnly`].
    pub fn read_only(&self) -> bool {
        self.has(BlockFeatures::READ_ONLY)
    }

    /// Whether [`discard`](Self::discard) gives space back to the host.
    pub fn can_discard(&self) -> bool {
        self.has(BlockFeatures::DISCARD)
    }

    /// How many requests can be in flight at a time. Further requests wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }

    /// Most bytes of one request. Larger transfers are split.
    pub fn max_transfer(&self) -> usize {
        self.config().max_transfer as usize
    }

    /// Reads from `sector` on until the buffer is full.
    ///
    /// Like every transfer it fails with [`Errno::Invalid`] if the length of the buffer is not a multiple of the sector
    /// size or the disk ends before the buffer, and with [`Errno::Io`] if the host failed. Then the content of the buffer is unspecified.
    pub fn read<'a>(&self, sector: u64, buffer: &'a mut [u8]) -> Transfer<'a> {
        Transfer::data(
            self.0,
            OP_READ,
            sector,
            Memory::one(buffer.as_mut_ptr().expose_provenance(), buffer.len()),
        )
    }

    /// Reads from `sector` on into each of the buffers in turn.
    /// Each is a whole number of sectors long.
    pub fn read_vectored<'a>(&self, sector: u64, buffers: &'a mut [&mut [u8]]) -> Transfer<'a> {
        let pieces = buffers.iter_mut().map(|buffer| (buffer.as_mut_ptr().expose_provenance(), buffer.len()));
        Transfer::data(self.0, OP_READ, sector, Memory::many(pieces.collect()))
    }

    /// Writes the bytes from `sector` on. They are safe from a crash of the
    /// host only after a [`flush`](Self::flush).
    ///
    /// Errors are those of [`read`](Self::read), [`Errno::ReadOnly`], and
    /// [`Errno::NoSpace`] when the host's disk is full.
    pub fn write<'a>(&self, sector: u64, bytes: &'a [u8]) -> Transfer<'a> {
        Transfer::data(self.0, OP_WRITE, sector, Memory::one(bytes.as_ptr().expose_provenance(), bytes.len()))
    }

    /// Writes each of the buffers in turn, from `sector` on.
    /// Each is a whole number of sectors long.
    pub fn write_vectored<'a>(&self, sector: u64, buffers: &'a [&[u8]]) -> Transfer<'a> {
        let pieces = buffers.iter().map(|buffer| (buffer.as_ptr().expose_provenance(), buffer.len()));
        Transfer::data(self.0, OP_WRITE, sector, Memory::many(pieces.collect()))
    }

    /// Completes once everything that was written before is on the host's disk.
    pub fn flush(&self) -> Transfer<'static> {
        Transfer::control(self.0, OP_FLUSH, 0, 0)
    }

    /// Declares that `count` sectors are no longer needed: reads may return old data or zeroes. [`Errno::NotSupported`]
    /// on a disk without [`can_discard`](Self::can_discard).
    pub fn discard(&self, sector: u64, count: u64) -> Transfer<'static> {
        Transfer::control(self.0, OP_DISCARD, sector, count)
    }

    /// Makes `count` sectors read as zeroes.
    pub fn write_zeroes(&self, sector: u64, count: u64) -> Transfer<'static> {
        Transfer::control(self.0, OP_WRITE_ZEROES, sector, count)
    }

    /// Like [`read`](Self::read), for code that is not async.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn read_blocking(&self, sector: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read(sector, buffer).block()
    }

    /// Like [`write`](Self::write), for code that is not async.
    ///
    /// # Errors
    ///
    /// Those of [`write`](Self::write).
    pub fn write_blocking(&self, sector: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.write(sector, bytes).block()
    }

    /// Like [`flush`](Self::flush), for code that is not async.
    ///
    /// # Errors
    ///
    /// [`Errno::Io`] if the host failed.
    pub fn flush_blocking(&self) -> Result<(), Errno> {
        self.flush().block()
    }

    /// Like [`discard`](Self::discard), for code that is not async.
    ///
    /// # Errors
    ///
    /// Those of [`discard`](Self::discard).
    pub fn discard_blocking(&self, sector: u64, count: u64) -> Result<(), Errno> {
        self.discard(sector, count).block()
    }

    /// Like [`write_zeroes`](Self::write_zeroes), for code that is not async.
    ///
    /// # Errors
    ///
    /// Those of [`write_zeroes`](Self::write_zeroes).
    pub fn write_zeroes_blocking(&self, sector: u64, count: u64) -> Result<(), Errno> {
        self.write_zeroes(sector, count).block()
    }
}
