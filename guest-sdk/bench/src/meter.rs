//! ⚠ How an operation is timed, and how the result is reported to hv.
#![allow(unsafe_code, reason = "time stamps")]

use crate::histogram::Histogram;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use hv_guest::println;

/// Reads the time-stamp counter; the processor may do so early or late.
pub fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and hv lets ring 3 use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads the time-stamp counter once everything before has happened, and
/// before anything after does.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has both instructions, and hv lets ring 3 use them.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        let now = core::arch::x86_64::_rdtsc();
        core::arch::x86_64::_mm_lfence();
        now
    }
}

/// What a sample of nothing takes, in cycles: the median of 101 of them.
fn overhead() -> u64 {
    let mut samples: Vec<u64> = (0..101)
        .map(|_| {
            let start = tsc();
            tsc() - start
        })
        .collect();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Collects what an operation takes.
#[derive(Debug, Default)]
pub struct Recorder {
    samples: Histogram,
    /// All samples together.
    sum: u64,
}

impl Recorder {
    /// One sample, in cycles.
    pub fn record(&mut self, cycles: u64) {
        self.samples.record(cycles);
        self.sum = self.sum.saturating_add(cycles);
    }
}

/// Runs an operation as often as hv asked for, after a warm-up.
#[derive(Debug)]
pub struct Meter {
    warm_up: u64,
    count: u64,
    extra: u16,
    /// Operations that one sample covers.
    per_sample: u64,
    /// What a sample contains of the reading of the counter.
    overhead: u64,
    /// All operations together, with as many readings of the counter as there are samples.
    cycles: u64,
    /// From the first operation to the last; more than `cycles` where they wait in between.
    lasted: u64,
    recorder: Recorder,
}

impl Meter {
    /// A meter for `count` operations after `warm_up` others.
    pub fn new(warm_up: u64, count: u64, extra: u16) -> Self {
        Meter {
            warm_up,
            count,
            extra,
            per_sample: 1,
            overhead: overhead(),
            cycles: 0,
            lasted: 0,
            recorder: Recorder::default(),
        }
    }

    /// The port of the server, for operations that asked for one.
    pub fn port(&self) -> u16 {
        self.extra
    }

    /// Runs `operate`, which does so many operations and records what each
    /// took: once to warm up, once in earnest. That second time is the total.
    pub fn phases<E>(
        &mut self,
        mut operate: impl FnMut(u64, &mut Recorder) -> Result<(), E>,
    ) -> Result<(), E> {
        operate(self.warm_up, &mut Recorder::default())?;
        // hv also runs guests that only warm up, to know what that costs.
        if self.count > 0 {
            let start = tsc();
            operate(self.count, &mut self.recorder)?;
            self.lasted = tsc() - start;
            self.cycles = self.lasted;
        }
        Ok(())
    }

    /// As [`phases`](Self::phases), for operations that wait for something in
    /// between: the total is that of the samples.
    pub fn paced<E>(&mut self, operate: impl FnMut(u64, &mut Recorder) -> Result<(), E>) -> Result<(), E> {
        self.phases(operate)?;
        self.cycles = self.recorder.sum;
        Ok(())
    }

    /// Times each call. hv takes off what the reading of the counter takes, some 20 ns; for operations that take less than a
    /// microsecond, where that is known too badly, see [`runs`](Self::runs).
    pub fn each(&mut self, mut operation: impl FnMut()) {
        // The total is that of the samples, without their recording.
        let Ok(()) = self.paced(|count, recorder| {
            for _ in 0..count {
                let start = tsc();
                operation();
                recorder.record(tsc() - start);
            }
            Ok::<_, core::convert::Infallible>(())
        });
    }

    /// Times runs of `length` calls.
    pub fn runs(&mut self, length: u64, mut operation: impl FnMut()) {
        let Ok(()) = self.batches(length, |runs, recorder| {
            for _ in 0..runs {
                let start = tsc();
                (0..length).for_each(|_| operation());
                recorder.record(tsc() - start);
            }
            Ok::<_, core::convert::Infallible>(())
        });
        self.cycles = self.recorder.sum;
    }

    /// As [`phases`](Self::phases), for operations that come `length` at a
    /// time: `operate` does so many batches, and records what each took.
    pub fn batches<E>(
        &mut self,
        length: u64,
        mut operate: impl FnMut(u64, &mut Recorder) -> Result<(), E>,
    ) -> Result<(), E> {
        self.per_sample = length;
        // Whole batches only.
        self.warm_up = self.warm_up.next_multiple_of(length);
        self.count = self.count.next_multiple_of(length);
        self.phases(|count, recorder| operate(count / length, recorder))
    }

    /// Prints the result in the form that hv reads (`hv/bench/src/guest/wire.rs`).
    pub fn print(&self) {
        // What the operation itself printed may have left a line open.
        println!("\n@result 2");
        println!("operations {}", self.count);
        println!("per-sample {}", self.per_sample);
        println!("overhead {}", self.overhead);
        println!("cycles {}", self.cycles);
        println!("lasted {}", self.lasted);
        let mut line = String::new();
        for (value, count) in self.recorder.samples.counts() {
            let _ = write!(line, " {value}:{count}");
            if line.len() > 400 {
                println!("samples{line}");
                line.clear();
            }
        }
        if !line.is_empty() {
            println!("samples{line}");
        }
        println!("end");
    }
}

/// A failure as hv shows it: one line.
pub fn failed(what: &str, why: impl core::fmt::Debug) -> String {
    format!("{what}: {why:?}")
}
