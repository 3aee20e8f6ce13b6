//! What `/metrics` shows, in the text format 0.0.4 of Prometheus.
#![forbid(unsafe_code)]

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::time::Duration;

/// Upper ends of the buckets of latencies, in seconds.
const BUCKETS: [f64; 16] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The media type of what [`Metrics::text`] returns.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the front counts itself.
pub(super) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    latency: HistogramVec,
    running: IntGauge,
    pub(super) connections: IntGauge,
    reloads: IntCounterVec,
}

/// What a function says of itself at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    pub(super) function: String,
    pub(super) live: u64,
    pub(super) idle: u64,
    pub(super) shells: u64,
    pub(super) waiting: u64,
    pub(super) warm_starts: u64,
    pub(super) cold_starts: u64,
    /// Ends of instances by kind.
    pub(super) exits: Vec<(&'static str, u64)>,
    pub(super) memory: u64,
    pub(super) cpu: Duration,
}

/// Registers a metric that is made here: its name and labels are valid, and no other has them.
fn registered<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("valid names");
    registry.register(Box::new(metric.clone())).expect("each name once");
    metric
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), &["function"]))
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let registry = Registry::new();
        let latency = HistogramOpts::new("hv_request_seconds", "Time from a request's head to its answer's end.")
            .buckets(BUCKETS.to_vec());
        Metrics {
            requests: counters(
                &registry,
                "hv_requests_total",
                "Requests that have ended. Status 499: the client went away.",
                &["function", "status"],
            ),
            latency: registered(&registry, HistogramVec::new(latency, &["function"])),
            running: registered(&registry, IntGauge::new("hv_requests_running", "Requests that have begun.")),
            connections: registered(
                &registry,
                IntGauge::new("hv_connections", "Connections of clients that are open."),
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

    /// Everything, with what the functions and the process say of themselves now.
    pub(super) fn text(&self, functions: &[Reading], log_dropped: u64) -> Vec<u8> {
        let now = Registry::new();
        let of = |name, help| gauges(&now, name, help);
        let live = of("hv_guests_live", "Guests that answer a request now.");
        let idle = of("hv_guests_idle", "Instances that wait for their next request.");
        let shells = of("hv_shells", "Virtual machines that wait for their next clone.");
        let queue = of("hv_queue", "Requests that wait for a guest.");
        let memory = of("hv_guest_memory_bytes", "Memory of the function's guests that is theirs alone.");
        let total = |name, help| counters(&now, name, help, &["function"]);
        let warm = total("hv_shell_hits_total", "Starts of instances in a warm shell.");
        let cold = total("hv_cold_starts_total", "Starts of instances in a new virtual machine.");
        let exits = counters(&now, "hv_exits_total", "Ends of instances by kind.", &["function", "kind"]);
        let cpu = registered(
            &now,
            prometheus::CounterVec::new(
                Opts::new("hv_guest_cpu_seconds_total", "CPU time of the function's guests."),
                &["function"],
            ),
        );
        let dropped = IntCounter::new("hv_log_lines_dropped_total", "Lines that the log had no room for.");
        registered(&now, dropped).inc_by(log_dropped);
        for function in functions {
            let name = [function.function.as_str()];
            live.with_label_values(&name).set(function.live as i64);
            idle.with_label_values(&name).set(function.idle as i64);
            shells.with_label_values(&name).set(function.shells as i64);
            queue.with_label_values(&name).set(function.waiting as i64);
            memory.with_label_values(&name).set(function.memory as i64);
            warm.with_label_values(&name).inc_by(function.warm_starts);
            cold.with_label_values(&name).inc_by(function.cold_starts);
            cpu.with_label_values(&name).inc_by(function.cpu.as_secs_f64());
            for (kind, count) in &function.exits {
                exits.with_label_values(&[name[0], kind]).inc_by(*count);
            }
        }
        process(&now);
        let mut text = Vec::new();
        for registry in [&self.registry, &now] {
            if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
                tracing::warn!("metrics: {error}");
            }
        }
        text
    }
}

/// What the process as a whole uses.
fn process(registry: &Registry) {
    let gauge = |name, help, value: Option<u64>| {
        if let Some(value) = value {
            registered(registry, IntGauge::new(name, help)).set(value as i64);
        }
    };
    let resident = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .map(|pages| pages * rustix::param::page_size() as u64);
    let count = |folder| std::fs::read_dir(folder).ok().map(|entries| entries.count() as u64);
    gauge("process_resident_memory_bytes", "Memory of the process in RAM.", resident);
    gauge("process_open_fds", "Open file descriptors.", count("/proc/self/fd"));
    gauge("process_threads", "Threads of the process.", count("/proc/self/task"));
}
