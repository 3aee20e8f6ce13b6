//! A guest that sleeps until given times, and says how late it woke up:
//! `late COUNT PERIOD_IN_MICROSECONDS`.
#![no_std]
#![no_main]

use hv_guest::prelude::*;
use hv_guest::{hypercall, time};

#[hv_guest::entry]
fn main() {
    let mut numbers = env::args().skip(1).map(|number| number.parse::<u64>().expect("arguments are numbers"));
    let count = numbers.next().unwrap_or(100);
    let period = numbers.next().unwrap_or(10_000) * 1000;
    let mut late: Vec<u64> = (0..count)
        .map(|_| {
            let deadline = time::now_nanos() + period;
            while time::now_nanos() < deadline {
                hypercall::block(deadline);
            }
            time::now_nanos() - deadline
        })
        .collect();
    late.sort_unstable();
    let microseconds = |part: u64| late[(count * part / 100).min(count - 1) as usize] / 1000;
    println!("late {} {} {}", microseconds(50), microseconds(99), microseconds(100));
}
