//! Whether this machine is quiet enough for reliable figures.
#![forbid(unsafe_code)]

use super::stats::{Spread, cpu_time};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Beyond this, the same work takes different times, in percent.
const MAX_JITTER: f64 = 5.0;
/// Beyond this share of stolen time, the hypervisor below has run other guests, in percent.
const MAX_STEAL: f64 = 1.0;
/// Beyond this, other programs disturb, in percent of all processors.
const MAX_OTHERS: f64 = 10.0;

/// How quiet the machine was, and why the figures are not reliable, if so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// The load average of the last minute, before the run.
    pub load_before: f64,
    /// How far most runs of a fixed piece of work lie apart, in percent of its median.
    pub jitter_percent: f64,
    /// Processor time that the hypervisor below kept for others during the run, in percent.
    pub steal_percent: f64,
    /// Processor time that other programs used during the run, in percent of all processors.
    pub others_percent: f64,
    /// Why the figures are not to be relied on; empty if they are.
    pub warnings: Vec<String>,
}

/// Processor times of the whole machine since its start, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTicks {
    all: u64,
    idle: u64,
    steal: u64,
}

impl CpuTicks {
    /// From the first line of `/proc/stat`.
    fn of(stat: &str) -> Option<CpuTicks> {
        let fields: Vec<u64> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
        let [_, _, _, idle, waiting, _, _, steal, ..] = fields[..] else { return None };
        Some(CpuTicks { all: fields[..8].iter().sum(), idle: idle + waiting, steal })
    }

    fn now() -> CpuTicks {
        std::fs::read_to_string("/proc/stat").ok().and_then(|stat| CpuTicks::of(&stat)).unwrap_or_default()
    }
}

/// Watches the machine while something is measured.
pub struct Watch {
    load: f64,
    jitter: f64,
    ticks: CpuTicks,
    begin: Instant,
    cpu: Duration,
}

impl Watch {
    /// Measures the jitter, some 50 ms, and begins to watch.
    pub fn begin() -> Watch {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let jitter = jitter();
        Watch { load, jitter, ticks: CpuTicks::now(), begin: Instant::now(), cpu: cpu_time() }
    }

    /// The result of the watch.
    pub fn end(self) -> Noise {
        let now = CpuTicks::now();
        let all = now.all.saturating_sub(self.ticks.all).max(1) as f64;
        let idle = now.idle.saturating_sub(self.ticks.idle) as f64;
        let steal = now.steal.saturating_sub(self.ticks.steal) as f64;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get()) as f64;
        let own = (cpu_time() - self.cpu).as_secs_f64() / (self.begin.elapsed().as_secs_f64() * cores);
        let others = 100.0 * (1.0 - (idle + steal) / all - own);
        let mut noise = Noise {
            load_before: self.load,
            jitter_percent: self.jitter.max(jitter()),
            steal_percent: 100.0 * steal / all,
            others_percent: others.clamp(0.0, 100.0),
            warnings: Vec::new(),
        };
        noise.warnings = noise.assess(cfg!(debug_assertions));
        noise
    }
}

/// Times a fixed piece of work many times; how far most times lie apart, in percent.
fn jitter() -> f64 {
    let work = || {
        let start = Instant::now();
        (0..400_000u64).fold(0, |sum, n| black_box(sum ^ n));
        start.elapsed().as_nanos() as f64
    };
    work();
    let spread = Spread::of((0..100).map(|_| work()));
    100.0 * (spread.high - spread.low) / spread.median.max(1.0)
}

impl Noise {
    /// Reasons not to rely on the figures.
    fn assess(&self, debug_build: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if debug_build {
            warnings.push("hv was built without optimisation; use `cargo run --release -- bench`".into());
        }
        if self.jitter_percent > MAX_JITTER {
            warnings.push(format!(
                "the same piece of work takes times that lie {:.0} % apart; the processor is shared or changes its frequency",
                self.jitter_percent
            ));
        }
        if self.steal_percent > MAX_STEAL {
            warnings.push(format!(
                "the hypervisor below kept {:.1} % of the processors' time for others",
                self.steal_percent
            ));
        }
        if self.others_percent > MAX_OTHERS {
            warnings.push(format!(
                "other programs used {:.0} % of the processors meanwhile; end them",
                self.others_percent
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_ticks_are_read() {
        let ticks = CpuTicks::of("cpu  10 1 5 70 4 1 2 7 3 0\ncpu0 1 2 3\n").unwrap();
        assert_eq!(ticks, CpuTicks { all: 100, idle: 74, steal: 7 });
        for bad in ["", "cpu  1 2 3", "cpu  a b c d e f g h", "intr 1"] {
            assert_eq!(CpuTicks::of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn each_noise_is_named() {
        let mut noise = Noise {
            load_before: 0.1,
            jitter_percent: 1.0,
            steal_percent: 0.0,
            others_percent: 2.0,
            warnings: Vec::new(),
        };
        assert_eq!(noise.assess(false), Vec::<String>::new());
        assert!(noise.assess(true)[0].contains("--release"));
        (noise.jitter_percent, noise.steal_percent, noise.others_percent) = (40.0, 3.0, 50.0);
        let warnings = noise.assess(false);
        assert_eq!(warnings.len(), 3);
        assert!(
            warnings[0].contains("40 %") && warnings[1].contains("3.0 %") && warnings[2].contains("50 %")
        );
    }
}
