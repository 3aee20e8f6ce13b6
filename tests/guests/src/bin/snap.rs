//! ⚠ A guest to be saved and restored; the argument says what it does.
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
        "live" => live(),
        "clone" => clone(),
        "never" => loop {
            hypercall::block(u64::MAX);
        },
        "sectors" => {
            let rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(1000);
            return sectors(rounds).await;
        }
        "overlay" => return overlay(),
        "show" => return show(),
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

/// Half a second and more in one loop, whose values are in registers of every kind.
fn live() {
    const ROUNDS: u64 = 1_500_000_000;
    let (low, high, sum): (u64, u64, u64);
    let (mut spare, mut x87) = ([0u64; 4], 0u64);
    // SAFETY: all registers that change are named, and the x87 stack is left as it was.
    unsafe {
        core::arch::asm!(
            "fldpi",
            "movq xmm1, {one}", "pslldq xmm1, 8", "movq xmm2, {three}", "por xmm1, xmm2",
            "pxor xmm0, xmm0", "pcmpeqd xmm15, xmm15",
            "xor r8d, r8d", "mov r9, 9", "mov r10, 10", "mov r11, 11", "mov r12, 12",
            "2:", "paddq xmm0, xmm1", "inc r8", "dec rcx", "jnz 2b",
            "movq {low}, xmm0", "psrldq xmm0, 8", "movq {high}, xmm0",
            "pand xmm0, xmm15",
            "fstp qword ptr [{x87}]",
            "mov [{spare}], r9", "mov [{spare} + 8], r10", "mov [{spare} + 16], r11", "mov [{spare} + 24], r12",
            "mov {sum}, r8",
            one = in(reg) 1u64, three = in(reg) 3u64, low = out(reg) low, high = out(reg) high,
            sum = out(reg) sum, spare = in(reg) spare.as_mut_ptr(), x87 = in(reg) &raw mut x87,
            inout("rcx") ROUNDS => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    let right = low == 3 * ROUNDS && high == ROUNDS && sum == ROUNDS && spare == [9, 10, 11, 12];
    println!("{}", if right && x87 == core::f64::consts::PI.to_bits() { "right" } else { "WRONG" });
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

/// Prints the first line of its disk after it was saved.
fn show() -> u8 {
    hv_guest::ready();
    let Some(disk) = block::disk(0) else { return 2 };
    let mut sector = vec![0; disk.sector_size()];
    if disk.read_blocking(0, &mut sector).is_err() {
        return 3;
    }
    println!("{}", String::from_utf8_lossy(&sector).lines().next().unwrap_or(""));
    0
}
