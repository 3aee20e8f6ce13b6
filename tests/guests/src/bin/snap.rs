//! A guest to be saved and restored; the argument says what it does.
#![no_std]
#![no_main]

use hv_guest::block::{self, Disk};
use hv_guest::embassy_futures::join::join_array;
use hv_guest::prelude::*;
use hv_guest::time::{Duration, Instant};
use hv_guest::{generation, hypercall, random, time};

#[hv_guest::entry]
async fn main() -> u8 {
    let mut args = env::args().skip(1);
    match args.next().unwrap_or("") {
        "ready" => ready(),
        "clone" => clone(),
        "never" => loop {
            hypercall::block(u64::MAX);
        },
        "sectors" => {
            let rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(1000);
            return sectors(rounds).await;
        }
        "overlay" => return overlay(),
        "big" => {
            // Memory that no two pages have in common.
            let pages: Vec<u64> = (0..24 << 17).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
            println!("filled");
            hv_guest::ready();
            println!("{}", pages.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)));
        }
        what => {
            println!("no such test: {what}");
            return 2;
        }
    }
    0
}

fn ready() {
    println!("before");
    hv_guest::ready();
    println!("after, {}", env::args().nth(2).unwrap_or("nobody"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prints what has to be another thing in each clone, and what has not.
fn clone() {
    let mut bytes = [0; 32];
    random::fill(&mut bytes);
    println!("random {}", hex(&bytes));
    println!("time {} {}", time::now_nanos(), time::wall_nanos());
    hv_guest::ready();
    println!("time {} {}", time::now_nanos(), time::wall_nanos());
    println!("generation {}", hex(&generation()));
    random::fill(&mut bytes);
    println!("random {}", hex(&bytes));
    // A generator that is used for the first time.
    random::reseed();
    random::fill(&mut bytes);
    println!("reseeded {}", hex(&bytes));
}

const LANES: usize = 16;

/// Writes sectors with numbers that count up, several at a time, and reads each
/// back before its next number. Every lane has sectors of its own, so a write that is lost, or
/// done again later, shows; and every request has to be answered once.
async fn sectors(rounds: u64) -> u8 {
    let Some(disk) = block::disk(0) else {
        println!("no disk");
        return 2;
    };
    println!("start");
    let lanes: [_; LANES] = core::array::from_fn(|lane| work(disk, lane as u64, rounds));
    let wrong: u64 = join_array(lanes).await.into_iter().sum();
    println!("{} rounds, {wrong} wrong", rounds);
    u8::from(wrong > 0)
}

async fn work(disk: Disk, lane: u64, rounds: u64) -> u64 {
    let size = disk.sector_size();
    let mine = disk.sectors() / LANES as u64;
    let (mut out, mut back) = (vec![0; size], vec![0; size]);
    let mut last = vec![0; mine as usize];
    let mut wrong = 0;
    for round in 1..=rounds {
        let n = (round.wrapping_mul(0x9e37_79b9) >> 3) % mine;
        let sector = lane * mine + n;
        if disk.read(sector, &mut back).await.is_err() || word(&back) != last[n as usize] {
            println!(
                "lane {lane}, round {round}, sector {sector}: {} instead of {}",
                word(&back),
                last[n as usize]
            );
            wrong += 1;
        }
        out.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&round.to_le_bytes()));
        let answer = if round % 64 == 0 { disk.flush().await.err() } else { None };
        if disk.write(sector, &out).await.is_err() || answer.is_some() {
            wrong += 1;
        }
        last[n as usize] = round;
    }
    wrong
}

/// The number of a sector; all its words have to be the same.
fn word(bytes: &[u8]) -> u64 {
    let words = || bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    let first = words().next().unwrap_or(0);
    if words().all(|word| word == first) { first } else { u64::MAX }
}

/// Writes to its disk after it was saved, and reads what it wrote.
fn overlay() -> u8 {
    let Some(disk) = block::disk(0) else { return 2 };
    let size = disk.sector_size();
    let mut old = vec![0; 8 * size];
    if disk.read_blocking(0, &mut old).is_err() {
        return 3;
    }
    println!("read {}", old[0]);
    hv_guest::ready();
    let start = Instant::now();
    let new: Vec<u8> = old.iter().map(|byte| byte ^ 0xff).collect();
    let done = disk
        .write_blocking(2, &new[..4 * size])
        .and_then(|()| disk.write_zeroes_blocking(7, 1))
        .and_then(|()| disk.flush_blocking());
    if let Err(errno) = done {
        println!("{errno}");
        return 4;
    }
    let mut back = vec![0; 8 * size];
    if disk.read_blocking(0, &mut back).is_err() {
        return 5;
    }
    let right = back[..2 * size] == old[..2 * size]
        && back[2 * size..6 * size] == new[..4 * size]
        && back[6 * size..7 * size] == old[6 * size..7 * size]
        && back[7 * size..].iter().all(|&byte| byte == 0)
        && start.elapsed() < Duration::from_secs(60);
    println!("{}", if right { "right" } else { "WRONG" });
    u8::from(!right)
}
