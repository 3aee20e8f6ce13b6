//! Responses of hv itself: its own pages, and refusals.
#![forbid(unsafe_code)]

use super::head::REQUEST_ID;
use super::metrics::MEDIA_TYPE;
use super::record::Record;
use super::reply::Reply;
use super::server::Server;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use std::net::IpAddr;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The value of `Connection` when no further request is read.
pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// An answer of the front: a line of text, mostly.
#[derive(Debug)]
pub(super) struct FrontResponse {
    status: StatusCode,
    text: Vec<u8>,
    kind: HeaderValue,
    fields: Vec<(HeaderName, HeaderValue)>,
    last: bool,
}

impl FrontResponse {
    /// A line of text.
    pub(super) fn new(status: StatusCode, line: impl Into<String>) -> Self {
        let text = (line.into() + "\n").into_bytes();
        FrontResponse { status, text, kind: TEXT, fields: Vec::new(), last: false }
    }

    /// A text of this media type.
    pub(super) fn of(status: StatusCode, kind: HeaderValue, text: Vec<u8>) -> Self {
        FrontResponse { status, text, kind, fields: Vec::new(), last: false }
    }

    /// Nothing but a status.
    pub(super) fn empty(status: StatusCode) -> Self {
        FrontResponse { text: Vec::new(), ..FrontResponse::new(status, "") }
    }

    pub(super) fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.fields.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// The client may try again in a second.
    pub(super) fn later(self) -> Self {
        self.retry_after(1)
    }

    /// The client may try again in so many seconds.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        self.with(RETRY_AFTER, &seconds.to_string())
    }

    /// The connection ends with it.
    pub(super) fn last(mut self) -> Self {
        self.last = true;
        self
    }

    pub(super) fn into_response(self, mut record: Record) -> Response<Reply> {
        record.status = Some(self.status);
        let id = record.id().clone();
        let mut response = Response::new(Reply::own(self.text, record));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.fields);
        if self.status != StatusCode::NO_CONTENT {
            response.headers_mut().insert(CONTENT_TYPE, self.kind);
        }
        response.headers_mut().insert(REQUEST_ID, id);
        if self.last {
            response.headers_mut().insert(CONNECTION, CLOSE);
        }
        response
    }
}

/// The page at this path, if it is one of the front's own.
pub(super) async fn page(server: &Server, path: &str, method: &Method) -> Option<FrontResponse> {
    if !matches!(path, "/healthz" | "/metrics") {
        return None;
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let refusal = FrontResponse::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes GET and HEAD");
        return Some(refusal.with(ALLOW, "GET, HEAD"));
    }
    Some(if path == "/healthz" { health(server) } else { metrics(server).await })
}

/// The page that a request on a listener of functions asks for, if it does and
/// they are shown there. Metrics are for this host only then.
pub(super) async fn public(server: &Server, client: IpAddr, request: &Parts) -> Option<FrontResponse> {
    if server.has_admin() {
        return None;
    }
    // A proxy on this host speaks for clients elsewhere.
    let proxied = ["forwarded", "via", "x-forwarded-for"];
    let proxied = proxied.iter().any(|name| request.headers.contains_key(*name))
        || !server.table().config.proxies.is_empty();
    if request.uri.path() == "/metrics" && (proxied || !client.to_canonical().is_loopback()) {
        let text = "metrics are for this host alone; set `admin` to show them elsewhere";
        return Some(FrontResponse::new(StatusCode::FORBIDDEN, text));
    }
    page(server, request.uri.path(), &request.method).await
}

fn health(server: &Server) -> FrontResponse {
    if server.is_draining() {
        return FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    FrontResponse::new(StatusCode::OK, "ok")
}

async fn metrics(server: &Server) -> FrontResponse {
    FrontResponse::of(StatusCode::OK, HeaderValue::from_static(MEDIA_TYPE), server.metrics().await)
}
