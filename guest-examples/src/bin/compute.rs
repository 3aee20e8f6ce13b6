//! Nothing but computing: SHA-256 of some MiB, and a product of matrices.
//!
//! ```text
//! hv run compute                 # 64 MiB, 384 rows and columns
//! hv run compute -- 256 512
//! ```
#![no_std]
#![no_main]

use hv_guest::prelude::*;
use hv_guest::time::Instant;
use hv_guest_examples::compute;

#[hv_guest::entry]
fn main() -> Result<(), &'static str> {
    let number = |index: usize, default: usize| match env::args().nth(index) {
        Some(text) => {
            text.parse().map_err(|_| "the arguments are numbers: MiB to hash, rows of the matrices")
        }
        None => Ok(default),
    };
    let (mib, rows) = (number(1, 64)?, number(2, 384)?);

    let start = Instant::now();
    let digest = compute::digest(mib);
    let hashing = start.elapsed();
    let start = Instant::now();
    let checksum = compute::matrix(rows);
    let multiplying = start.elapsed();

    print!("sha256 of {mib} MiB: ");
    digest.iter().for_each(|byte| print!("{byte:02x}"));
    println!("\nmatrix of {rows} rows: {checksum}");
    println!("time: {} us and {} us", hashing.as_micros(), multiplying.as_micros());
    Ok(())
}
