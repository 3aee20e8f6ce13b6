//! ⚠ How long a client waits for its answers: alone, and while a neighbour of its guest attacks.
//!
//! A window is some hundreds of milliseconds of questions, one after the other with pauses, and is summed up by its
//! median and its 99th percentile. Windows with and without the attack stand side by side, so that a host that
//! drifts hits both.
#![allow(unsafe_code, reason = "a priority")]

use crate::pair::words;
use hv_stats::Estimate;
use std::time::{Duration, Instant};

/// How long a client waits between an answer and its next question: it uses less than its share.
const PAUSE: Duration = Duration::from_micros(300);

/// What one window came to.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Half of the answers took no longer.
    pub median: Duration,
    /// Nor did 99 of 100.
    pub p99: Duration,
}

/// Asks again and again for this long.
pub fn window(length: Duration, ask: &mut dyn FnMut()) -> Window {
    let until = Instant::now() + length;
    let mut times = Vec::new();
    while times.is_empty() || Instant::now() < until {
        let start = Instant::now();
        ask();
        times.push(start.elapsed());
        std::thread::sleep(PAUSE);
    }
    times.sort_unstable();
    Window { median: at(&times, 0.5), p99: at(&times, 0.99) }
}

fn at<T: Copy>(sorted: &[T], part: f64) -> T {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// Pairs of windows, alone first.
#[derive(Clone, Debug, Default)]
pub struct Pairs(Vec<(Window, Window)>);

impl Pairs {
    /// One more pair.
    pub fn add(&mut self, alone: Window, beside: Window) {
        self.0.push((alone, beside));
    }

    /// The ratios of neighbouring windows' 99th percentiles.
    pub fn ratio(&self) -> Estimate {
        let ratio = |(alone, beside): &(Window, Window)| beside.p99.as_secs_f64() / alone.p99.as_secs_f64();
        Estimate::of(self.0.iter().map(ratio), 1)
    }

    /// A line of the table in `docs/performance.md`.
    pub fn line(&self, platform: &str, what: &str) -> String {
        let median = |of: &dyn Fn(&(Window, Window)) -> Duration| {
            Estimate::of(self.0.iter().map(|pair| of(pair).as_secs_f64() * 1e6), 1).median
        };
        format!(
            "neighbour: {platform} | {what} | alone p50 {:.0} µs, p99 {:.0} µs | beside p50 {:.0} µs, p99 {:.0} µs | \
             p99 {} | reach 3",
            median(&|pair| pair.0.median),
            median(&|pair| pair.0.p99),
            median(&|pair| pair.1.median),
            median(&|pair| pair.1.p99),
            words(&self.ratio()),
        )
    }
}

/// Has this thread run before all others whenever it is ready, as if it had a processor of its own: the client of
/// a real neighbour is on another machine. Threads that it starts are ordinary ones. Returns whether the host allows that.
pub fn be_elsewhere() -> bool {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the struct lives during the call; 0 is this thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const first) == 0
    }
}
