//! The record of one request. When it is dropped, which is when the client has the answer, it is written to
//! the log and counted in the metrics.
#![forbid(unsafe_code)]

use super::config::LogFormat;
use super::log::Log;
use super::metrics::Metrics;
use super::trace::{Exporter, Finished, Invocations, Stages, Trace, given_trace, shortened};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use hv_function::RequestUsage;
use serde::Serialize;
use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// The status that is logged when the client went away before its answer was complete.
pub(super) const CLIENT_GONE: u16 = 499;

/// What the records of a server share.
pub(super) struct Telemetry {
    pub(super) log: Log,
    pub(super) format: LogFormat,
    pub(super) metrics: Metrics,
    pub(super) crashes: Ids,
    pub(super) invocations: Arc<Invocations>,
    /// If traces and metrics are told to a collector.
    pub(super) exporter: Option<Exporter>,
}

/// Numbers things; the numbers are unlikely to repeat in another process.
pub(super) struct Ids {
    process: u32,
    next: AtomicU64,
}

impl Ids {
    /// Numbers that follow a random one.
    pub(super) fn new(process: u32) -> Self {
        Ids { process, next: AtomicU64::new(1) }
    }

    pub(super) fn make(&self) -> String {
        format!("{:08x}-{:x}", self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// One request, as far as it has come.
pub(super) struct Record {
    telemetry: Arc<Telemetry>,
    /// What its guest's output is kept under; 0: it is not kept.
    number: u64,
    /// The trace that it belongs to, if it is told.
    pub(super) trace: Option<Trace>,
    /// How far it has come.
    pub(super) stages: Stages,
    /// Why it got no whole answer.
    failure: Option<&'static str>,
    start: Instant,
    started: SystemTime,
    client: IpAddr,
    method: Method,
    uri: Uri,
    id: HeaderValue,
    /// The function that it led to.
    pub(super) function: Option<Arc<str>>,
    /// Whether its machine was made for it (`cold`) or was waiting (`warm`).
    pub(super) instance: Option<&'static str>,
    /// What the guest has used for it.
    pub(super) usage: Option<RequestUsage>,
    pub(super) status: Option<StatusCode>,
    /// The tenant of that function.
    pub(super) tenant: Option<Arc<str>>,
    /// Bytes of the answer's body.
    pub(super) bytes: u64,
    /// Bytes of the request's head, and of its body so far.
    pub(super) request_head: u64,
    pub(super) request_body: Option<Arc<AtomicU64>>,
    /// Bytes of the answer's head.
    pub(super) answer_head: u64,
    /// The id of the crash of its guest.
    pub(super) crash: Option<String>,
    /// Whether the answer was sent completely, or aborted by the server.
    pub(super) done: bool,
    /// Whether the server aborted it.
    pub(super) aborted: bool,
}

/// The log line as JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: IpAddr,
    method: &'a str,
    path: &'a str,
    status: u16,
    bytes: u64,
    seconds: f64,
    function: Option<&'a str>,
    instance: Option<&'a str>,
    cpu_seconds: Option<f64>,
    complete: bool,
    request: &'a str,
    crash: Option<&'a str>,
    failure: Option<&'static str>,
    memory_byte_seconds: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
}

impl Record {
    pub(super) fn new(
        telemetry: Arc<Telemetry>,
        client: IpAddr,
        method: Method,
        uri: Uri,
        id: HeaderValue,
    ) -> Self {
        telemetry.metrics.started();
        Record {
            telemetry,
            number: 0,
            trace: None,
            stages: Stages::default(),
            failure: None,
            start: Instant::now(),
            started: SystemTime::now(),
            client: client.to_canonical(),
            method,
            uri,
            id,
            function: None,
            instance: None,
            usage: None,
            status: None,
            tenant: None,
            bytes: 0,
            request_head: 0,
            request_body: None,
            answer_head: 0,
            crash: None,
            done: false,
            aborted: false,
        }
    }

    pub(super) fn id(&self) -> &HeaderValue {
        &self.id
    }

    /// It is one for functions: what becomes of it is kept and told.
    pub(super) fn follow(&mut self, trace: Option<Trace>, headers: &HeaderMap) {
        self.trace = trace;
        if self.telemetry.invocations.is_on() {
            let trace = trace.map(|trace| trace.id).or_else(|| given_trace(headers));
            self.number = self.telemetry.invocations.begin(self.id.to_str().unwrap_or_default(), trace);
        }
    }

    /// What its guest's output is kept under.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Keeps and tells what became of it.
    fn tell(&mut self, status: u16) {
        let exporter =
            self.telemetry.exporter.as_ref().filter(|_| self.trace.is_some_and(|trace| trace.sampled));
        if self.number == 0 && exporter.is_none() {
            return;
        }
        // Copies: what is here may hold on to the buffer that the head was read to.
        let finished = Arc::new(Finished {
            trace: self.trace,
            request: self.id.to_str().unwrap_or_default().into(),
            method: self.method.as_str().into(),
            path: shortened(self.uri.path()),
            status,
            client: self.client,
            function: self.function.clone(),
            tenant: self.tenant.clone(),
            instance: self.instance,
            failure: self.failure,
            crash: self.crash.clone(),
            started: self.started,
            begun: self.start,
            ended: Instant::now(),
            stages: std::mem::take(&mut self.stages),
        });
        if let Some(exporter) = exporter {
            exporter.request(&finished);
        }
        if self.number != 0 {
            self.telemetry.invocations.end(self.number, finished);
        }
    }

    /// Counts that the function gave no whole answer, for this reason.
    pub(super) fn note_failure(&mut self, kind: &'static str) {
        self.failure = Some(kind);
        self.telemetry.metrics.failed(self.function.as_deref().unwrap_or("-"), kind);
    }

    /// Makes an id for the crash of this request's guest.
    pub(super) fn new_crash_id(&self) -> String {
        self.telemetry.crashes.make()
    }

    /// Bytes from the client, and to it.
    fn traffic(&self) -> (u64, u64) {
        let body = self.request_body.as_ref().map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        (self.request_head + body, self.answer_head + self.bytes)
    }

    /// The path as it is in the request, with line breaks and quotation marks escaped.
    fn path(&self) -> Cow<'_, str> {
        let path = self.uri.path_and_query().map_or("", |path| path.as_str());
        let odd = |c: char| c == '"' || c == '\\' || c.is_control();
        if !path.contains(odd) {
            return path.into();
        }
        path.chars().map(|c| if odd(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
    }

    fn write(&self, status: u16, duration: Duration, out: &mut Vec<u8>) {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let id = self.id.to_str().unwrap_or_default();
        let function = self.function.as_deref();
        let (bytes_in, bytes_out) = self.traffic();
        let result = match self.telemetry.format {
            LogFormat::Json => {
                let line = Line {
                    time: time.to_string(),
                    client: self.client,
                    method: self.method.as_str(),
                    path: self.uri.path_and_query().map_or("", |path| path.as_str()),
                    status,
                    bytes: self.bytes,
                    seconds: duration.as_secs_f64(),
                    function,
                    instance: self.instance,
                    cpu_seconds: self.usage.map(|used| used.cpu_time.as_secs_f64()),
                    complete: self.done && !self.aborted,
                    request: id,
                    crash: self.crash.as_deref(),
                    failure: self.failure,
                    memory_byte_seconds: self.usage.map(|used| used.memory_byte_seconds()),
                    bytes_in,
                    bytes_out,
                };
                serde_json::to_writer(&mut *out, &line).map_err(Into::into)
            }
            LogFormat::Text => write!(
                out,
                "{} - - [{time}] \"{} {} HTTP/1.1\" {status} {} {:.6} {} {} {} {id} {} {} {bytes_in} {bytes_out}",
                self.client,
                self.method,
                self.path(),
                self.bytes,
                duration.as_secs_f64(),
                function.unwrap_or("-"),
                self.instance.unwrap_or("-"),
                self.usage.map_or("-".into(), |used| format!("{:.6}", used.cpu_time.as_secs_f64())),
                self.crash.as_deref().unwrap_or("-"),
                self.usage.map_or("-".into(), |used| format!("{:.0}", used.memory_byte_seconds())),
            ),
        };
        debug_assert!(result.is_ok(), "a vector takes all bytes");
        out.push(b'\n');
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.start.elapsed();
        let status = match self.status {
            Some(status) if self.done => status.as_u16(),
            _ => CLIENT_GONE,
        };
        self.tell(status);
        let function = self.function.as_deref().unwrap_or("-");
        self.telemetry.metrics.finished(function, status, duration);
        self.telemetry.metrics.moved(function, self.tenant.as_deref(), self.traffic());
        self.telemetry.log.access(|out| self.write(status, duration, out));
    }
}
