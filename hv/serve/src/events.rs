//! Events other than requests, written to standard error: as text, or as one JSON object a line.
#![forbid(unsafe_code)]

use super::config::LogFormat;
use super::log::Log;
use super::memory::MemoryBudget;
use super::metrics::FunctionFigures;
use hv_core::crash::CrashReport;
use hv_host::escape::escape;
use hv_host::machine::EqualPages;
use hv_host::rate_limit::Bucket;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// Which of a guest's two streams a line was printed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// The console.
    Stdout,
    /// Its error output: log records and errors.
    Stderr,
}

/// Writes events.
#[derive(Clone)]
pub(super) struct Events {
    log: Log,
    format: LogFormat,
    /// The limits of messages, by function.
    guests: Arc<Mutex<HashMap<String, Guests>>>,
}

/// The limit of all messages that the guests of one function cause.
struct Guests {
    bucket: Bucket,
    left_out: u64,
}

/// Most bytes that a function's guests cause to be told at once, and each second in the long run.
const AT_ONCE: u64 = 64 << 10;
const PER_SECOND: u64 = 64 << 10;

/// What each message costs besides its bytes: short ones are not cheap.
const MESSAGE: usize = 64;

impl Events {
    pub(super) fn new(log: Log, format: LogFormat) -> Self {
        Events { log, format, guests: Arc::default() }
    }

    /// Returns how many bytes were written.
    fn tell(&self, text: impl FnOnce() -> String, data: impl FnOnce() -> Value) -> usize {
        let line = match self.format {
            LogFormat::Text => format!("hv: {}\n", text()),
            LogFormat::Json => format!("{}\n", data()),
        };
        self.log.event(&line);
        line.len()
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<String, Guests>> {
        self.guests.lock().expect("no panic while held")
    }

    /// Writes an event that a function's guest has caused, within the limit.
    fn tell_of_guest(&self, function: &str, text: impl FnOnce() -> String, data: impl FnOnce() -> Value) {
        let now = Instant::now();
        self.tell_left_out(function);
        {
            let mut guests = self.guests();
            if !guests.contains_key(function) {
                guests.insert(
                    function.into(),
                    Guests { bucket: Bucket::new(AT_ONCE, PER_SECOND, now), left_out: 0 },
                );
            }
            let Some(guests) = guests.get_mut(function) else { return };
            if !guests.bucket.allows(now) {
                guests.left_out += 1;
                return;
            }
        }
        // Reports are long: the lock is not held while one is written.
        let told = self.tell(text, data) + MESSAGE;
        if let Some(guests) = self.guests().get_mut(function) {
            guests.bucket.charge(told);
        }
    }

    /// Reports how many of a function's messages were left out, as soon as the limit allows it.
    pub(super) fn tell_left_out(&self, function: &str) {
        let left_out =
            self.guests().get_mut(function).and_then(|guests| guests.bucket.take_left_out(Instant::now()));
        if let Some(count) = left_out {
            let told = self.tell(
                || format!("function {}: {count} further lines left out", escape(function)),
                || json!({"event": "left_out", "function": function, "lines": count}),
            );
            if let Some(guests) = self.guests().get_mut(function) {
                guests.bucket.charge(told + MESSAGE);
            }
        }
    }

    /// Messages of a function's guests that were left out so far.
    pub(super) fn left_out(&self, function: &str) -> u64 {
        self.guests().get(function).map_or(0, |guests| guests.left_out)
    }

    pub(super) fn deployed(&self, function: &str, from: &str, took: Duration) {
        self.tell(
            || {
                let ms = took.as_secs_f64() * 1000.0;
                format!("function {}: ready in {ms:.1} ms ({})", escape(function), escape(from))
            },
            || json!({"event": "deployed", "function": function, "from": from, "seconds": took.as_secs_f64()}),
        );
    }

    /// A function was booted again after crashes of its guests, at another address.
    pub(super) fn relayout(&self, function: &str, took: Duration) {
        self.tell(
            || {
                format!(
                    "function {function}: booted again at another address after crashes, in {:.1} ms",
                    took.as_secs_f64() * 1000.0
                )
            },
            || json!({"event": "relayout", "function": function, "seconds": took.as_secs_f64()}),
        );
    }

    /// A function could not be booted again.
    pub(super) fn relayout_failed(&self, function: &str, error: &str) {
        self.tell(
            || format!("function {function}: not booted again after crashes, it stays where it is: {error}"),
            || json!({"event": "relayout_failed", "function": function, "error": error}),
        );
    }

    /// How much memory hv and its guests may have.
    pub(super) fn memory(&self, budget: &MemoryBudget, guests: u64) {
        let MemoryBudget { bytes, name } = budget;
        self.tell(
            || {
                format!(
                    "memory: {} MiB by {}, of which {} MiB are for guests",
                    bytes >> 20,
                    escape(name),
                    guests >> 20
                )
            },
            || json!({"event": "memory", "bytes": bytes, "guests": guests, "set_by": name}),
        );
    }

    /// Functions share equal pages, and the kernel does nothing about it yet.
    pub(super) fn equal_pages_are_not_shared(&self) {
        self.tell(
            || {
                let remedy = EqualPages::REMEDY;
                format!(
                    "share_equal_pages: no pages are shared before the kernel's KSM is started ({remedy})"
                )
            },
            || json!({"event": "equal_pages_not_shared", "remedy": EqualPages::REMEDY}),
        );
    }

    /// A certificate has ended, or will soon.
    pub(super) fn certificate_ends(&self, chain: &Path, end: SystemTime, is_over: bool) {
        let (chain, end) =
            (chain.to_string_lossy().into_owned(), humantime::format_rfc3339_seconds(end).to_string());
        self.tell(
            || {
                let verb = if is_over { "has expired at" } else { "expires at" };
                format!("certificate {}: {verb} {end}; replace the file, and reload (SIGHUP)", escape(&chain))
            },
            || json!({"event": "certificate_ends", "chain": chain, "end": end, "expired": is_over}),
        );
    }

    pub(super) fn listening(&self, what: &str, scheme: &str, address: SocketAddr) {
        self.tell(
            || format!("{what}: listening on {scheme}://{address}"),
            || json!({"event": "listening", "what": what, "scheme": scheme, "address": address}),
        );
    }

    /// A guest printed a line.
    pub(super) fn printed(&self, function: &str, stream: Stream, line: &str) {
        let (mark, name) = match stream {
            Stream::Stdout => ("", "stdout"),
            Stream::Stderr => (" (stderr)", "stderr"),
        };
        self.tell_of_guest(
            function,
            || format!("{}{mark}: {}", escape(function), line.escape_debug()),
            || json!({"event": "printed", "function": function, "stream": name, "line": line}),
        );
    }

    /// A guest crashed at a request; `id` is what the client was told.
    pub(super) fn crashed(&self, id: &str, function: &str, request: &str, report: &CrashReport) {
        self.tell_of_guest(
            function,
            || {
                let (function, request) = (escape(function), escape(request));
                format!("crash {id}: function {function}, request {request}: {}", report.to_string().trim_end())
            },
            || json!({"event": "crash", "id": id, "function": function, "request": request, "report": report}),
        );
    }

    /// A request failed without a crash; the client was told less.
    pub(super) fn failed(&self, function: &str, request: &str, why: &str) {
        self.tell_of_guest(
            function,
            || format!("function {}, request {}: {}", escape(function), escape(request), escape(why)),
            || json!({"event": "failure", "function": function, "request": request, "error": why}),
        );
    }

    /// Requests were refused since no guest could be started: this one, and others before it.
    pub(super) fn no_room(&self, function: &str, why: &str, others: u64) {
        self.tell(
            || match others {
                0 => format!("function {function}: {why}"),
                _ => format!("function {function}: {why} ({others} more requests since the last such line)"),
            },
            || json!({"event": "no_room", "function": function, "error": why, "others": others}),
        );
    }

    /// The state of a function, at SIGQUIT.
    pub(super) fn state(&self, figures: &FunctionFigures) {
        let FunctionFigures { function, live, idle, waiting, answered, ended, back_off, .. } = figures;
        self.tell(
            || {
                let function = escape(function);
                let refused = match back_off {
                    0.0 => String::new(),
                    seconds => format!("; not tried for {seconds:.1} s, since it crashes always"),
                };
                format!(
                    "function {function}: {live} requests in guests, {waiting} wait, {idle} machines ready; \
                     {answered} answered, {ended} guests ended before their time{refused}"
                )
            },
            || {
                json!({"event": "state", "function": function, "live": live, "waiting": waiting, "idle": idle,
                       "answered": answered, "ended": ended, "back_off": back_off})
            },
        );
    }

    pub(super) fn reloaded(&self, deployed: usize, kept: usize, removed: usize) {
        self.tell(
            || {
                format!(
                    "configuration reloaded: {deployed} functions deployed, {kept} kept, {removed} removed"
                )
            },
            || json!({"event": "reloaded", "deployed": deployed, "kept": kept, "removed": removed}),
        );
    }

    /// The API has changed something of a function.
    pub(super) fn api_changed(&self, function: &str, what: &str) {
        self.tell(
            || format!("function {}: {} (admin API)", escape(function), escape(what)),
            || json!({"event": "api_changed", "function": function, "change": what}),
        );
    }

    /// Spans and metrics are lost for this reason, or arrive again.
    pub(super) fn telemetry(&self, endpoint: &str, error: Option<&str>) {
        self.tell(
            || match error {
                Some(error) => format!(
                    "telemetry to {}: {}; it is lost until that works",
                    escape(endpoint),
                    escape(error)
                ),
                None => format!("telemetry to {}: it works again", escape(endpoint)),
            },
            || json!({"event": "telemetry", "endpoint": endpoint, "error": error}),
        );
    }

    pub(super) fn reload_refused(&self, error: &str) {
        self.tell(
            || format!("configuration not reloaded, the old one stays: {}", escape(error)),
            || json!({"event": "reload_refused", "error": error}),
        );
    }

    pub(super) fn needs_restart(&self, keys: &[&str]) {
        self.tell(
            || format!("changed, but only a restart takes it over: {}", keys.join(", ")),
            || json!({"event": "needs_restart", "keys": keys}),
        );
    }

    /// Another server answers in this one's place.
    pub(super) fn handed_over(&self) {
        self.tell(|| "handed over: another server answers now".into(), || json!({"event": "handed_over"}));
    }

    pub(super) fn draining(&self, running: usize, at_most: Duration) {
        self.tell(
            || {
                format!(
                    "draining: {running} connections, at most {at_most:?}; another signal ends them at once"
                )
            },
            || json!({"event": "draining", "connections": running, "seconds": at_most.as_secs_f64()}),
        );
    }

    pub(super) fn ended(&self, cut_off: usize) {
        self.tell(
            || match cut_off {
                0 => "drained".into(),
                _ => format!("ended with {cut_off} connections cut off"),
            },
            || json!({"event": "ended", "cut_off": cut_off}),
        );
    }
}
