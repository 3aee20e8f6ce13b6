//! ⚠ A guest that takes and frees memory; the first argument says how.
#![no_std]
#![no_main]

use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_guest::abi::{Hypercall, PAGE_SIZE};
use hv_guest::embassy_time::{Duration, Instant, Timer};
use hv_guest::prelude::*;
use hv_guest::{block_on, console, cpu, hypercall, memory, start_info};

#[hv_guest::entry]
fn main() -> u8 {
    let mut args = env::args().skip(1);
    let what = args.next().unwrap_or("");
    let number = args.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
    match what {
        "give" => give(number),
        "turns" => turns(number),
        "spin" => give_and_spin(number),
        "grow" => grow(number),
        "churn" => churn(number),
        "small" => small(number),
        "clone" => clone(number),
        "lie" => lie(number),
        "storm" => storm(number),
        "cache" => cache(number),
        "hog" => hog(),
        _ => {
            println!("memory: do not know {what}");
            return 2;
        }
    }
    println!("done");
    0
}

const MIB: usize = 1 << 20;

fn page(number: usize) -> u64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Memory with a different word in each page.
fn fill(bytes: usize) -> Vec<u64> {
    let layout = Layout::array::<u64>(bytes / 8).expect("less than the memory");
    // SAFETY: the size is not 0. The block has this layout, and is as long as that; what the pages held before are numbers as well.
    let mut block = unsafe {
        let start = alloc::alloc::alloc(layout).cast::<u64>();
        assert!(!start.is_null(), "no {bytes} bytes");
        Vec::from_raw_parts(start, bytes / 8, bytes / 8)
    };
    for (number, word) in block.iter_mut().step_by(PAGE_SIZE as usize / 8).enumerate() {
        *word = page(number);
    }
    block
}

fn check(block: &[u64]) {
    for (number, word) in block.iter().step_by(PAGE_SIZE as usize / 8).enumerate() {
        assert_eq!(*word, page(number), "page {number} of {}", block.len() * 8 / PAGE_SIZE as usize);
    }
}

/// Waits for a line from the host. Returns false if there will be none.
fn next() -> bool {
    let mut byte = [0];
    while console::read(&mut byte) == 1 {
        if byte == *b"\n" {
            return true;
        }
    }
    false
}

/// Fills memory, and frees it, each when the host says so.
fn give(mib: usize) {
    for _ in 0..2 {
        let block = fill(mib * MIB);
        println!("filled");
        next();
        check(&block);
        drop(block);
        println!("freed");
        next();
    }
}

/// Fills memory, and frees it, whenever the host says so, for as long as there is somebody to say it.
fn turns(mib: usize) {
    while next() {
        let block = fill(mib * MIB);
        println!("filled");
        if !next() {
            break;
        }
        check(&block);
        drop(block);
        println!("freed");
    }
}

/// Frees memory, and never leaves for the host again.
fn give_and_spin(mib: usize) {
    drop(fill(mib * MIB));
    println!("freed");
    loop {
        core::hint::spin_loop();
    }
}

/// Touches memory for the first time, and says how long that took.
fn grow(mib: usize) {
    let begin = Instant::now();
    let block = fill(mib * MIB);
    println!("grown in {} us", begin.elapsed().as_micros());
    drop(block);
}

/// On each virtual CPU, takes and frees blocks of all sizes, and looks whether they keep what is written.
fn churn(rounds: usize) {
    static LEFT: AtomicU64 = AtomicU64::new(0);
    LEFT.store(cpu::count() as u64, Ordering::SeqCst);
    for number in 0..cpu::count() {
        cpu::spawn_on(number, move || async move {
            let mut seed = number as u64 + 1;
            let mut blocks: Vec<Vec<u64>> = Vec::new();
            for _ in 0..rounds {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let random = |bits: u32| (seed >> bits) as usize;
                if blocks.len() > 12 || (random(60) < 6 && !blocks.is_empty()) {
                    let block = blocks.swap_remove(random(33) % blocks.len());
                    check(&block);
                } else {
                    // 64 bytes to 2 MiB.
                    let mut block = fill(64 << (random(40) % 16));
                    if random(57).is_multiple_of(4) {
                        let len = block.len();
                        check(&block);
                        block.resize(len * 2, 7);
                        for (number, word) in block.iter_mut().step_by(PAGE_SIZE as usize / 8).enumerate() {
                            *word = page(number);
                        }
                    }
                    blocks.push(block);
                }
                if random(50).is_multiple_of(64) {
                    Timer::after(Duration::from_millis(1)).await;
                }
            }
            blocks.iter().for_each(|block| check(block));
            LEFT.fetch_sub(1, Ordering::SeqCst);
        });
    }
    block_on(async {
        while LEFT.load(Ordering::SeqCst) != 0 {
            Timer::after(Duration::from_millis(1)).await;
        }
    });
}

/// Fills memory with small blocks, and frees them, each when the host says so.
fn small(mib: usize) {
    let blocks: Vec<_> = (0..mib * MIB / 1000).map(|n| vec![n as u8; 960]).collect();
    println!("filled");
    next();
    assert!(blocks.iter().enumerate().all(|(n, block)| block.iter().all(|byte| *byte == n as u8)));
    drop(blocks);
    println!("freed");
    next();
}

/// Is saved with memory that it has freed, and uses that memory as a clone.
fn clone(mib: usize) {
    let kept = fill(mib * MIB);
    drop(fill(mib * MIB));
    hv_guest::ready();
    check(&kept);
    let other = fill(mib * MIB);
    check(&other);
    check(&kept);
    drop((kept, other));
    println!("freed");
    next();
}

/// Says of pages that it uses that they are free.
fn lie(mib: usize) {
    let kept = fill(mib * MIB);
    let info = start_info();
    let words = (info.heap_size / PAGE_SIZE).div_ceil(64) * 2;
    let map = info.free_map.0 as *mut u64;
    for word in 0..words {
        // SAFETY: the map has so many words. What is lost are this guest's own bytes.
        unsafe { map.add(word as usize).write_volatile(u64::MAX) };
    }
    let map = hypercall::raw(Hypercall::FreePages as u32, 0, 0);
    assert_eq!(map, 0);
    // Without the heap, in which timers are.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        hypercall::yield_now();
    }
    let lost = kept.iter().step_by(PAGE_SIZE as usize / 8).filter(|word| **word == 0).count();
    println!("lost {lost} pages");
    hv_guest::exit(0);
}

/// Calls the host for its free memory, again and again, while pages go to and fro.
fn storm(rounds: usize) {
    let layout = Layout::from_size_align(MIB, PAGE_SIZE as usize).expect("a power of two");
    for round in 0..rounds {
        // SAFETY: the size is not 0; the block is freed once, with its layout, and used before.
        unsafe {
            let block = alloc::alloc::alloc(layout);
            assert!(!block.is_null());
            block.add(round * 8 % MIB).write(1);
            alloc::alloc::dealloc(block, layout);
        }
        hypercall::raw(Hypercall::FreePages as u32, round as u64, u64::MAX);
    }
}

/// Keeps blocks that it can do without, until the host wants memory.
fn cache(mib: usize) {
    let mut blocks: Vec<_> = (0..mib / 8).map(|_| fill(8 * MIB)).collect();
    println!("filled");
    block_on(async {
        let mut pressure = memory::Pressure::new();
        while !blocks.is_empty() {
            let excess = pressure.next().await;
            assert!(excess > 0);
            while memory::usage().excess() > 0 {
                let Some(block) = blocks.pop() else { break };
                check(&block);
            }
            println!("gave up memory");
        }
    });
}

/// Takes all memory that there is, and keeps it.
fn hog() {
    let mut blocks = Vec::new();
    loop {
        blocks.push(fill(8 * MIB));
        hypercall::yield_now();
    }
}

extern crate alloc;
