//! The way of spans and metrics to a collector: OTLP over HTTP, from a thread of its own.
//!
//! Nobody waits for it. Requests that are over are put into a queue that has an end, and the thread looks there now and then; what
//! has no room, or is not taken by the collector, is lost and counted.

use super::{Finished, otlp};
use crate::config::TelemetryConfig;
use crate::events::Events;
use crossbeam_channel::{Receiver, Sender, bounded};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use hv_jail as jail;
use hv_jail::Kind;
use hv_services::{Dialer, Names};
use hyper::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use prometheus::proto::MetricFamily;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Requests that wait to be told.
const QUEUE: usize = 8192;

/// Requests that are told at once.
const BATCH: usize = 256;

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long a request waits for the end of its machine's reset.
const RESET: Duration = Duration::from_secs(1);

/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the last ones may take when the server ends.
const LAST: Duration = Duration::from_secs(2);

/// Most bytes of an answer that are read.
const ANSWER: usize = 64 << 10;

/// Takes what is to be told.
pub(crate) struct Exporter {
    requests: Sender<Arc<Finished>>,
    metrics: Sender<Snapshot>,
    counts: Arc<Counts>,
    /// How often metrics are told.
    pub(crate) interval: Duration,
    /// Closed when all is told.
    ended: Receiver<()>,
}

/// All metrics at a moment.
struct Snapshot(Vec<MetricFamily>, SystemTime);

/// Requests and snapshots, by what became of them.
#[derive(Default)]
struct Counts {
    told: [AtomicU64; 2],
    lost: [AtomicU64; 2],
    /// The server ends.
    ending: AtomicBool,
}

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Traces = 0,
    Metrics = 1,
}

impl Signal {
    const ALL: [Signal; 2] = [Signal::Traces, Signal::Metrics];

    fn name(self) -> &'static str {
        match self {
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
        }
    }
}

/// Made before the server is jailed: a runtime opens descriptors.
pub(crate) struct Prepared {
    config: TelemetryConfig,
    dialer: Dialer,
    runtime: Runtime,
}

impl Exporter {
    pub(crate) fn prepare(config: TelemetryConfig, names: &Names) -> io::Result<Prepared> {
        let tls = config.tls.as_ref().map(|tls| tls.client_config().map_err(io::Error::other)).transpose()?;
        let dialer = Dialer::new(&config.endpoint.host, config.endpoint.port, names, tls);
        Ok(Prepared { config, dialer, runtime: Builder::new_current_thread().enable_all().build()? })
    }

    /// A request is over. Does not wait.
    pub(crate) fn request(&self, finished: &Arc<Finished>) {
        if self.requests.try_send(finished.clone()).is_err() {
            self.counts.lose(Signal::Traces, 1);
        }
    }

    /// Takes all metrics as they are now. Does not wait.
    pub(crate) fn metrics(&self, families: Vec<MetricFamily>) {
        if self.metrics.try_send(Snapshot(families, SystemTime::now())).is_err() {
            self.counts.lose(Signal::Metrics, 1);
        }
    }

    /// How many were told and lost, by what they are.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64, u64)> + '_ {
        let load = |counts: &[AtomicU64; 2], signal: Signal| counts[signal as usize].load(Ordering::Relaxed);
        Signal::ALL.into_iter().map(move |signal| {
            (signal.name(), load(&self.counts.told, signal), load(&self.counts.lost, signal))
        })
    }

    /// Waits until the rest is told, for a limited time.
    pub(crate) fn finish(&self) {
        self.counts.ending.store(true, Ordering::Relaxed);
        let _ = self.ended.recv_timeout(LAST);
    }
}

impl Counts {
    fn lose(&self, signal: Signal, count: usize) {
        self.lost[signal as usize].fetch_add(count as u64, Ordering::Relaxed);
    }
}

impl Prepared {
    /// Starts the thread.
    pub(crate) fn start(self, events: Events) -> io::Result<Exporter> {
        let Prepared { config, dialer, runtime } = self;
        let (requests, all_requests) = bounded(QUEUE);
        let (metrics, all_metrics) = bounded(2);
        let (end, ended) = bounded(0);
        let counts = Arc::<Counts>::default();
        let interval = config.interval;
        let teller = Teller {
            config,
            dialer,
            events,
            counts: counts.clone(),
            start: SystemTime::now(),
            connection: None,
            failing: false,
        };
        jail::spawn(Kind::Services, "hv-telemetry", move || {
            runtime.block_on(teller.work(&all_requests, &all_metrics));
            drop(end);
        })?;
        Ok(Exporter { requests, metrics, counts, interval, ended })
    }
}

/// Why something was not told.
#[derive(Debug, thiserror::Error)]
enum Untold {
    #[error("{0}")]
    Connection(String),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it does not answer within {PATIENCE:?}")]
    Silent,
}

/// Speaks with the collector.
struct Teller {
    config: TelemetryConfig,
    dialer: Dialer,
    events: Events,
    counts: Arc<Counts>,
    start: SystemTime,
    connection: Option<SendRequest<String>>,
    /// The last one was not told.
    failing: bool,
}

impl Teller {
    /// Works until the server ends.
    async fn work(mut self, requests: &Receiver<Arc<Finished>>, metrics: &Receiver<Snapshot>) {
        let mut waiting: Vec<Arc<Finished>> = Vec::new();
        loop {
            let open = !self.counts.ending.load(Ordering::Relaxed);
            waiting.extend(requests.try_iter().take(BATCH));
            let now = Instant::now();
            let is_early = |request: &Arc<Finished>| open && request.goes_on() && now < request.ended + RESET;
            let (later, due): (Vec<_>, Vec<_>) = waiting.drain(..).partition(is_early);
            waiting = later;
            if !due.is_empty() {
                let body = otlp::traces(&self.config.service, &due);
                self.tell(Signal::Traces, due.len(), body).await;
            }
            if let Ok(Snapshot(families, at)) = metrics.try_recv() {
                let body = otlp::metrics(&self.config.service, &families, nanos(self.start), nanos(at));
                self.tell(Signal::Metrics, 1, body).await;
            }
            if !open && requests.is_empty() {
                return;
            }
            // As long as there are many, there is no pause.
            if open && requests.len() < BATCH {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Tells something, of which there are so many, or loses it.
    async fn tell(&mut self, signal: Signal, count: usize, body: String) {
        let told = timeout(PATIENCE, self.post(signal, body)).await.unwrap_or(Err(Untold::Silent));
        match told {
            Ok(()) => {
                self.counts.told[signal as usize].fetch_add(count as u64, Ordering::Relaxed);
                if std::mem::take(&mut self.failing) {
                    self.events.telemetry(&self.config.endpoint.text, None);
                }
            }
            Err(error) => {
                self.connection = None;
                self.counts.lose(signal, count);
                if !std::mem::replace(&mut self.failing, true) {
                    self.events.telemetry(&self.config.endpoint.text, Some(&error.to_string()));
                }
            }
        }
    }

    async fn post(&mut self, signal: Signal, body: String) -> Result<(), Untold> {
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let connection = self.connection.insert(connection);
        connection.ready().await?;
        let endpoint = &self.config.endpoint;
        let mut request = Request::new(body);
        let path = format!("{}/v1/{}", endpoint.path, signal.name());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().expect("the configuration was validated");
        let length = request.body().len();
        let headers = request.headers_mut();
        headers.insert(HOST, endpoint.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, length.into());
        for (name, value) in &self.config.headers {
            if let Ok(mut value) = HeaderValue::from_bytes(value.reveal()) {
                value.set_sensitive(true);
                headers.insert(name.clone(), value);
            }
        }
        let response = connection.send_request(request).await?;
        let status = response.status();
        let mut answer = pin!(response.into_body());
        let mut read = 0;
        while let Some(frame) = poll_fn(|context| answer.as_mut().poll_frame(context)).await {
            read += frame?.data_ref().map_or(0, |data| data.len());
            if read > ANSWER {
                self.connection = None;
                break;
            }
        }
        if status.is_success() { Ok(()) } else { Err(Untold::Status(status)) }
    }

    async fn connect(&self) -> Result<SendRequest<String>, Untold> {
        let stream = self.dialer.connect().await.map_err(Untold::Connection)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection to the collector: {error}");
            }
        });
        Ok(sender)
    }
}

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Stages;

    #[test]
    fn what_has_no_room_is_lost_and_counted_and_nobody_waits() {
        let (requests, waiting) = bounded(QUEUE);
        let (metrics, snapshots) = bounded(1);
        let (_end, ended) = bounded(0);
        let counts = Arc::<Counts>::default();
        let exporter = Exporter { requests, metrics, counts, interval: Duration::from_secs(1), ended };
        let now = Instant::now();
        let finished = Arc::new(Finished {
            trace: None,
            request: "a".into(),
            method: "GET".into(),
            path: "/".into(),
            status: 200,
            client: [127, 0, 0, 1].into(),
            function: None,
            tenant: None,
            instance: None,
            failure: None,
            crash: None,
            started: SystemTime::now(),
            begun: now,
            ended: now,
            stages: Stages::default(),
        });
        (0..QUEUE + 10).for_each(|_| exporter.request(&finished));
        (0..3).for_each(|_| exporter.metrics(Vec::new()));
        let counts: Vec<_> = exporter.counts().collect();
        assert_eq!(counts, [("traces", 0, 10), ("metrics", 0, 2)]);
        assert_eq!((waiting.len(), snapshots.len()), (QUEUE, 1));
    }
}
