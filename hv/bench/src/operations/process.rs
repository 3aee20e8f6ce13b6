//! ⚠ Guests in processes: what the platform `process` costs, beside what its parts cost any program.
//!
//! # Invariants that the `unsafe` blocks rely on
//!
//! 1. The child of a fork makes system calls and touches the shared word, and nothing else: this
//!    process may have other threads.
#![allow(unsafe_code, reason = "the other process of the futex floor")]

use crate::guest::Guests;
use crate::operation::{Group, Kind, Operation, OperationError, Round, Spec};
use crate::timer::{counter_overhead, cpu_time, nanos_since};
use hv_core::platform::process::ProcessPlatform;
use hv_host::clock::tsc;
use hv_stats::Samples;
use rustix::fs::MemfdFlags;
use rustix::thread::futex::{self, Flags};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// How long hv and a guest look before they sleep (`SPIN` in `hv/core/src/platform/process/page.rs`).
const SPIN: Duration = Duration::from_micros(10);

/// What guests measure on this platform as on KVM, and compare with that.
const PAIRS: [&str; 6] =
    ["doorbell", "console-64k", "block-4k-d1", "block-4k-d32", "net-round-trip", "net-stream"];

/// A program that ends at once: an ELF header, a program header, and three instructions.
const PROGRAM: [u64; 16] = [
    // Magic, 64 bits, little-endian.
    0x00010102464c457f,
    0x0000000000000000,
    // A program for x86-64, its entry, one program header of 56 bytes behind this one of 64.
    0x00000001003e0002,
    0x0000000000400078,
    0x0000000000000040,
    0x0000000000000000,
    0x0038004000000000,
    0x0000000000000001,
    // Loadable, to be read and executed: the whole file.
    0x0000000500000001,
    0x0000000000000000,
    0x0000000000400000,
    0x0000000000400000,
    0x0000000000000080,
    0x0000000000000080,
    0x0000000000001000,
    // xor %edi, %edi; push $60; pop %rax; syscall
    0x90050f583c6aff31,
];

fn spec(name: &str, kind: Kind, against: Option<&str>, what: &str) -> Spec {
    let (name, what, against) = (name.into(), what.into(), against.map(Into::into));
    Spec { name, group: Group::Process, kind, against, bytes: 0, curve: None, what }
}

/// All of them; none where the platform cannot be had.
pub(super) fn operations(bench: &Path, null: &Path) -> Result<Vec<Box<dyn Operation>>, OperationError> {
    let platform = match ProcessPlatform::new() {
        Ok(platform) => platform,
        Err(error) => {
            tracing::warn!("not measured: {error}");
            return Ok(Vec::new());
        }
    };
    let guests = Rc::new(Guests::new(bench, null, Box::new(platform))?);
    let what = "A futex round trip between two processes that sleep meanwhile: what any hypercall between processes costs.";
    let futex = Futex { spec: spec("futex", Kind::Floor, None, what), pair: Pair::start(Duration::ZERO)? };
    let what =
        "The same between two processes that look for 10 us before they sleep, as hv and its guests do.";
    let spinning = Futex { spec: spec("futex-spinning", Kind::Floor, None, what), pair: Pair::start(SPIN)? };
    let what = "A program of three instructions, from its spawning (vfork and exec) to its end.";
    let spawn = Spawn { spec: spec("spawn", Kind::Floor, None, what), program: program()? };
    let what = "A guest in a process of its own, up to its first hypercall.";
    let boot =
        Boot { spec: spec("process-boot", Kind::Process, Some("spawn"), what), guests: guests.clone() };
    let mut all: Vec<Box<dyn Operation>> =
        vec![Box::new(futex), Box::new(spinning), Box::new(spawn), Box::new(boot)];
    for operation in guests.operations()? {
        let inner = operation.spec();
        let against = match &*inner.name {
            "hypercall" => "futex-spinning",
            name if PAIRS.contains(&name) => name,
            _ => continue,
        };
        let spec = Spec {
            name: format!("process-{}", inner.name),
            group: Group::Process,
            kind: Kind::Process,
            against: Some(against.into()),
            bytes: inner.bytes,
            curve: None,
            what: format!("On the platform process: {}", inner.what),
        };
        all.push(Box::new(OfGuest { spec, inner: Box::new(operation) }));
    }
    Ok(all)
}

/// What a guest measures, under another name.
struct OfGuest {
    spec: Spec,
    inner: Box<dyn Operation>,
}

impl Operation for OfGuest {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        self.inner.round(count)
    }
}

struct Boot {
    spec: Spec,
    guests: Rc<Guests>,
}

impl Operation for Boot {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let start = || Ok(self.guests.start_null()?);
        super::boot::starts(count, start, |guest| guest.counters().iter().map(|(_, count)| count).sum())
    }
}

struct Spawn {
    spec: Spec,
    program: (OwnedFd, PathBuf),
}

/// The program in a file that can be executed.
fn program() -> io::Result<(OwnedFd, PathBuf)> {
    let mut file = File::from(rustix::fs::memfd_create("hv-bench-program", MemfdFlags::empty())?);
    file.write_all(&PROGRAM.map(u64::to_le_bytes).concat())?;
    // Open for writing it could not be executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let file = OwnedFd::from(File::open(path)?);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
    Ok((file, path))
}

impl Operation for Spawn {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let start = || {
            let mut command = Command::new(&self.program.1);
            let status = command.stdin(Stdio::null()).env_clear().status()?;
            match status.code() {
                Some(0) => Ok(()),
                _ => Err(OperationError::Host(io::Error::other(format!("it ended with {status}")))),
            }
        };
        super::boot::starts(count, start, |()| 0)
    }
}

struct Futex {
    spec: Spec,
    pair: Pair,
}

/// Another process that answers.
struct Pair {
    region: MmapRegion,
    child: libc::pid_t,
    /// How long each looks before it sleeps, in ticks of the time-stamp counter.
    spin: u64,
}

const OURS: u32 = 0;
const THEIRS: u32 = 1;

/// Set in the word by the one that waits for it and sleeps; the other side may have the word meanwhile, and wakes this one then, which does no harm.
const ASLEEP: u32 = 2;

/// Gives the word to the other side, and waits to get it back.
fn exchange(word: &AtomicU32, mine: u32, other: u32, spin: u64) {
    if word.swap(other, Ordering::AcqRel) & ASLEEP != 0 {
        let _ = futex::wake(word, Flags::empty(), 1);
    }
    wait(word, mine, other, spin);
}

/// Waits for the word: for so many ticks by looking at it, then asleep.
fn wait(word: &AtomicU32, mine: u32, other: u32, spin: u64) {
    let start = tsc();
    loop {
        let value = word.load(Ordering::Acquire);
        // The other side may sleep by now.
        if value & !ASLEEP == mine {
            return;
        }
        if spin > 0 && tsc().wrapping_sub(start) < spin {
            std::hint::spin_loop();
            continue;
        }
        let asleep = other | ASLEEP;
        let set = word.compare_exchange(other, asleep, Ordering::AcqRel, Ordering::Acquire);
        if set.is_ok() || set == Err(asleep) {
            let _ = futex::wait(word, Flags::empty(), asleep, None);
        }
    }
}

impl Pair {
    fn start(spin: Duration) -> io::Result<Pair> {
        let spin = u64::from(hv_host::clock::tsc_khz()) * spin.as_micros() as u64 / 1000;
        let file = File::from(rustix::fs::memfd_create("hv-bench-futex", MemfdFlags::CLOEXEC)?);
        file.set_len(4096)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let region = MmapRegion::build(Some(FileOffset::new(file, 0)), 4096, protection, libc::MAP_SHARED)
            .map_err(io::Error::other)?;
        let parent = std::process::id();
        // SAFETY: the child does what invariant 1 says: `answer` allocates nothing and takes no lock.
        let child = unsafe { libc::fork() };
        match child {
            0 => answer(&region, parent, spin),
            1.. => Ok(Pair { region, child, spin }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn word(&self) -> &AtomicU32 {
        self.region.get_atomic_ref(0).expect("a page holds a word")
    }
}

/// Gives the word back for ever.
fn answer(region: &MmapRegion, parent: u32, spin: u64) -> ! {
    // SAFETY: no memory is passed. A parent that ended before this is seen by its number.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() as u32 != parent {
            libc::_exit(0);
        }
    }
    let word: &AtomicU32 = region.get_atomic_ref(0).expect("a page holds a word");
    wait(word, THEIRS, OURS, spin);
    loop {
        exchange(word, THEIRS, OURS, spin);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: no memory is passed; the process is this one's child, and nobody else waits for it.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
        }
    }
}

impl Operation for Futex {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn round(&self, count: u64) -> Result<Round, OperationError> {
        let word = self.pair.word();
        let mut samples = Samples::default();
        for _ in 0..count / 10 {
            exchange(word, OURS, THEIRS, self.pair.spin);
        }
        let (begin, cpu, mut sum) = (Instant::now(), cpu_time(), 0.0);
        for _ in 0..count {
            let start = tsc();
            exchange(word, OURS, THEIRS, self.pair.spin);
            let nanos = nanos_since(start);
            samples.record(nanos, 1);
            sum += nanos;
        }
        let (lasted, cpu) = (begin.elapsed(), cpu_time() - cpu);
        let (time, overhead) = (Duration::from_nanos(sum as u64), counter_overhead());
        Ok(Round { operations: count, overhead, time, lasted, cpu, exits: BTreeMap::new(), samples })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_goes_there_and_back_whether_they_sleep_or_look() {
        for spin in [0, 1000, 1_000_000] {
            let word = AtomicU32::new(OURS);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    wait(&word, THEIRS, OURS, spin);
                    (0..5000).for_each(|_| exchange(&word, THEIRS, OURS, spin));
                });
                (0..5000).for_each(|_| exchange(&word, OURS, THEIRS, spin));
                // The other side waits once more.
                word.store(THEIRS, Ordering::Release);
                let _ = futex::wake(&word, Flags::empty(), 1);
            });
        }
    }
}
