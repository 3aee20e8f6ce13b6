//! What guests print, as lines among the events: as much as a disk can bear.
#![forbid(unsafe_code)]

use super::events::{Events, Stream};
use crate::device::console::Output;
use crate::function::Outputs;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest line; a longer one is broken.
const LINE: usize = 1024;

/// Most bytes that a function's guests print in a [`PERIOD`]; the rest is dropped.
const ALLOWANCE: usize = 64 << 10;

const PERIOD: Duration = Duration::from_secs(1);

/// The consoles of one function's guests.
#[derive(Clone)]
pub(super) struct Consoles(Arc<Function>);

struct Function {
    name: String,
    events: Events,
    allowance: Mutex<Allowance>,
}

/// What may still be printed before the period ends.
struct Allowance {
    since: Instant,
    left: usize,
    dropped: usize,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Allowance { since: now, left: ALLOWANCE, dropped: 0 }
    }

    /// Whether a line of this length may be printed, and how many bytes were
    /// not in the period that has just ended.
    fn take(&mut self, len: usize, now: Instant) -> (bool, usize) {
        let mut dropped = 0;
        if now.saturating_duration_since(self.since) >= PERIOD {
            dropped = std::mem::replace(self, Allowance::new(now)).dropped;
        }
        let fits = len <= self.left;
        if fits {
            self.left -= len;
        } else {
            self.dropped += len;
        }
        (fits, dropped)
    }
}

impl Consoles {
    pub(super) fn new(name: &str, events: Events) -> Self {
        let allowance = Mutex::new(Allowance::new(Instant::now()));
        Consoles(Arc::new(Function { name: name.into(), events, allowance }))
    }

    /// A stream of one guest.
    pub(super) fn output(&self, stream: Stream) -> Console {
        Console { function: self.0.clone(), stream, line: Vec::new() }
    }

    /// Makes this stream of more guests.
    pub(super) fn outputs(&self, stream: Stream) -> Outputs {
        let consoles = self.clone();
        Arc::new(move || Box::new(consoles.output(stream)))
    }
}

impl Function {
    fn print(&self, stream: Stream, line: &[u8]) {
        let mut allowance = self.allowance.lock().expect("no panic while held");
        // Short lines cost more than their bytes.
        let (fits, dropped) = allowance.take(line.len() + 64, Instant::now());
        drop(allowance);
        if dropped > 0 {
            let text = format!("({dropped} bytes of output were dropped)");
            self.events.printed(&self.name, stream, &text);
        }
        if fits {
            self.events.printed(&self.name, stream, &String::from_utf8_lossy(line));
        }
    }
}

/// Gathers what a guest prints on a stream into lines.
pub(super) struct Console {
    function: Arc<Function>,
    stream: Stream,
    line: Vec<u8>,
}

impl Output for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in part.chunks(LINE) {
                if self.line.len() + piece.len() > LINE {
                    self.function.print(self.stream, &std::mem::take(&mut self.line));
                }
                self.line.extend_from_slice(piece);
            }
            if self.line.pop_if(|last| *last == b'\n').is_some() {
                self.function.print(self.stream, &std::mem::take(&mut self.line));
            }
        }
        Ok(bytes.len())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.function.print(self.stream, &self.line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert_eq!(allowance.take(ALLOWANCE - 10, start), (true, 0));
        assert_eq!(allowance.take(20, start), (false, 0));
        assert_eq!(allowance.take(10, start), (true, 0));
        assert_eq!(allowance.take(1, start + PERIOD / 2), (false, 0));
        assert_eq!(allowance.take(20, start + PERIOD), (true, 21));
        assert_eq!(allowance.take(20, start + 2 * PERIOD), (true, 0));
    }
}
