//! Draws random bytes with crates that ask libc for them, and prints them in hexadecimal, one crate a line.
//! All crates are as they are published, with their default back ends.
//!
//! With the argument `ready`, it draws once before it says that it is ready, and once after that.
#![no_std]
#![no_main]

use core::hash::{BuildHasher, Hasher};
use hv_guest::prelude::*;
use rand_08::RngCore as _;
use rand_09::{SeedableRng as _, TryRngCore as _};
use rand_10::{Rng as _, SeedableRng as _, TryRng as _};

fn show(name: &str, bytes: &[u8]) {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{name} {digits}");
}

fn draw() {
    let mut bytes = [0; 32];
    getrandom_02::getrandom(&mut bytes).expect("getrandom 0.2");
    show("getrandom-0.2", &bytes);
    getrandom_03::fill(&mut bytes).expect("getrandom 0.3");
    show("getrandom-0.3", &bytes);
    getrandom_04::fill(&mut bytes).expect("getrandom 0.4");
    show("getrandom-0.4", &bytes);

    rand_08::rngs::OsRng.fill_bytes(&mut bytes);
    show("rand-0.8", &bytes);
    rand_09::rngs::OsRng.try_fill_bytes(&mut bytes).expect("rand 0.9");
    show("rand-0.9", &bytes);
    rand_09::RngCore::fill_bytes(&mut rand_09::rngs::StdRng::from_os_rng(), &mut bytes);
    show("rand-0.9-std", &bytes);
    rand_10::rngs::SysRng.try_fill_bytes(&mut bytes).expect("rand 0.10");
    show("rand-0.10", &bytes);
    let mut seeded = rand_10::rngs::StdRng::try_from_rng(&mut rand_10::rngs::SysRng).expect("rand 0.10");
    seeded.fill_bytes(&mut bytes);
    show("rand-0.10-std", &bytes);

    let uuid = uuid::Uuid::new_v4();
    assert_eq!((uuid.get_version_num(), uuid.get_variant()), (4, uuid::Variant::RFC4122));
    show("uuid-v4", uuid.as_bytes());
}

#[hv_guest::entry]
fn main() {
    draw();
    if env::args().nth(1) == Some("ready") {
        hv_guest::ready();
        draw();
        return;
    }
    // Its seed is drawn once, so clones share it.
    let mut hasher = ahash::RandomState::new().build_hasher();
    hasher.write(b"the same for all");
    show("ahash", &hasher.finish().to_le_bytes());

    errno::set_errno(errno::Errno(42));
    assert_eq!(errno::errno().0, 42);
    println!("{}", errno::errno());
}
