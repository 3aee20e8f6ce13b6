//! Fills the first disk with a pattern, reads it back, and compares.
//!
//! ```text
//! truncate -s 64M data.img
//! hv run disk --disk data.img                # the whole disk, from a random seed
//! hv run disk --disk data.img -- 7 16        # seed 7, the first 16 MiB
//! hv run disk --disk data.img -- check 7 16  # only read and compare
//! ```
//!
//! Ends with exit code 0 if every byte came back, 1 if not.
#![no_std]
#![no_main]

use hv_guest::abi::Errno;
use hv_guest::block::{self, Disk};
use hv_guest::embassy_futures::join::join_array;
use hv_guest::prelude::*;
use hv_guest::random;
use hv_guest::time::Instant;

/// Bytes of one request, and how many of them are under way at a time.
const CHUNK: usize = 128 << 10;
const DEPTH: usize = 8;

#[hv_guest::entry]
async fn main() -> Result<u8, String> {
    let mut words: Vec<&str> = env::args().skip(1).collect();
    let only_check = words.first() == Some(&"check");
    if only_check {
        words.remove(0);
    }
    let number = |index: usize| words.get(index).map(|word| word.parse::<u64>()).transpose();
    let seed = number(0).map_err(|_| "the seed is no number")?.unwrap_or_else(random::next_u64);
    let limit = number(1).map_err(|_| "the size is no number of MiB")?.unwrap_or(u64::MAX);
    let disk = block::disk(0).ok_or("no disk: run it with --disk FILE")?;
    let size = disk.size().min(limit.saturating_mul(1 << 20)) / disk.sector_size() as u64
        * disk.sector_size() as u64;
    println!("{size} bytes, sectors of {}, seed {seed}", disk.sector_size());

    if !only_check {
        let start = Instant::now();
        each_chunk(size, async |offset, bytes| {
            fill(seed, offset, bytes);
            disk.write(offset / disk.sector_size() as u64, bytes).await
        })
        .await
        .map_err(|errno| format!("write: {errno}"))?;
        disk.flush().await.map_err(|errno| format!("flush: {errno}"))?;
        report("written", size, start);
    }
    let start = Instant::now();
    let mut wrong = None;
    let compared = each_chunk(size, async |offset, bytes| check(disk, seed, offset, bytes).await).await;
    match compared {
        Ok(()) => report("read", size, start),
        Err(Wrong::Disk(errno)) => return Err(format!("read: {errno}")),
        Err(Wrong::Data(offset)) => wrong = Some(offset),
    }
    Ok(wrong.map_or(0, |offset| {
        println!("DIFFERENT from byte {offset} on");
        1
    }))
}

/// Calls `work` for each chunk of `size` bytes, several at a time.
async fn each_chunk<E>(size: u64, work: impl AsyncFn(u64, &mut [u8]) -> Result<(), E>) -> Result<(), E> {
    let lanes: [_; DEPTH] = core::array::from_fn(|lane| {
        let work = &work;
        async move {
            let mut buffer = vec![0; CHUNK];
            for offset in (0..size).step_by(CHUNK).skip(lane).step_by(DEPTH) {
                let len = (size - offset).min(CHUNK as u64) as usize;
                work(offset, &mut buffer[..len]).await?;
            }
            Ok(())
        }
    });
    join_array(lanes).await.into_iter().collect()
}

enum Wrong {
    Disk(Errno),
    Data(u64),
}

async fn check(disk: Disk, seed: u64, offset: u64, bytes: &mut [u8]) -> Result<(), Wrong> {
    disk.read(offset / disk.sector_size() as u64, bytes).await.map_err(Wrong::Disk)?;
    for (index, word) in (0..).zip(bytes.chunks_exact(8)) {
        if word != pattern(seed, offset / 8 + index).to_le_bytes() {
            return Err(Wrong::Data(offset + index * 8));
        }
    }
    Ok(())
}

fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (index, word) in (offset / 8..).zip(bytes.chunks_exact_mut(8)) {
        word.copy_from_slice(&pattern(seed, index).to_le_bytes());
    }
}

/// A word that depends on every bit of its place and of the seed.
fn pattern(seed: u64, index: u64) -> u64 {
    let mut word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    word ^ (word >> 32)
}

fn report(what: &str, size: u64, start: Instant) {
    let nanos = start.elapsed().as_nanos().max(1);
    println!("{what} in {} us, {} MiB/s", nanos / 1000, (u128::from(size) * 1_000_000_000 / nanos) >> 20);
}
