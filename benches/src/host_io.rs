//! ⚠ The host's own file I/O: io_uring on the same file, as a floor for disks.
#![allow(unsafe_code, reason = "io_uring")]

use io_uring::{IoUring, opcode, types};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How a file is read.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// At random places rather than one after the other.
    pub random: bool,
    /// Past the page cache.
    pub direct: bool,
    /// Bytes of a read.
    pub size: usize,
    /// Reads in flight.
    pub depth: usize,
}

/// Page-aligned memory, as O_DIRECT wants it.
struct Aligned {
    start: *mut u8,
    layout: Layout,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len, 4096).expect("a sane size");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        assert!(!start.is_null(), "out of memory");
        Aligned { start, layout }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// A permutation of numbers that looks random (the finaliser of MurmurHash3).
fn scatter(n: u64) -> u64 {
    let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let n = (n ^ n >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    n ^ n >> 33
}

/// Reads `count` times from a file of `len` bytes; the time of one read.
pub fn read_file(path: &Path, len: u64, access: Access, count: usize) -> Duration {
    let Access { random, direct, size, depth } = access;
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).expect("the file can be opened");
    let memory = Aligned::new(depth * size);
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .build(depth.next_power_of_two() as u32)
        .expect("the kernel has io_uring");
    let places = len / size as u64;
    let mut next = 0;
    let submit = |ring: &mut IoUring, slot: usize, n: u64| {
        let place = if random { scatter(n) % places } else { n % places };
        // SAFETY: the slot is inside the memory.
        let buffer = unsafe { memory.start.add(slot * size) };
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), buffer, size as u32)
            .offset(place * size as u64)
            .build()
            .user_data(slot as u64);
        // SAFETY: the buffer and the file live until every read has completed,
        // which is before this function returns.
        unsafe { ring.submission().push(&read) }.expect("there is room for every slot");
    };
    let start = Instant::now();
    for slot in 0..depth.min(count) {
        submit(&mut ring, slot, next);
        next += 1;
    }
    let mut done = 0;
    while done < count {
        ring.submit_and_wait(1).expect("io_uring works");
        let finished: Vec<_> = ring.completion().map(|c| (c.user_data(), c.result())).collect();
        for (slot, result) in finished {
            assert_eq!(result, size as i32, "a whole read");
            done += 1;
            if next < count as u64 {
                submit(&mut ring, slot as usize, next);
                next += 1;
            }
        }
    }
    start.elapsed() / count as u32
}
