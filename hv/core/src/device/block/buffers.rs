//! ⚠ Validated ranges of guest memory, on their way to and from the kernel.
#![allow(unsafe_code, reason = "scatter lists over guest memory")]

use crate::memory::GuestMemory;
use hv_abi::Errno;
use hv_abi::io::block::Segment;
use libc::iovec;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

/// A scatter list over guest memory, validated when it was made. It keeps the
/// memory mapped, so the kernel may work on it for as long as the list exists.
#[derive(Debug)]
pub struct Buffers {
    memory: Arc<GuestMemory>,
    pieces: OwnedIovecs,
    /// Bytes that are left.
    len: u64,
}

/// Most requests have one segment, which need not cost an allocation.
#[derive(Debug)]
enum OwnedIovecs {
    One(iovec),
    /// The pieces from the index on are left. They lie on the heap: their address does not change when the
    /// list is moved.
    Many(Box<[iovec]>, usize),
}

// SAFETY: the pointers are not to anything of one thread: they are into the
// mapping that `memory` keeps alive, and are only ever used for volatile copies
// and by the kernel, which any thread may ask for.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Validates each segment by what the guest itself may do there, and `Errno::Fault`s otherwise.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] for a segment that is not all memory where the guest may do that.
    pub fn new(
        memory: &Arc<GuestMemory>,
        segments: &[Segment],
        access: crate::memory::Access,
    ) -> Result<Buffers, Errno> {
        let piece = |s: &Segment| memory.iovec(s.address, s.len.into(), access);
        let pieces = match segments {
            [one] => OwnedIovecs::One(piece(one)?),
            many => OwnedIovecs::Many(many.iter().map(piece).collect::<Result<_, _>>()?, 0),
        };
        let len = segments.iter().map(|s| u64::from(s.len)).sum();
        Ok(Buffers { memory: memory.clone(), pieces, len })
    }

    /// Bytes that are left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is left, as the kernel wants it. With more than one element, the
    /// elements stay where they are when the list is moved.
    pub fn iovecs(&self) -> &[iovec] {
        match &self.pieces {
            OwnedIovecs::One(one) => std::slice::from_ref(one),
            OwnedIovecs::Many(all, first) => &all[*first..],
        }
    }

    /// Reads from a file, straight into the memory: one call of the kernel. Returns the bytes that it has read, 0 at the end of the file.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn read_from(&self, file: BorrowedFd<'_>, offset: u64) -> Result<u64, rustix::io::Errno> {
        let pieces = self.iovecs();
        // SAFETY: the pieces are within the mapping that `memory` keeps alive, where the guest may write, and no Rust reference is made
        // to what the kernel writes.
        let count = unsafe {
            libc::preadv(
                file.as_raw_fd(),
                pieces.as_ptr(),
                pieces.len() as libc::c_int,
                offset as libc::off_t,
            )
        };
        moved(count)
    }

    /// Reads from a file, straight into the memory, what the host has of it in memory: one call of the kernel, which waits for nothing else.
    /// Returns the bytes that it has read: fewer than the file has there, if the host's memory has no more; 0 at the end of the file. `None`: it has
    /// nothing of it, or this file system cannot say so.
    pub fn read_now(&self, file: BorrowedFd<'_>, offset: u64) -> Option<u64> {
        let pieces = self.iovecs();
        // SAFETY: as in `read_from`.
        let count = unsafe {
            let (list, len) = (pieces.as_ptr(), pieces.len() as libc::c_int);
            libc::preadv2(file.as_raw_fd(), list, len, offset as libc::off_t, libc::RWF_NOWAIT)
        };
        moved(count).ok()
    }

    /// Writes to a file, straight from the memory: one call of the kernel. With `append`, at the end of the file. Returns the bytes that it has
    /// written.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn write_to(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        append: bool,
    ) -> Result<u64, rustix::io::Errno> {
        let pieces = self.iovecs();
        let flags = if append { libc::RWF_APPEND } else { 0 };
        // SAFETY: as in `read_from`; the kernel only reads.
        let count = unsafe {
            let (list, len) = (pieces.as_ptr(), pieces.len() as libc::c_int);
            libc::pwritev2(file.as_raw_fd(), list, len, offset as libc::off_t, flags)
        };
        moved(count)
    }

    /// Whether all addresses are multiples of `alignment`.
    pub fn are_aligned(&self, alignment: usize) -> bool {
        alignment == 1 || self.iovecs().iter().all(|v| (v.iov_base as usize).is_multiple_of(alignment))
    }

    /// Drops the first `count` bytes, or all if there are fewer.
    pub fn advance(&mut self, count: u64) {
        let mut count = count.min(self.len);
        self.len -= count;
        let (pieces, first) = match &mut self.pieces {
            OwnedIovecs::One(one) => (std::slice::from_mut(one), &mut 0),
            OwnedIovecs::Many(all, first) => (&mut all[..], first),
        };
        while count > 0 {
            let piece = &mut pieces[*first];
            let step = count.min(piece.iov_len as u64) as usize;
            piece.iov_base = piece.iov_base.wrapping_byte_add(step);
            piece.iov_len -= step;
            count -= step as u64;
            if piece.iov_len == 0 && *first + 1 < pieces.len() {
                *first += 1;
            }
        }
    }

    /// Calls `each` with the memory, the offset in it and the range in `0..count` of every piece of the first
    /// `count` bytes.
    fn walk(&self, count: usize, mut each: impl FnMut(&GuestMemory, u64, std::ops::Range<usize>)) {
        let mut done = 0;
        for v in self.iovecs() {
            let step = v.iov_len.min(count - done);
            if step == 0 {
                break;
            }
            let offset = v.iov_base as u64 - self.memory.host_address();
            each(&self.memory, offset, done..done + step);
            done += step;
        }
    }

    /// Copies the first bytes out, as many as `bytes` has and the list holds.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        self.walk(bytes.len(), |memory, offset, range| memory.host_read(offset, &mut bytes[range]));
    }

    /// Copies `bytes` over the first bytes, as many as the list holds.
    pub fn copy_from(&self, bytes: &[u8]) {
        self.walk(bytes.len(), |memory, offset, range| memory.host_write(offset, &bytes[range]));
    }
}

/// What a call returned that moves bytes.
fn moved(count: isize) -> Result<u64, rustix::io::Errno> {
    u64::try_from(count).map_err(|_| {
        let error = std::io::Error::last_os_error();
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
    })
}

/// Host memory whose address is a multiple of an alignment.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zeroes at a multiple of `alignment`.
    pub fn new(len: usize, alignment: usize) -> Self {
        let bytes = vec![0; len + alignment - 1];
        let start = bytes.as_ptr().align_offset(alignment);
        AlignedBuffer { bytes, start, len }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }

    /// The bytes, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}
