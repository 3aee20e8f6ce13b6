//! The last requests, with what guests printed meanwhile. Bounded: by the number of requests, by the bytes of each, and by
//! the bytes of all.

use super::Finished;
use crate::events::Stream;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// Most bytes of what is kept of one request's output.
const EACH: usize = 16 << 10;

/// Most bytes of all.
const ALL: usize = 8 << 20;

/// What a piece of output costs besides its bytes: short ones are not cheap.
const PIECE: usize = 64;

/// Requests of the same id that are shown.
const FOUND: usize = 16;

/// The last requests.
pub(crate) struct Invocations {
    most: usize,
    state: Mutex<InvocationsState>,
}

#[derive(Default)]
struct InvocationsState {
    /// The number of the first one.
    first: u64,
    all: VecDeque<Invocation>,
    /// Bytes of output of all.
    bytes: usize,
    /// All before this number have lost theirs, and get no more.
    cleared: u64,
}

struct Invocation {
    id: String,
    /// The id of its trace, if it has one.
    trace: Option<u128>,
    started: SystemTime,
    begun: Instant,
    printed: Vec<Printed>,
    bytes: usize,
    left_out: u64,
    finished: Option<Arc<Finished>>,
}

/// Some output.
#[derive(Clone, Debug)]
struct Printed {
    at: Duration,
    stream: Stream,
    bytes: Vec<u8>,
}

/// A line of output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    /// When it began, since the request did.
    pub(crate) at: Duration,
    pub(crate) stream: Stream,
    pub(crate) text: String,
}

/// A request as it was found.
pub(crate) struct Found {
    pub(crate) id: String,
    /// The id of its trace, if it has one.
    pub(crate) trace: Option<u128>,
    pub(crate) started: SystemTime,
    pub(crate) lines: Vec<Line>,
    /// Bytes of output that were not kept.
    pub(crate) left_out: u64,
    /// `None`: it is under way.
    pub(crate) finished: Option<Arc<Finished>>,
}

impl Invocations {
    /// Keeps so many requests.
    pub(crate) fn new(most: usize) -> Self {
        // 0 is no number.
        Invocations { most, state: Mutex::new(InvocationsState { first: 1, ..InvocationsState::default() }) }
    }

    /// Whether any are kept.
    pub(crate) fn is_on(&self) -> bool {
        self.most > 0
    }

    fn state(&self) -> MutexGuard<'_, InvocationsState> {
        self.state.lock().expect("no panic while held")
    }

    /// A request begins. Returns its number; 0 if none are kept.
    pub(crate) fn begin(&self, id: &str, trace: Option<u128>) -> u64 {
        if self.most == 0 {
            return 0;
        }
        let mut state = self.state();
        let gone = if state.all.len() >= self.most { state.all.pop_front() } else { None };
        if let Some(gone) = &gone {
            state.first += 1;
            state.bytes -= gone.bytes;
        }
        state.all.push_back(Invocation {
            id: id.into(),
            trace,
            started: SystemTime::now(),
            begun: Instant::now(),
            printed: Vec::new(),
            bytes: 0,
            left_out: 0,
            finished: None,
        });
        state.first + state.all.len() as u64 - 1
    }

    /// A guest has printed something for a request.
    pub(crate) fn print(&self, number: u64, stream: Stream, bytes: &[u8]) {
        if number == 0 || bytes.is_empty() {
            return;
        }
        self.state().print(number, stream, bytes);
    }

    /// A request is over.
    pub(crate) fn end(&self, number: u64, finished: Arc<Finished>) {
        let mut state = self.state();
        if let Some(invocation) = state.find(number) {
            invocation.finished = Some(finished);
        }
    }

    /// The requests with this id, or of the trace with this id, the newest first.
    pub(crate) fn of(&self, id: &str) -> Vec<Found> {
        let trace = Some(id).filter(|id| id.len() == 32).and_then(|id| u128::from_str_radix(id, 16).ok());
        let is_meant = |one: &&Invocation| one.id == id || trace.is_some() && one.trace == trace;
        let state = self.state();
        let found = state.all.iter().rev().filter(is_meant).take(FOUND);
        found
            .map(|invocation| Found {
                id: invocation.id.clone(),
                trace: invocation.trace,
                started: invocation.started,
                lines: lines(&invocation.printed),
                left_out: invocation.left_out,
                finished: invocation.finished.clone(),
            })
            .collect()
    }
}

impl InvocationsState {
    fn find(&mut self, number: u64) -> Option<&mut Invocation> {
        let at = number.checked_sub(self.first)?;
        self.all.get_mut(usize::try_from(at).ok()?)
    }

    fn print(&mut self, number: u64, stream: Stream, bytes: &[u8]) {
        let was_cleared = number < self.cleared;
        let Some(invocation) = self.find(number) else { return };
        let room = if was_cleared { 0 } else { EACH.saturating_sub(invocation.bytes + PIECE) };
        let kept = &bytes[..bytes.len().min(room)];
        invocation.left_out += (bytes.len() - kept.len()) as u64;
        if kept.is_empty() {
            return;
        }
        // A line may come in several pieces.
        let goes_on = |last: &&mut Printed| last.stream == stream && !last.bytes.ends_with(b"\n");
        let cost = match invocation.printed.last_mut().filter(goes_on) {
            Some(last) => {
                last.bytes.extend_from_slice(kept);
                kept.len()
            }
            None => {
                let at = invocation.begun.elapsed();
                invocation.printed.push(Printed { at, stream, bytes: kept.into() });
                kept.len() + PIECE
            }
        };
        invocation.bytes += cost;
        self.bytes += cost;
        self.make_room();
    }

    /// Drops output of the oldest ones, if there is too much.
    fn make_room(&mut self) {
        while self.bytes > ALL {
            let oldest = self.cleared.max(self.first);
            self.cleared = oldest + 1;
            let Some(invocation) = self.find(oldest) else { return };
            let lost: usize = invocation.printed.drain(..).map(|printed| printed.bytes.len()).sum();
            invocation.left_out += lost as u64;
            let bytes = std::mem::take(&mut invocation.bytes);
            self.bytes -= bytes;
        }
    }
}

/// Output cut into lines.
fn lines(printed: &[Printed]) -> Vec<Line> {
    let mut lines = Vec::new();
    for Printed { at, stream, bytes } in printed {
        for line in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|&byte| byte == b'\n') {
            lines.push(Line { at: *at, stream: *stream, text: String::from_utf8_lossy(line).into_owned() });
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(invocations: &Invocations, id: &str) -> Vec<String> {
        let found = invocations.of(id);
        found
            .first()
            .map_or_else(Vec::new, |found| found.lines.iter().map(|line| line.text.clone()).collect())
    }

    #[test]
    fn each_request_has_its_own_lines() {
        let invocations = Invocations::new(2);
        let [a, b] = ["a", "b"].map(|id| invocations.begin(id, None));
        invocations.print(a, Stream::Stdout, b"one\ntw");
        invocations.print(b, Stream::Stdout, b"other\n");
        invocations.print(a, Stream::Stdout, b"o\n");
        invocations.print(a, Stream::Stderr, b"\xff\n\n");
        assert_eq!(texts(&invocations, "a"), ["one", "two", "\u{fffd}", ""]);
        assert_eq!(texts(&invocations, "b"), ["other"]);
        invocations.print(0, Stream::Stdout, b"nobody's");
        let again = invocations.begin("b", Some(0xabc));
        assert_eq!(invocations.of("00000000000000000000000000000abc").len(), 1, "by its trace");
        invocations.print(a, Stream::Stdout, b"late");
        invocations.print(again, Stream::Stdout, b"again");
        assert!(invocations.of("a").is_empty(), "only two are kept");
        assert_eq!((texts(&invocations, "b"), invocations.of("b").len()), (vec!["again".to_owned()], 2));
        let off = Invocations::new(0);
        assert_eq!(off.begin("a", None), 0);
        off.print(0, Stream::Stdout, b"x");
        assert!(off.of("a").is_empty());
    }

    #[test]
    fn memory_has_an_end() {
        let invocations = Invocations::new(4000);
        let numbers: Vec<_> = (0..4000).map(|n| invocations.begin(&n.to_string(), None)).collect();
        for number in &numbers {
            for _ in 0..100 {
                invocations.print(*number, Stream::Stdout, &[b'x'; 1000]);
                invocations.print(*number, Stream::Stderr, b"\n");
            }
        }
        let state = invocations.state();
        assert!(state.bytes <= ALL);
        let kept: usize = state.all.iter().map(|one| one.bytes).sum();
        assert_eq!(kept, state.bytes);
        assert!(state.all.iter().all(|one| one.bytes <= EACH));
        drop(state);
        let last = &invocations.of("3999")[0];
        assert!(!last.lines.is_empty() && last.left_out > 80_000);
        let first = &invocations.of("0")[0];
        assert!(first.lines.is_empty());
        assert_eq!(first.left_out, 100 * 1001, "nothing is lost without being counted");
    }
}
