//! A guest that tries what the SDK and the host promise; the argument says what.
#![no_std]
#![no_main]

use hv_guest::prelude::*;
use hv_guest::{hypercall, random, time};

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let what = args.next().unwrap_or("");
    match what {
        "exit" => return args.next().and_then(|code| code.parse().ok()).unwrap_or(0),
        "env" => env::vars().for_each(|(key, value)| println!("{key}={value}")),
        "args" => env::args().for_each(|argument| println!("<{argument}>")),
        "memory-routines" => memory_routines(),
        "heap" => heap(),
        "clock" => clock(),
        "random" => random_numbers(),
        "lines" => (0..args.next().and_then(|n| n.parse().ok()).unwrap_or(1000u32))
            .for_each(|n| println!("line {n}")),
        "hypercalls" => return hypercalls(args.next().and_then(|n| n.parse().ok()).unwrap_or(1000)),
        "doorbells" => doorbells(args.next().and_then(|n| n.parse().ok()).unwrap_or(1000)),
        _ => {
            println!("no such probe: {what}");
            return 2;
        }
    }
    0
}

/// Copies, fills and compares of every length and overlap against loops by the byte.
fn memory_routines() {
    const LEN: usize = 700;
    let pattern: Vec<u8> = (0..2 * LEN).map(|n| (n * 7 + n / 256) as u8).collect();
    for len in (0..LEN).filter(|len| *len < 80 || len % 17 == 0) {
        for (from, to) in [(0, 0), (0, 1), (1, 0), (0, 13), (13, 0), (3, 67), (67, 3), (0, 600), (600, 0)] {
            let mut ours = pattern.clone();
            ours.copy_within(from..from + len, to);
            for at in 0..ours.len() {
                let expected =
                    if (to..to + len).contains(&at) { pattern[at - to + from] } else { pattern[at] };
                assert_eq!(ours[at], expected, "move of {len} from {from} to {to}, byte {at}");
            }
        }
        for start in [0, 1, 5, 16] {
            let mut ours = pattern.clone();
            ours[start..start + len].fill(0xa5);
            for at in 0..ours.len() {
                let expected = if (start..start + len).contains(&at) { 0xa5 } else { pattern[at] };
                assert_eq!(ours[at], expected, "fill of {len} at {start}, byte {at}");
            }
            let mut other = pattern.clone();
            assert_eq!(other[start..start + len], pattern[start..start + len]);
            for at in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|&at| at < len) {
                other[start + at] ^= 0x81;
                let expected = other[start + at].cmp(&pattern[start + at]);
                assert_eq!(other[start..start + len].cmp(&pattern[start..start + len]), expected);
                other[start + at] ^= 0x81;
            }
        }
    }
    println!("memory routines agree");
}

/// Allocates, checks and frees in an irregular order.
fn heap() {
    let mut blocks: Vec<(usize, Vec<u8>)> = Vec::new();
    for round in 0..2000usize {
        let len = (round * 7919) % 9000;
        blocks.push((round, vec![round as u8; len]));
        if blocks.len() > 200 {
            let (tag, block) = blocks.swap_remove((round * 31) % 200);
            assert!(block.iter().all(|&byte| byte == tag as u8));
        }
    }
    println!("heap holds");
}

fn clock() {
    let (start, wall) = (time::Instant::now(), time::wall_nanos());
    let mut last = start;
    for _ in 0..100_000 {
        let now = time::Instant::now();
        assert!(now >= last);
        last = now;
    }
    time::sleep(time::Duration::from_millis(50));
    let slept = last.elapsed();
    assert!(slept >= time::Duration::from_millis(50), "slept {slept:?}");
    let host = hypercall::wall_clock();
    let guest = time::wall_nanos();
    println!("wall {guest} host {host} passed {}", guest - wall);
}

fn random_numbers() {
    let mut bytes = [0; 32];
    random::fill(&mut bytes);
    bytes.iter().for_each(|byte| print!("{byte:02x}"));
    random::reseed();
    random::fill(&mut bytes);
    bytes.iter().for_each(|byte| print!("{byte:02x}"));
    println!();
}

/// Times synchronous hypercalls; prints nanoseconds each.
fn hypercalls(count: u64) -> u8 {
    let start = time::now_nanos();
    (0..count).for_each(|_| hypercall::nop());
    println!("{}", (time::now_nanos() - start) / count.max(1));
    0
}

/// Times doorbells of the console; prints nanoseconds each.
fn doorbells(count: u64) {
    let start = time::now_nanos();
    (0..count).for_each(|_| hypercall::event_send(hv_guest::abi::event::FIRST_DEVICE));
    println!("{}", (time::now_nanos() - start) / count.max(1));
}
