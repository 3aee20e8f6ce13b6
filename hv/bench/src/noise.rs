//! Whether this machine is quiet enough for reliable figures.
#![forbid(unsafe_code)]

use hv_stats::interval::median;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::time::Instant;

/// Beyond this, the same work takes different times, in percent.
const MAX_JITTER: f64 = 5.0;
/// Beyond this share of stolen time, the hypervisor below has run other guests, in percent.
const MAX_STEAL: f64 = 1.0;
/// Beyond this, other programs disturb, in percent of all processors.
const MAX_OTHERS: f64 = 10.0;

/// How quiet the machine was, and why the figures are not reliable, if so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The load average of the last minute, before the run.
    pub load_before: f64,
    /// How far most runs of a fixed piece of work lie apart, in percent of its median.
    pub jitter_percent: f64,
    /// Processor time that the hypervisor below kept for others during the run, in percent.
    pub steal_percent: f64,
    /// Processor time that other programs used during the run, in percent of all processors. What this process has started is none of
    /// them.
    pub others_percent: f64,
    /// Rounds that were repeated, because the host was busy with other things.
    pub repeated_rounds: u32,
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

/// Clock ticks that a process and all that it has started have used: those that have ended and were waited for, and those that
/// live, theirs included.
fn family_ticks(pid: u32, depth: u32) -> u64 {
    let folder = format!("/proc/{pid}");
    let stat = std::fs::read_to_string(format!("{folder}/stat")).unwrap_or_default();
    let own = process_ticks(&stat).unwrap_or(0);
    // A tree of processes has an end; one that changes meanwhile need not.
    if depth == 0 {
        return own;
    }
    let threads = std::fs::read_dir(format!("{folder}/task")).into_iter().flatten().flatten();
    let children = threads.flat_map(|thread| {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.split(' ').filter_map(|pid| pid.trim().parse().ok()).collect::<Vec<u32>>()
    });
    own + children.map(|child| family_ticks(child, depth - 1)).sum::<u64>()
}

/// Of a line of `/proc/PID/stat`: user and system time of the process, and of its children that have ended.
fn process_ticks(stat: &str) -> Option<u64> {
    // The name of the program is in parentheses, and may contain anything.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let times = fields.get(11..15)?;
    times.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// What the machine has done since a moment.
struct Since {
    machine: CpuTicks,
    own: u64,
}

/// Shares of all processors' time, in percent, and how many ticks that is.
struct Shares {
    ticks: u64,
    steal: f64,
    others: f64,
}

impl Since {
    fn now() -> Since {
        Since { own: family_ticks(std::process::id(), 4), machine: CpuTicks::now() }
    }

    fn shares(&self) -> Shares {
        let machine = CpuTicks::now();
        let own = family_ticks(std::process::id(), 4).saturating_sub(self.own);
        let ticks = machine.all.saturating_sub(self.machine.all);
        let idle = machine.idle.saturating_sub(self.machine.idle);
        let steal = machine.steal.saturating_sub(self.machine.steal);
        let part = |ticks_of: u64| 100.0 * ticks_of as f64 / ticks.max(1) as f64;
        let others = ticks.saturating_sub(idle + steal + own);
        Shares { ticks, steal: part(steal).min(100.0), others: part(others).min(100.0) }
    }
}

/// Watches the machine during a round.
pub struct RoundWatch(Since);

/// Ticks of a round below which nothing is said of it: one tick is 5 % of so many.
const ROUND_TICKS: u64 = 20;
/// Beyond these shares a round is noisy: three ticks of the shortest.
const ROUND_OTHERS: f64 = 15.0;
const ROUND_STEAL: f64 = 10.0;

impl RoundWatch {
    /// Begins to watch.
    pub fn begin() -> RoundWatch {
        RoundWatch(Since::now())
    }

    /// Whether the machine was busy with other things.
    pub fn end(self) -> bool {
        let shares = self.0.shares();
        shares.ticks >= ROUND_TICKS && (shares.others > ROUND_OTHERS || shares.steal > ROUND_STEAL)
    }
}

/// Watches the machine while something is measured.
pub struct Watch {
    load: f64,
    jitter: f64,
    since: Since,
}

impl Watch {
    /// Measures the jitter, some 50 ms, and begins to watch.
    pub fn begin() -> Watch {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        Watch { load, jitter: jitter(), since: Since::now() }
    }

    /// The result of the watch, during which so many rounds were repeated.
    pub fn end(self, repeated_rounds: u32) -> Noise {
        let Shares { steal, others, .. } = self.since.shares();
        let mut noise = Noise {
            load_before: self.load,
            jitter_percent: self.jitter.max(jitter()),
            steal_percent: steal,
            others_percent: others,
            repeated_rounds,
            warnings: Vec::new(),
        };
        noise.warnings = noise.assess(cfg!(debug_assertions));
        noise
    }
}

/// Times a fixed piece of work many times; how far 80 % of the times lie apart, in percent.
fn jitter() -> f64 {
    let work = || {
        let start = Instant::now();
        (0..400_000u64).fold(0, |sum, n| black_box(sum ^ n));
        start.elapsed().as_nanos() as f64
    };
    work();
    let mut times: Vec<f64> = (0..101).map(|_| work()).collect();
    times.sort_by(f64::total_cmp);
    100.0 * (times[90] - times[10]) / median(&times).max(1.0)
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
    fn a_process_has_its_own_time_and_that_of_what_it_has_waited_for() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 5 6 7";
        assert_eq!(process_ticks(stat), Some(110));
        for bad in ["", "7 (x", "7 (x) S 1", "7 (x) S 1 7 7 0 -1 4194304 100 0 0 0 11 x 33 44"] {
            assert_eq!(process_ticks(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_children_use_is_own_time() {
        let before = family_ticks(std::process::id(), 4);
        let child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .stdin(std::process::Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        // While it lives: five ticks of its own are seen, however long it has to wait for a processor.
        let used = || family_ticks(child.id(), 4);
        while used() < 5 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let living = family_ticks(std::process::id(), 4);
        assert!(living >= before + 5, "{before}, {living}");
        child.kill().unwrap();
        child.wait().unwrap();
        let ended = family_ticks(std::process::id(), 4);
        assert!(ended >= living, "{living}, {ended}");
    }

    #[test]
    fn each_noise_is_named() {
        let mut noise = Noise {
            load_before: 0.1,
            jitter_percent: 1.0,
            steal_percent: 0.0,
            others_percent: 2.0,
            repeated_rounds: 0,
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
