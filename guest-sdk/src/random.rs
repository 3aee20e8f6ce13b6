//! Random numbers.
#![forbid(unsafe_code)]

use crate::{hypercall, rt};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use spin::{LazyLock, Mutex};

/// Seeded from start-info, which is different for every guest.
static GENERATOR: LazyLock<Mutex<ChaCha12Rng>> =
    LazyLock::new(|| Mutex::new(ChaCha12Rng::from_seed(rt::start_info().seed)));

/// Fills `bytes` with random bytes, good enough for keys. Does not leave the guest.
pub fn fill(bytes: &mut [u8]) {
    GENERATOR.lock().fill_bytes(bytes);
}

/// A random number.
pub fn next_u64() -> u64 {
    GENERATOR.lock().next_u64()
}

/// Seeds the generator anew, from the host and from what it was.
pub fn reseed() {
    let mut seed = [0; 32];
    fill(&mut seed);
    let mut fresh = [0; 32];
    if hypercall::entropy(&mut fresh).is_ok() {
        seed.iter_mut().zip(fresh).for_each(|(seed, fresh)| *seed ^= fresh);
    }
    *GENERATOR.lock() = ChaCha12Rng::from_seed(seed);
}
