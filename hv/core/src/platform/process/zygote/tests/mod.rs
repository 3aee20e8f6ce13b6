//! Starts of guests with processes that fail at every step: real ones that are stopped and killed, and simulated ones,
//! which send arbitrary messages.

mod played;
mod real;

use super::*;
use hv_abi::{GuestAddr, PAGE_SIZE};

fn memory() -> GuestMemory {
    GuestMemory::new_shared(GuestAddr(0x4000_0000), 16 * PAGE_SIZE).unwrap()
}

fn fork(zygote: &Zygote, memory: &GuestMemory) -> Result<Process, PlatformError> {
    zygote.fork(memory, memory.size(), std::iter::empty())
}

/// Waits for something that happens soon.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
