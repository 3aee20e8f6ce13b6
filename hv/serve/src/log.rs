//! The logs: a line for each request, and what happened besides.
//!
//! Lines are gathered in memory and written by a thread of their own, so that a slow disk or reader does not
//! delay requests. What does not fit is dropped, and counted.
#![forbid(unsafe_code)]

use super::config::LogTarget;
use hv_host::escape::escape;
use hv_jail as jail;
use hv_jail::Kind;
use rustix::fs::Access;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most bytes of each log that wait to be written.
const BUFFER: usize = 4 << 20;

/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(20);

/// How long the last lines may take at the end.
const LAST: Duration = Duration::from_secs(1);

/// Where lines go; clones are the same log.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
    access: bool,
}

struct Shared {
    state: Mutex<LogState>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct LogState {
    access: Vec<u8>,
    events: Vec<u8>,
    reopen: bool,
    closing: bool,
    closed: bool,
}

/// Keeps the thread of the log; [`finish`](Self::finish) writes the rest.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Opens the access log; events go to standard error.
    pub(super) fn open(target: &LogTarget) -> io::Result<(Log, Writer)> {
        let sink = Sink::open(target)?;
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), dropped: AtomicU64::new(0) });
        let thread = jail::spawn(Kind::Log, "hv-log", {
            let shared = shared.clone();
            move || shared.write(sink)
        })?;
        let access = *target != LogTarget::Off;
        Ok((Log { shared: shared.clone(), access }, Writer { shared, thread }))
    }

    /// Adds a line of the access log, written by `line` with its end.
    pub(super) fn access(&self, line: impl FnOnce(&mut Vec<u8>)) {
        if self.access {
            self.shared.add(|state| &mut state.access, line);
        }
    }

    /// Adds lines to standard error.
    pub(super) fn event(&self, text: &str) {
        self.shared.add(|state| &mut state.events, |buffer| buffer.extend_from_slice(text.as_bytes()));
    }

    /// Opens the file of the access log anew: it may have been moved away.
    pub(super) fn reopen(&self) {
        self.shared.state().reopen = true;
        self.shared.changed.notify_all();
    }

    /// Lines that did not fit, or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Waits until everything is written, for a limited time.
    pub(super) fn finish(self) {
        let start = Instant::now();
        let mut state = self.shared.state();
        state.closing = true;
        self.shared.changed.notify_all();
        while !state.closed && start.elapsed() < LAST {
            (state, _) = self.shared.changed.wait_timeout(state, LAST).expect("no panic while held");
        }
        let closed = state.closed;
        drop(state);
        if closed {
            let _ = self.thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().expect("no panic while held")
    }

    fn add(&self, buffer: impl FnOnce(&mut LogState) -> &mut Vec<u8>, line: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let wake = state.access.is_empty() && state.events.is_empty();
        let buffer = buffer(&mut state);
        if buffer.len() > BUFFER {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        line(buffer);
        drop(state);
        if wake {
            self.changed.notify_all();
        }
    }

    fn write(&self, mut sink: Sink) {
        let (mut access, mut events) = (Vec::new(), Vec::new());
        loop {
            let idle = |state: &mut LogState| {
                state.access.is_empty() && state.events.is_empty() && !state.closing && !state.reopen
            };
            let state = self.changed.wait_while(self.state(), idle).expect("no panic while held");
            let gathering = |state: &mut LogState| !state.closing;
            let (mut state, _) =
                self.changed.wait_timeout_while(state, GATHER, gathering).expect("no panic while held");
            std::mem::swap(&mut access, &mut state.access);
            std::mem::swap(&mut events, &mut state.events);
            let (reopen, closing) = (std::mem::take(&mut state.reopen), state.closing);
            drop(state);
            self.dropped.fetch_add(sink.write(&access), Ordering::Relaxed);
            // Standard error may be closed: an error of the write is ignored.
            let _ = io::stderr().write_all(&events);
            if reopen {
                sink.reopen();
            }
            access.clear();
            events.clear();
            if closing {
                self.state().closed = true;
                self.changed.notify_all();
                return;
            }
        }
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// Writes lines as far as that is possible. Returns how many are lost, one that is cut among them, and why.
fn write(out: &mut impl Write, mut lines: &[u8]) -> (u64, Option<io::Error>) {
    while !lines.is_empty() {
        match out.write(lines) {
            Ok(0) => return (count(lines), Some(io::ErrorKind::WriteZero.into())),
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (count(lines), Some(error)),
        }
    }
    (0, out.flush().err())
}

/// What the access log is written to.
enum Sink {
    Stdout { gone: bool },
    File { path: std::path::PathBuf, file: File, failing: bool },
    Off,
}

impl Sink {
    fn open(target: &LogTarget) -> io::Result<Sink> {
        Ok(match target {
            LogTarget::Off => Sink::Off,
            LogTarget::Stdout => Sink::Stdout { gone: false },
            LogTarget::File(path) => Sink::File { path: path.clone(), file: append(path)?, failing: false },
        })
    }

    /// Writes lines, and returns how many are lost. Only the first failure is reported: the server goes on without its log.
    fn write(&mut self, lines: &[u8]) -> u64 {
        let (lost, error) = match self {
            _ if lines.is_empty() => return 0,
            Sink::Off => return 0,
            Sink::Stdout { gone: true } => (count(lines), None),
            Sink::Stdout { .. } => write(&mut io::stdout().lock(), lines),
            Sink::File { file, .. } => write(file, lines),
        };
        match self {
            Sink::Stdout { gone } => {
                if let Some(error) = error {
                    *gone = true;
                    tracing::warn!("the access log on standard output ends: {error}");
                }
            }
            Sink::File { path, failing, .. } => {
                if let (Some(error), false) = (&error, *failing) {
                    tracing::warn!("{}: lines of the access log are lost: {error}", escape(path));
                }
                *failing = error.is_some();
            }
            Sink::Off => {}
        }
        lost
    }

    fn reopen(&mut self) {
        if let Sink::File { path, file, .. } = self {
            match append(path) {
                Ok(new) => *file = new,
                Err(error) => {
                    tracing::warn!("{}: cannot open it again, the old file goes on: {error}", escape(path));
                }
            }
        }
    }
}

/// Whether the access log could be opened, without making it.
pub(super) fn check(target: &LogTarget) -> io::Result<()> {
    let LogTarget::File(path) = target else { return Ok(()) };
    match File::options().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            Ok(rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        opened => opened.map(drop),
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, and then no more, as a full disk.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0).min(5);
            self.0 -= taken;
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted() {
        for (room, lost) in [(0, 3), (3, 3), (4, 2), (5, 2), (11, 1), (12, 0), (100, 0)] {
            let (found, error) = write(&mut Full(room), b"one\ntwo\nfor\n");
            assert_eq!((found, error.is_some()), (lost, lost > 0), "room for {room}");
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::File { path: "/dev/full".into(), file: full, failing: false };
        assert_eq!((sink.write(b"a\nb\n"), sink.write(b""), sink.write(b"c\n")), (2, 0, 1));
    }
}
