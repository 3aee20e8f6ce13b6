//! Reads or writes the first disk, many requests in flight, and prints nanoseconds per request.
//!
//! Arguments: `sequential` or `random`, or these with `-write`; bytes of a read, reads in flight, reads in all.
#![no_std]
#![no_main]

use core::cell::Cell;
use hv_guest::block;
use hv_guest::prelude::*;
use hv_guest::time;

#[hv_guest::entry]
async fn main() -> Result<(), &'static str> {
    let mut args = env::args().skip(1);
    let kind = args.next().unwrap_or_default();
    let (random, writes) = (kind.starts_with("random"), kind.ends_with("-write"));
    let mut number =
        || args.next().and_then(|n| n.parse::<usize>().ok()).ok_or("arguments: KIND SIZE DEPTH COUNT");
    let (size, depth, count) = (number()?, number()?, number()?);
    let disk = block::disk(0).ok_or("no disk")?;
    let places = disk.size() / size as u64;
    let sectors = (size / disk.sector_size()) as u64;
    let next = Cell::new(0u64);
    // What is read into: touched before the clock starts, aligned for direct access.
    let mut memory = vec![1u8; (depth + 1) * size.next_multiple_of(4096) + 4096];
    let offset = memory.as_ptr().align_offset(4096);
    let mut buffers = memory[offset..].chunks_exact_mut(size.next_multiple_of(4096));
    let one = |place: u64| if random { scatter(place) % places } else { place % places };

    let start = time::now_nanos();
    let workers = (0..depth).map(|_| {
        let buffer = &mut buffers.next().expect("there are enough")[..size];
        let next = &next;
        async move {
            while next.get() < count as u64 {
                let place = one(next.replace(next.get() + 1));
                match writes {
                    false => disk.read(place * sectors, &mut *buffer).await.expect("the disk can be read"),
                    true => disk.write(place * sectors, &*buffer).await.expect("the disk can be written"),
                }
            }
        }
    });
    join_all(workers.collect()).await;
    println!("{}", (time::now_nanos() - start) / count as u64);
    Ok(())
}

/// A permutation of numbers that looks random (the finaliser of MurmurHash3).
fn scatter(n: u64) -> u64 {
    let n = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let n = (n ^ n >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    n ^ n >> 33
}

/// Drives all futures until all have ended.
async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    core::future::poll_fn(|context| {
        for slot in &mut futures {
            if let Some(future) = slot
                && future.as_mut().poll(context).is_ready()
            {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) {
            core::task::Poll::Ready(())
        } else {
            core::task::Poll::Pending
        }
    })
    .await;
}
