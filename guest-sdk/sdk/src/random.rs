//! Random numbers that no other guest gets, not even a clone of this one.
#![forbid(unsafe_code)]

use crate::console::eprintln;
use crate::start_info::start_info;
use crate::sync::Mutex;
use crate::{generation, hypercall};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use spin::LazyLock;

struct Generator {
    stream: ChaCha12Rng,
    /// The generation of the guest that `stream` belongs to, see [`generation`].
    generation: [u8; 16],
}

/// Seeded from start-info, which is different for every booted guest. The first use detects if this guest was restored or cloned instead.
static GENERATOR: LazyLock<Mutex<Generator>> = LazyLock::new(|| {
    let stream = ChaCha12Rng::from_seed(start_info().seed);
    Mutex::new(Generator { stream, generation: [0; 16] })
});

impl Generator {
    /// Mixes fresh bytes into the state: the result is as unpredictable as the better of the two.
    fn mix(&mut self, fresh: [u8; 32]) {
        let mut seed = [0; 32];
        self.stream.fill_bytes(&mut seed);
        seed.iter_mut().zip(fresh).for_each(|(seed, fresh)| *seed ^= fresh);
        self.stream = ChaCha12Rng::from_seed(seed);
    }

    /// Makes sure that no other guest has this generator's state.
    fn follow(&mut self, generation: [u8; 16]) {
        if self.generation != generation {
            // They are absent only if another clone was made just while this one took them.
            self.mix(generation::take_seed().unwrap_or_else(entropy));
            self.generation = generation;
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let mut before = generation::generation();
        loop {
            self.follow(before);
            self.stream.fill_bytes(bytes);
            // If this guest was cloned meanwhile, its clones have the same bytes. Then the bytes are drawn again.
            let after = generation::generation();
            if after == before {
                return;
            }
            before = after;
        }
    }
}

/// Random bytes from the host; zeroes if it has none.
fn entropy() -> [u8; 32] {
    let mut fresh = [0; 32];
    if hypercall::entropy(&mut fresh).is_err() {
        // `log` is not used: it would become part of every guest that uses random numbers.
        eprintln!("warning: the host has no random numbers");
    }
    fresh
}

/// Fills `bytes` with random bytes that are suitable for keys. Does not leave the guest.
///
/// A guest that was cloned or restored detects this and continues with random bytes of its own.
pub fn fill(bytes: &mut [u8]) {
    GENERATOR.lock().fill(bytes);
}

/// A random number.
pub fn next_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Reseeds the generator from the host and from its current state.
pub fn reseed() {
    let fresh = entropy();
    let mut generator = GENERATOR.lock();
    generator.follow(generation::generation());
    generator.mix(fresh);
}
