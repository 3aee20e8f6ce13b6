//! `hv bench density`: what the Nth guest costs, and how fast all answer then.
//!
//! Clones of one function are started one after the other, each answers a
//! request, and all stay live. In ten steps on the way, some of those that are
//! live answer another one; in the end all of them do.
//!
//! Empty virtual machines are made beforehand ([`Engine::reserve`](hv_core::Engine::reserve) says
//! why); the time for that is reported separately. On request, the host's memory is touched once beforehand
//! (`backing.rs` says why).
#![forbid(unsafe_code)]

use super::backing::Backing;
use super::clones::{CloneError, CloneGuest, Clones};
use super::table::{digits, host, time};
use hv_core::platform::{Platform, PlatformKind};
use hv_host::machine::Machine;
use hv_stats::Samples;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

/// Steps of the curve.
const STEPS: u32 = 10;
/// Guests that answer at each step.
const ASKED: usize = 200;
/// Descriptors that are not for guests.
const OWN_DESCRIPTORS: u64 = 64;
/// Descriptors of a guest: its virtual CPU; in a process its memory, the process, and a doorbell.
const fn descriptors(platform: PlatformKind) -> u64 {
    match platform {
        PlatformKind::Process => 3,
        _ => 1,
    }
}
/// Mappings of a guest in this process: its memory, and its virtual CPU's page.
const MAPPINGS: u64 = 2;
/// Free memory that is not touched beforehand, in bytes.
const SPARE: u64 = 1 << 30;
/// Host memory that a guest may take, in bytes: a generous guess, to refuse what cannot work.
const GUESS: u64 = 700 << 10;

/// Why density cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum DensityError {
    /// No such number of guests.
    #[error("--guests {0}: use a number from 10 on")]
    Few(u32),
    /// Each guest holds descriptors.
    #[error(
        "--guests {guests}: each guest holds file descriptors, and the limit is {limit}; raise it (ulimit -n) or use --guests {fit}"
    )]
    Descriptors {
        /// What was asked for.
        guests: u32,
        /// The hard limit.
        limit: u64,
        /// What would go.
        fit: u64,
    },
    /// Each guest has two mappings.
    #[error(
        "--guests {guests}: each guest needs two mappings, and a process may have {limit}; raise it (sysctl vm.max_map_count) or use --guests {fit}"
    )]
    Mappings {
        /// What was asked for.
        guests: u32,
        /// The limit.
        limit: u64,
        /// What would go.
        fit: u64,
    },
    /// Not enough memory.
    #[error(
        "--guests {guests}: that needs about {needed} MiB of memory, and {available} MiB are free; use --guests {fit}"
    )]
    Memory {
        /// What was asked for.
        guests: u32,
        /// MiB.
        needed: u64,
        /// MiB.
        available: u64,
        /// What would go.
        fit: u64,
    },
    /// The host or a guest failed.
    #[error(transparent)]
    Clone(#[from] CloneError),
}

/// Version of the JSON.
pub const SCHEMA: u32 = 2;

/// What [`Density::kind`] says.
pub const KIND: &str = "density";

/// The result. Times are in nanoseconds, memory in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Density {
    /// [`SCHEMA`].
    pub schema: u32,
    /// [`KIND`], which other results of `hv bench` have not.
    pub kind: &'static str,
    /// When the measurement began, in seconds since 1970-01-01 UTC.
    pub time: u64,
    /// Where.
    pub machine: Machine,
    /// On which platform.
    pub platform: &'static str,
    /// Guests that were live in the end.
    pub guests: u32,
    /// Guests that answered once more when all were live.
    pub answered: u32,
    /// Time to make one empty virtual machine, before there were guests.
    pub reserve_ns: f64,
    /// If the host's free memory was touched beforehand: time for the first touch of a page of it, and for a touch
    /// of the same memory given anew. The difference is what the host below takes, if there is one.
    pub touch_ns: Option<[f64; 2]>,
    /// Memory that one empty virtual machine takes from the host, on average.
    pub machine_memory: u64,
    /// Memory that all guests share.
    pub shared: u64,
    /// The curve, from few guests to many.
    pub points: Vec<DensityPoint>,
    /// Start of the last tenth by that of the first: ratio of the medians.
    pub last_by_first: f64,
}

/// A point of the curve: the figures with this many live guests.
#[derive(Clone, Debug, Serialize)]
pub struct DensityPoint {
    /// How many.
    pub live: u32,
    /// Start to first answer, of the guests of this step.
    pub start_ns: Times,
    /// Request to answer, of some that were live.
    pub answer_ns: Times,
    /// Private memory of one guest in this process, on average.
    pub private: u64,
    /// All that one live guest takes from the host, its machine and the kernel's part included, on average. What machines take that
    /// have no guest yet is not in it.
    pub whole: u64,
}

/// Percentiles of times.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    /// How many times there are.
    pub n: u64,
    /// Their median.
    pub median: f64,
    /// 10 % do not exceed it, if there are times enough to say so.
    pub p10: Option<f64>,
    /// 90 % do not exceed it, likewise.
    pub p90: Option<f64>,
    /// 99 % do not exceed it, likewise.
    pub p99: Option<f64>,
}

impl Times {
    fn of(samples: &Samples) -> Times {
        let [p10, p90, p99] = [10.0, 90.0, 99.0].map(|percent| samples.known_percentile(percent));
        Times { n: samples.len(), median: samples.percentile(50.0), p10, p90, p99 }
    }
}

/// What one guest takes, when `used` bytes are gone of which `made` went to `machines` empty machines, before any of the `live`
/// guests: a machine's part of the one, and a guest's of the other.
fn per_guest(used: u64, made: u64, machines: u64, live: u64) -> u64 {
    made / machines.max(1) + used.saturating_sub(made) / live.max(1)
}

/// Receives the progress of a density measurement.
pub trait DensityProgress {
    /// So much of the memory for the guests has been touched, in bytes.
    fn touched(&mut self, bytes: u64, of: u64);

    /// So many guests are live.
    fn live(&mut self, guests: u32, of: u32);
}

/// Measures with `guests` clones of the function in this image; if `touch`, once all free memory of the host
/// has been touched. Then the hypervisor below also changes what is free, and the memory of a guest is a
/// rough figure.
///
/// The guests are left to the end of the process: to close ten thousand virtual machines one by
/// one takes the kernel minutes.
///
/// # Errors
///
/// When the host has no room for so many, or fails.
pub fn measure(
    image: &Path,
    platform: Box<dyn Platform>,
    guests: u32,
    touch: bool,
    progress: &mut dyn DensityProgress,
) -> Result<Density, DensityError> {
    check(guests, platform.kind())?;
    let name = platform.name();
    let clones = Clones::new(image, platform, 0)?;
    // Three quarters of a guest's memory is taken when it starts, the rest with its machine.
    let later = u64::from(guests) * GUESS / 4 * 3;
    let mut backing = touch.then(|| {
        let all = memory_of("MemFree:").saturating_sub(SPARE).max(u64::from(guests) * GUESS);
        let mut backing = Backing::touch(all, &mut |bytes| progress.touched(bytes, all));
        backing.keep(later);
        backing
    });
    let held = |backing: &Option<Backing>| backing.as_ref().map_or(0, Backing::held);
    let before = available_memory() + held(&backing);
    let time = hv_host::clock::wall_clock() / 1_000_000_000;
    let begin = Instant::now();
    let reserved = clones.reserve(guests as usize);
    let reserve = begin.elapsed();
    let made = before.saturating_sub(available_memory() + held(&backing));

    let mut live: Vec<CloneGuest> = Vec::with_capacity(guests as usize);
    let mut points = Vec::new();
    for step in 1..=STEPS {
        let upto = (u64::from(guests) * u64::from(step) / u64::from(STEPS)) as usize;
        let mut starts = Samples::default();
        if let Some(backing) = &mut backing {
            backing.keep(later.saturating_sub(upto as u64 * GUESS / 4 * 3));
        }
        while live.len() < upto {
            let (clone, took) = timed(|| {
                let clone = clones.start()?;
                clone.ask()?;
                Ok::<_, CloneError>(clone)
            })?;
            starts.record(took, 1);
            live.push(clone);
        }
        // Spread over all that are live.
        let every = (live.len() / ASKED).max(1);
        let mut answers = Samples::default();
        for clone in live.iter().step_by(every) {
            answers.record(timed(|| clone.ask())?.1, 1);
        }
        let asked = live.iter().step_by(every);
        let private: u64 = asked.clone().map(CloneGuest::private).sum::<u64>() / asked.count().max(1) as u64;
        let used = before.saturating_sub(available_memory() + held(&backing));
        points.push(DensityPoint {
            live: live.len() as u32,
            start_ns: Times::of(&starts),
            answer_ns: Times::of(&answers),
            private,
            whole: per_guest(used, made, reserved as u64, live.len() as u64),
        });
        progress.live(live.len() as u32, guests);
    }
    let mut answered = 0;
    for clone in &live {
        clone.ask()?;
        answered += 1;
    }
    let median = |point: Option<&DensityPoint>| point.map_or(0.0, |point| point.start_ns.median);
    let last_by_first = median(points.last()) / median(points.first());
    let shared = clones.shared();
    std::mem::forget(live);
    std::mem::forget(clones);
    Ok(Density {
        schema: SCHEMA,
        kind: KIND,
        time,
        machine: Machine::of_this_host(),
        platform: name,
        guests,
        answered,
        reserve_ns: reserve.as_nanos() as f64 / reserved.max(1) as f64,
        touch_ns: backing.map(|backing| backing.touch_ns),
        machine_memory: made / reserved.max(1) as u64,
        shared,
        points,
        last_by_first,
    })
}

/// The table: heads, then a row for each step.
pub fn rows(density: &Density) -> Vec<Vec<String>> {
    let heads = ["live", "start p50", "p99", "answer p50", "p99", "own", "with the kernel's"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    for point in &density.points {
        let of = |times: &Times| [time(times.median), times.p99.map_or("–".into(), time)];
        let [start, start_tail] = of(&point.start_ns);
        let [answer, answer_tail] = of(&point.answer_ns);
        let (own, whole) = (memory(point.private as f64), memory(point.whole as f64));
        rows.push(vec![point.live.to_string(), start, start_tail, answer, answer_tail, own, whole]);
    }
    rows
}

/// The table and what is below it, for a terminal.
pub fn text(density: &Density) -> String {
    let mut text = host(&density.machine).join("\n") + "\n\n";
    for row in rows(density) {
        let cells: Vec<_> = row.iter().map(|cell| format!("{cell:>19}")).collect();
        text += &(cells.join("").trim_end().to_owned() + "\n");
    }
    text += &format!(
        "\n{} guests answered once more when all were live\n\
         start of the last tenth by that of the first: {:.2}\n\
         shared by all: {}\n",
        density.answered,
        density.last_by_first,
        memory(density.shared as f64),
    );
    if density.machine_memory > 0 {
        let (took, size) = (time(density.reserve_ns), memory(density.machine_memory as f64));
        text += &format!("made beforehand: an empty virtual machine for each, {took} and {size} each\n");
    }
    if let Some([first, again]) = density.touch_ns {
        let [first, again] = [first, again].map(time);
        text +=
            &format!("touched beforehand: the host's free memory, {first} a page at first, {again} again\n");
    }
    text
}

/// Bytes with a unit that suits them.
pub fn memory(bytes: f64) -> String {
    match bytes {
        b if b < 1024.0 => format!("{b:.0} B"),
        b if b < 1024.0 * 1024.0 => format!("{} KiB", digits(b / 1024.0)),
        b if b < 1024.0 * 1024.0 * 1024.0 => format!("{} MiB", digits(b / 1024.0 / 1024.0)),
        b => format!("{} GiB", digits(b / 1024.0 / 1024.0 / 1024.0)),
    }
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let begin = Instant::now();
    let result = work()?;
    let took: Duration = begin.elapsed();
    Ok((result, took.as_nanos() as f64))
}

/// Checks beforehand the limits that the measurement would hit.
fn check(guests: u32, platform: PlatformKind) -> Result<(), DensityError> {
    if guests < STEPS {
        return Err(DensityError::Few(guests));
    }
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX);
    let wanted = u64::from(guests);
    let each = descriptors(platform);
    if wanted * each + OWN_DESCRIPTORS > limit {
        let fit = limit.saturating_sub(OWN_DESCRIPTORS) / each;
        return Err(DensityError::Descriptors { guests, limit, fit });
    }
    let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(65_530);
    const OWN_MAPPINGS: u64 = 1000;
    if wanted * MAPPINGS + OWN_MAPPINGS > mappings {
        let fit = mappings.saturating_sub(OWN_MAPPINGS) / MAPPINGS;
        return Err(DensityError::Mappings { guests, limit: mappings, fit });
    }
    let available = available_memory();
    if wanted * GUESS > available {
        let (needed, fit) = ((wanted * GUESS) >> 20, available / GUESS);
        return Err(DensityError::Memory { guests, needed, available: available >> 20, fit });
    }
    Ok(())
}

/// Bytes that the host could still give, as the kernel estimates it.
fn available_memory() -> u64 {
    memory_of("MemAvailable:")
}

/// Bytes of a line of /proc/meminfo (proc(5)); everything, if there is no such line.
fn memory_of(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let rest = text.lines().find_map(|candidate| candidate.strip_prefix(line));
    let kib = rest.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_has_no_room_for_is_refused_beforehand() {
        assert!(matches!(check(3, PlatformKind::Kvm), Err(DensityError::Few(3))));
        let error = check(u32::MAX, PlatformKind::Kvm).unwrap_err().to_string();
        assert!(error.starts_with("--guests 4294967295: ") && error.contains("use --guests "), "{error}");
        assert!(check(10, PlatformKind::Process).is_ok());
    }

    #[test]
    fn a_guest_is_charged_for_its_own_machine_and_not_for_those_without_a_guest() {
        // A thousand machines of 30 KiB, and guests that take 500 KiB each.
        let used = |live: u64| (1000 * 30 + live * 500) << 10;
        for live in [100, 500, 1000] {
            assert_eq!(per_guest(used(live), (1000 * 30) << 10, 1000, live), 530 << 10, "{live}");
        }
        // None made beforehand; and less used than before.
        assert_eq!(per_guest(5000, 0, 0, 10), 500);
        assert_eq!(per_guest(0, 100, 10, 1), 10);
    }
}
