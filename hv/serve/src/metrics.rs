//! What `/metrics` shows, in the text format 0.0.4 of Prometheus.
#![forbid(unsafe_code)]

use super::trace::Exporter;
use super::usage_metrics::UsageMetrics;
use hv_core::domain::Usage;
use hv_services::Figure;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use rustix::fs::Dir;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Upper ends of the buckets of latencies, in seconds.
const BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The media type of a page of metrics.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics that the server counts itself.
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    latency: HistogramVec,
    request_bytes: IntCounterVec,
    tenant_bytes: IntCounterVec,
    running: IntGauge,
    pub(super) connections: IntGauge,
    pub(super) handshakes_failed: IntCounter,
    pub(super) refused_connections: IntCounter,
    reloads: IntCounterVec,
    failures: IntCounterVec,
}

/// The figures of a function at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct FunctionFigures {
    pub(super) function: String,
    pub(super) tenant: Option<Arc<str>>,
    /// Whether machines that wait are fresh ones.
    pub(super) fresh: bool,
    /// Guests that answer a request.
    pub(super) live: usize,
    /// Machines that wait for one.
    pub(super) idle: usize,
    /// Machines that are being made.
    pub(super) starting: usize,
    /// Machines that are to wait, and the most that there may be.
    pub(super) min_warm: usize,
    pub(super) max_instances: usize,
    /// Requests that wait for a guest.
    pub(super) waiting: usize,
    pub(super) answered: u64,
    /// Starts in a machine that was there, and in a new one.
    pub(super) warm: u64,
    pub(super) cold: u64,
    /// Guests that ended before their time.
    pub(super) ended: u64,
    /// Seconds for which no request is let in, because it crashes always.
    pub(super) back_off: f64,
    /// Messages caused by its guests that were not told.
    pub(super) left_out: u64,
    /// How often guests that are live left to hv, by reason.
    pub(super) exits: Vec<(&'static str, u64)>,
    /// Bytes of memory of single guests, and of what they share.
    pub(super) private: u64,
    pub(super) shared: u64,
    /// `shared` over time.
    pub(super) shared_byte_seconds: f64,
    /// What all guests so far have used.
    pub(super) usage: Usage,
    /// What they have asked of stores, blobs and others.
    pub(super) services: Vec<(Figure, u64)>,
    /// Bytes that their connections have brought to them, and taken from them.
    pub(super) connection_bytes: [u64; 2],
}

/// Registers a metric that is made here: its name and labels are valid, and no other has them.
pub(super) fn registered<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("valid names");
    registry.register(Box::new(metric.clone())).expect("each name once");
    metric
}

pub(super) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let registry = Registry::new();
        let latency =
            HistogramOpts::new("hv_request_seconds", "Time from a request's head to its answer's end.")
                .buckets(BUCKETS.to_vec());
        Metrics {
            requests: counters(
                &registry,
                "hv_requests_total",
                "Requests that have ended. Status 499: the client went away.",
                &["function", "status"],
            ),
            latency: registered(&registry, HistogramVec::new(latency, &["function"])),
            request_bytes: counters(
                &registry,
                "hv_request_bytes_total",
                "Bytes of requests (in) and of answers (out), heads and bodies.",
                &["function", "direction"],
            ),
            tenant_bytes: counters(
                &registry,
                "hv_tenant_request_bytes_total",
                "Bytes of requests (in) and of answers (out) of a tenant's functions, heads and bodies.",
                &["tenant", "direction"],
            ),
            running: registered(&registry, IntGauge::new("hv_requests_running", "Requests that have begun.")),
            connections: registered(
                &registry,
                IntGauge::new("hv_connections", "Connections of clients that are open."),
            ),
            refused_connections: registered(
                &registry,
                IntCounter::new(
                    "hv_connections_refused_total",
                    "Connections of clients that had as many as they may have.",
                ),
            ),
            handshakes_failed: registered(
                &registry,
                IntCounter::new(
                    "hv_tls_failures_total",
                    "Connections over TLS that ended in their handshake.",
                ),
            ),
            failures: counters(
                &registry,
                "hv_failures_total",
                "Requests without a whole answer, by kind.",
                &["function", "kind"],
            ),
            reloads: counters(&registry, "hv_reloads_total", "Reloads of the configuration.", &["result"]),
            registry,
        }
    }

    pub(super) fn started(&self) {
        self.running.inc();
    }

    pub(super) fn finished(&self, function: &str, status: u16, duration: Duration) {
        let digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
        let status = std::str::from_utf8(&digits).unwrap_or_default();
        self.requests.with_label_values(&[function, status]).inc();
        self.latency.with_label_values(&[function]).observe(duration.as_secs_f64());
        self.running.dec();
    }

    pub(super) fn reloaded(&self, ok: bool) {
        self.reloads.with_label_values(&[if ok { "ok" } else { "refused" }]).inc();
    }

    /// Bytes that have come for a request, and gone.
    pub(super) fn moved(&self, function: &str, tenant: Option<&str>, (bytes_in, bytes_out): (u64, u64)) {
        for (direction, bytes) in [("in", bytes_in), ("out", bytes_out)] {
            self.request_bytes.with_label_values(&[function, direction]).inc_by(bytes);
            if let Some(tenant) = tenant {
                self.tenant_bytes.with_label_values(&[tenant, direction]).inc_by(bytes);
            }
        }
    }

    /// A request that got no whole answer, for this reason.
    pub(super) fn failed(&self, function: &str, kind: &str) {
        self.failures.with_label_values(&[function, kind]).inc();
    }

    /// What was counted so far.
    pub(super) fn counted(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// The current figures of the functions and of the process.
    pub(super) fn current(
        &self,
        functions: &[FunctionFigures],
        certificate_ends: &[(String, SystemTime)],
        closing: usize,
        log_dropped: u64,
        exporter: Option<&Exporter>,
    ) -> Vec<MetricFamily> {
        let now = Registry::new();
        let gauge = |name, help| gauges(&now, name, help, &["function"]);
        let total = |name, help| counters(&now, name, help, &["function"]);
        let live = gauge("hv_guests_live", "Guests that answer a request now.");
        let idle = gauge("hv_guests_idle", "Instances that wait for their next request.");
        let pooled = gauge("hv_guests_pooled", "Virtual machines that wait for their next guest.");
        let help = "Instances, or machines that are ready for one, by what they do.";
        let instances = gauges(&now, "hv_instances", help, &["function", "state"]);
        let help = "How many of them wait for requests at least, and the most that there may be.";
        let bounds = gauges(&now, "hv_instances_bound", help, &["function", "bound"]);
        let queue = gauge("hv_queue", "Requests that wait for a guest.");
        let answered = total("hv_answers_total", "Requests that guests have answered completely.");
        let warm = total("hv_pool_hits_total", "Requests that found a machine or an instance waiting.");
        let cold = total("hv_cold_starts_total", "Requests for which a machine was made.");
        let ended =
            total("hv_guests_ended_total", "Guests that ended before their time, for whatever reason.");
        let left_out = total(
            "hv_guest_lines_left_out_total",
            "Lines caused by guests that the limit left out of the log.",
        );
        let help = "Seconds for which a function that crashes always is not tried.";
        let back_off = GaugeVec::new(Opts::new("hv_back_off_seconds", help), &["function"]);
        let back_off = registered(&now, back_off);
        let labels = ["function", "kind"];
        let exits =
            gauges(&now, "hv_guest_exits", "How often the guests that are there left to hv.", &labels);
        let help = "Memory of a function's guests: of single ones, and what all share.";
        let memory = gauges(&now, "hv_guest_memory_bytes", help, &labels);
        let usage = UsageMetrics::new(&now);
        let dropped = IntCounter::new("hv_log_lines_dropped_total", "Lines that the log had no room for.");
        registered(&now, dropped).inc_by(log_dropped);
        let help = "Devices of guests that have ended, whose disks have not answered yet.";
        registered(&now, IntGauge::new("hv_devices_closing", help)).set(closing as i64);
        let help = "When a certificate ends, in seconds since 1970.";
        let ends = gauges(&now, "hv_certificate_end_seconds", help, &["certificate"]);
        for (certificate, end) in certificate_ends {
            let end = end.duration_since(UNIX_EPOCH).unwrap_or_default();
            ends.with_label_values(&[certificate]).set(end.as_secs() as i64);
        }
        for figures in functions {
            let name = [figures.function.as_str()];
            let (fresh, kept) = if figures.fresh { (figures.idle, 0) } else { (0, figures.idle) };
            for (gauge, value) in
                [(&live, figures.live), (&idle, kept), (&pooled, fresh), (&queue, figures.waiting)]
            {
                gauge.with_label_values(&name).set(value as i64);
            }
            for (counter, value) in [
                (&answered, figures.answered),
                (&warm, figures.warm),
                (&cold, figures.cold),
                (&ended, figures.ended),
                (&left_out, figures.left_out),
            ] {
                counter.with_label_values(&name).inc_by(value);
            }
            for (state, count) in
                [("starting", figures.starting), ("ready", figures.idle), ("busy", figures.live)]
            {
                instances.with_label_values(&[name[0], state]).set(count as i64);
            }
            for (bound, count) in [("min_warm", figures.min_warm), ("max_instances", figures.max_instances)] {
                bounds.with_label_values(&[name[0], bound]).set(count as i64);
            }
            back_off.with_label_values(&name).set(figures.back_off);
            for (kind, count) in &figures.exits {
                exits.with_label_values(&[name[0], kind]).set(*count as i64);
            }
            for (kind, bytes) in [("private", figures.private), ("shared", figures.shared)] {
                memory.with_label_values(&[name[0], kind]).set(bytes as i64);
            }
            usage.add(figures);
        }
        ProcessMetrics::get().gauges(&now);
        if let Some(exporter) = exporter {
            let help = "Requests, and sets of metrics, that the collector has taken.";
            let told = counters(&now, "hv_telemetry_told_total", help, &["signal"]);
            let help = "Those that are lost: it did not take them, or there was no room for them to wait.";
            let lost = counters(&now, "hv_telemetry_lost_total", help, &["signal"]);
            for (signal, told_count, lost_count) in exporter.counts() {
                told.with_label_values(&[signal]).inc_by(told_count);
                lost.with_label_values(&[signal]).inc_by(lost_count);
            }
        }
        now.gather()
    }
}

/// Families of metrics that are written without a break.
const WRITTEN_AT_ONCE: usize = 8;

/// Adds metrics to a page in the text format. Others of this thread have their turn in between.
pub(super) async fn write(families: &[MetricFamily], page: &mut Vec<u8>) {
    for some in families.chunks(WRITTEN_AT_ONCE) {
        if let Err(error) = TextEncoder::new().encode(some, page) {
            tracing::warn!("metrics: {error}");
        }
        tokio::task::yield_now().await;
    }
}

/// The kernel's figures of this process. Opened once: a server in its jail opens nothing.
struct ProcessMetrics {
    memory: Option<File>,
    descriptors: Option<Mutex<Dir>>,
    threads: Option<Mutex<Dir>>,
    page_size: u64,
}

/// Opens what a server in its jail could no longer open.
pub(super) fn prepare() {
    ProcessMetrics::get();
}

impl ProcessMetrics {
    fn get() -> &'static ProcessMetrics {
        static PROCESS: OnceLock<ProcessMetrics> = OnceLock::new();
        PROCESS.get_or_init(ProcessMetrics::open)
    }

    fn open() -> ProcessMetrics {
        let folder = |path| Some(Mutex::new(Dir::new(File::open(path).ok()?).ok()?));
        ProcessMetrics {
            memory: File::open("/proc/self/statm").ok(),
            descriptors: folder("/proc/self/fd"),
            threads: folder("/proc/self/task"),
            page_size: rustix::param::page_size() as u64,
        }
    }

    /// What the process as a whole uses.
    fn gauges(&self, registry: &Registry) {
        let gauge = |name, help, value: Option<u64>| {
            if let Some(value) = value {
                registered(registry, IntGauge::new(name, help)).set(value as i64);
            }
        };
        let count = |folder: &Option<Mutex<Dir>>| {
            let mut folder = folder.as_ref()?.lock().ok()?;
            folder.rewind();
            let entries = folder.by_ref().filter_map(Result::ok);
            let entries = entries.filter(|entry| !entry.file_name().to_bytes().starts_with(b"."));
            Some(entries.count() as u64)
        };
        gauge("process_resident_memory_bytes", "Memory of the process in RAM.", self.resident());
        gauge("process_open_fds", "Open file descriptors.", count(&self.descriptors));
        gauge("process_threads", "Threads of the process.", count(&self.threads));
    }

    fn resident(&self) -> Option<u64> {
        let mut statm = [0; 128];
        let length = self.memory.as_ref()?.read_at(&mut statm, 0).ok()?;
        let pages = std::str::from_utf8(&statm[..length]).ok()?.split(' ').nth(1)?;
        Some(pages.parse::<u64>().ok()? * self.page_size)
    }
}
