//! Memory that the host really has.
//!
//! A host that is a virtual machine itself gets its memory from the hypervisor below at the first touch, 2 to
//! 6 µs a page (and returns free memory after a while). A curve over many guests would show that: a step at
//! the guest where memory that was used before ends. So free memory can be touched beforehand; as much of it
//! as the guests will need is held, and freed bit by bit.
#![forbid(unsafe_code)]

use hv_abi::PAGE_SIZE;
use std::io;
use std::time::Instant;
use vm_memory::MmapRegion;
use vm_memory::mmap::MmapRegionError;

/// Bytes that are mapped, and freed, at a time.
const PIECE: usize = 32 << 20;

/// Touched memory, held.
pub(super) struct Backing {
    pieces: Vec<MmapRegion>,
    /// Nanoseconds for the first touch of a page, and for a touch of the same memory given anew.
    pub(super) touch_ns: [f64; 2],
}

impl Backing {
    /// Touches this many bytes, or as many as the host gives. Reports to `progress` how many were touched.
    pub(super) fn touch(bytes: u64, progress: &mut dyn FnMut(u64)) -> Backing {
        let mut backing = Backing { pieces: Vec::new(), touch_ns: [0.0; 2] };
        let begin = Instant::now();
        while backing.held() < bytes {
            let Ok(piece) = touched() else { break };
            backing.pieces.push(piece);
            progress(backing.held());
        }
        let per_page = |bytes: u64, begin: Instant| {
            begin.elapsed().as_nanos() as f64 / (bytes / PAGE_SIZE).max(1) as f64
        };
        backing.touch_ns[0] = per_page(backing.held(), begin);
        // One piece is freed and mapped again: the part of the time that is not due to the hypervisor below.
        if backing.pieces.pop().is_some() {
            let begin = Instant::now();
            backing.pieces.extend(touched());
            backing.touch_ns[1] = per_page(PIECE as u64, begin);
        }
        backing
    }

    /// Bytes.
    pub(super) fn held(&self) -> u64 {
        (self.pieces.len() * PIECE) as u64
    }

    /// Frees all but this many bytes.
    pub(super) fn keep(&mut self, bytes: u64) {
        self.pieces.truncate((bytes / PIECE as u64) as usize);
    }
}

/// A piece of memory whose every page is there.
fn touched() -> io::Result<MmapRegion> {
    let piece = MmapRegion::<()>::new(PIECE).map_err(|error| match error {
        MmapRegionError::Mmap(error) => error,
        other => io::Error::other(other),
    })?;
    let whole = vm_memory::VolatileMemory::as_volatile_slice(&piece);
    for page in (0..PIECE).step_by(PAGE_SIZE as usize) {
        vm_memory::Bytes::write_obj(&whole, 1u8, page).map_err(io::Error::other)?;
    }
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_held() {
        let mut heard = 0;
        let mut backing = Backing::touch(2 * PIECE as u64 - 1, &mut |bytes| heard = bytes);
        assert_eq!((backing.held(), heard), (2 * PIECE as u64, 2 * PIECE as u64));
        assert!(backing.touch_ns.iter().all(|&time| time > 0.0));
        backing.keep(2 * PIECE as u64 - 1);
        assert_eq!(backing.held(), PIECE as u64);
        backing.keep(0);
        assert_eq!(backing.held(), 0);
    }
}
