//! The state that all connections of a server share.
#![forbid(unsafe_code)]

use super::admin::UPLOADS;
use super::clients::Clients;
use super::head;
use super::metrics;
use super::pace::{Pace, PacedText};
use super::record::{Ids, Record, Telemetry};
use super::table::{Served, ServerContext, Table};
use super::tls::{AdminTls, Tls};
use super::trace::{Trace, TraceIds};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use hv_host::prompt::look_at_load;
use prometheus::proto::MetricFamily;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A running server.
pub(super) struct Server {
    pub(super) server_context: ServerContext,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) tls: Arc<Tls>,
    /// That of the listener `admin`.
    pub(super) admin_tls: Option<AdminTls>,
    /// Permits for images that are received.
    pub(super) uploads: Semaphore,
    pub(super) clients: Arc<Clients>,
    table: RwLock<Arc<Table>>,
    draining: AtomicBool,
    /// Makes ids for requests without one.
    ids: Ids,
    /// Makes ids of traces, if these are told.
    traces: Option<TraceIds>,
    has_admin: bool,
    discard_time: Duration,
    metrics: PacedText,
    /// Of refusals that concern no function.
    refusals: Pace,
}

impl Server {
    /// A server of these functions; `process` is a random number.
    pub(super) fn new(
        server_context: ServerContext,
        telemetry: Arc<Telemetry>,
        table: Table,
        (tls, admin_tls): (Arc<Tls>, Option<AdminTls>),
        process: u32,
        traces: Option<TraceIds>,
    ) -> Server {
        let has_admin = table.config.admin.is_some();
        let discard_time = table.config.header_time;
        let clients = Clients::new(table.config.client_limits);
        let (ids, metrics) = (Ids::new(process), PacedText::default());
        let table = RwLock::new(Arc::new(table));
        Server {
            server_context,
            telemetry,
            tls,
            admin_tls,
            uploads: Semaphore::new(UPLOADS),
            clients,
            table,
            draining: AtomicBool::new(false),
            ids,
            traces,
            has_admin,
            discard_time,
            metrics,
            refusals: Pace::default(),
        }
    }

    pub(super) fn table(&self) -> Arc<Table> {
        self.table.read().expect("no panic while held").clone()
    }

    /// From now on requests go to this table's functions. Returns the old one.
    pub(super) fn replace(&self, table: Table) -> Arc<Table> {
        std::mem::replace(&mut *self.table.write().expect("no panic while held"), Arc::new(table))
    }

    /// The function at a path.
    pub(super) fn find(&self, path: &str) -> Option<Arc<Served>> {
        self.table.read().expect("no panic while held").find(path).cloned()
    }

    /// Whether hv's own pages are on a listener of their own.
    pub(super) fn has_admin(&self) -> bool {
        self.has_admin
    }

    /// How long a client may take for the unread rest of a request's body.
    pub(super) fn discard_time(&self) -> Duration {
        self.discard_time
    }

    /// When the next refusal that concerns no function may be answered.
    pub(super) fn refusals(&self) -> &Pace {
        &self.refusals
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The record of a request that has just come.
    pub(super) fn record<B>(&self, client: IpAddr, request: &Request<B>) -> Record {
        look_at_load();
        let id = head::request_id(request.headers())
            .unwrap_or_else(|| HeaderValue::from_maybe_shared(self.ids.make()).expect("digits and a dash"));
        Record::new(self.telemetry.clone(), client, request.method().clone(), request.uri().clone(), id)
    }

    /// The trace of a request with these fields.
    pub(super) fn trace(&self, headers: &HeaderMap) -> Option<Trace> {
        self.traces.as_ref().map(|ids| ids.of(headers))
    }

    /// Records a head that was refused: what it asked for is not known.
    pub(super) fn record_refused(&self, client: IpAddr, status: StatusCode) {
        let id = HeaderValue::from_maybe_shared(self.ids.make()).expect("digits and a dash");
        let method = Method::from_bytes(b"-").expect("a token");
        let mut record = Record::new(self.telemetry.clone(), client, method, Uri::from_static("*"), id);
        record.status = Some(status);
        record.done = true;
    }

    /// The page `/metrics`.
    pub(super) async fn metrics(&self) -> Vec<u8> {
        let make = async || {
            let mut page = Vec::new();
            metrics::write(&self.telemetry.metrics.counted(), &mut page).await;
            metrics::write(&self.current_metrics(), &mut page).await;
            page
        };
        self.metrics.get(make).await
    }

    /// All metrics as they are now.
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        [self.telemetry.metrics.counted(), self.current_metrics()].concat()
    }

    fn current_metrics(&self) -> Vec<MetricFamily> {
        let closing = self.server_context.engine.closing_devices();
        let ends = self.tls.certificates().ends();
        let Telemetry { metrics, log, exporter, .. } = &*self.telemetry;
        metrics.current(&self.table().figures(), &ends, closing, log.dropped(), exporter.as_ref())
    }
}
