//! Async timers side by side: ticks, a stopwatch of the ticks, and the wall clock.
//!
//! ```text
//! hv run clock -- 5        # five ticks, then the end; without a number, until Ctrl-C
//! ```
#![no_std]
#![no_main]

use hv_guest::embassy_futures::select::{Either, select};
use hv_guest::embassy_time::{Duration, Instant, Ticker};
use hv_guest::prelude::*;
use hv_guest::time;

const PERIOD: Duration = Duration::from_millis(200);

#[hv_guest::entry]
async fn main() {
    let limit = env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(u64::MAX);
    if let Either::Second(()) = select(tick(limit), hv_guest::shutdown()).await {
        println!("asked to shut down");
    }
}

async fn tick(limit: u64) {
    let start = Instant::now();
    let mut ticker = Ticker::every(PERIOD);
    for tick in 1..=limit {
        ticker.next().await;
        let late = (start.elapsed() - PERIOD * tick as u32).as_micros();
        println!("tick {tick}: {:.6} s up, {late} us late, {} UTC", seconds(time::now_nanos()), date());
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// The wall clock as text.
fn date() -> String {
    let seconds = time::wall_nanos() / 1_000_000_000;
    let (days, of_day) = (seconds / 86400, seconds % 86400);
    // Days since 1970 to a date of the Gregorian calendar, in eras of 400
    // years that start on 1 March, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year_of_era + era * 400, month + 3),
        _ => (year_of_era + era * 400 + 1, month - 9),
    };
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}
