//! Nothing but computing, on all virtual CPUs: SHA-256 of some MiB, and a product of matrices.
//!
//! ```text
//! hv run compute                 # 64 MiB, 384 rows and columns
//! hv run compute --vcpus 2 -- 256 512
//! ```
#![no_std]
#![no_main]

extern crate alloc;

use alloc::sync::Arc;
use hv_guest::prelude::*;
use hv_guest::time::Instant;
use hv_guest::{block_on, cpu};
use hv_guest_examples::compute::{self, Matrices};

/// Does all parts of some work at the same time, one on each virtual CPU.
fn in_parts<T: Send + 'static>(work: impl Fn(usize, usize) -> T + Clone + Send + 'static) -> Vec<T> {
    let parts = cpu::count();
    let tasks = (0..parts).map(|number| {
        let work = work.clone();
        cpu::spawn_any(async move { work(number, parts) })
    });
    let tasks: Vec<_> = tasks.collect();
    block_on(async {
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await);
        }
        results
    })
}

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
    let digests = in_parts(move |number, parts| compute::digests(compute::part(mib, number, parts)));
    let digest = compute::root(&digests.concat());
    let hashing = start.elapsed();
    let matrices = Arc::new(Matrices::new(rows));
    let start = Instant::now();
    let sums = in_parts(move |number, parts| matrices.product(compute::part(rows, number, parts)));
    let checksum: f64 = sums.iter().sum();
    let multiplying = start.elapsed();

    print!("sha256 of {mib} MiB: ");
    digest.iter().for_each(|byte| print!("{byte:02x}"));
    println!("\nmatrix of {rows} rows: {checksum}");
    println!("time: {} us and {} us", hashing.as_micros(), multiplying.as_micros());
    Ok(())
}
