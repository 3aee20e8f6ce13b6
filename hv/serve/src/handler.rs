//! One request to a function: its route, its admission, its response.
#![forbid(unsafe_code)]

use super::admin;
use super::exchange::{AnswerError, AnswerSink, ClientExchange, Exchange};
use super::front_response::{self, CLOSE, FrontResponse};
use super::gate::Refused;
use super::head::{self, AnswerHead, REQUEST_ID};
use super::listener::ListenerKind;
use super::pace::Pace;
use super::record::Record;
use super::reply::Reply;
use super::request_rules;
use super::server::Server;
use super::table::Served;
use super::traffic;
use super::transport::InFlight;
use super::tunnel::Tunnel;
use super::upgrade;
use super::upload::{Upload, UploadError};
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hv_core::domain::StartError;
use hv_function::{Failure, Isolation};
use hv_host::limits;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::error::Error;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The header with the id of the crash in the log.
const CRASH_ID: HeaderName = HeaderName::from_static("x-crash-id");

/// Whom a request comes from.
pub(super) struct Peer {
    pub(super) client: IpAddr,
    pub(super) in_flight: InFlight,
}

/// Answers a request on a listener of this kind.
pub(super) async fn handle(
    kind: ListenerKind,
    server: Arc<Server>,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Response<Reply> {
    let mut record = server.record(peer.client, &request);
    if !kind.is_admin() {
        record.follow(server.trace(request.headers()), request.headers());
    }
    let version = request.version();
    let upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    // In HTTP/2 a body that nobody reads holds up no other request.
    let discard_time = (version < Version::HTTP_2).then_some(server.discard_time());
    let mut upload = Upload::new(body, parts.headers.contains_key(EXPECT), discard_time);
    record.request_head = traffic::request_head(&parts);
    record.request_body = upload.as_ref().map(Upload::received);
    let mut response = match (request_rules::answer(&parts), kind) {
        (Some(refusal), _) => {
            server.refusals().wait().await;
            say(refusal, upload.as_ref(), record)
        }
        (None, ListenerKind::Public | ListenerKind::PublicTls)
            if let Err(wait) = server.clients.ask(peer.client, Instant::now()) =>
        {
            server.refusals().wait().await;
            say(too_often(wait), upload.as_ref(), record)
        }
        (None, ListenerKind::Public | ListenerKind::PublicTls) => {
            if kind == ListenerKind::PublicTls {
                parts.headers.insert(head::FORWARDED_PROTO, HeaderValue::from_static("https"));
            }
            match public(&server, peer.client, &parts, upload, record).await {
                Ok(response) => response,
                Err(accepted) => return accepted.go_on(&parts, peer.in_flight, upgrade),
            }
        }
        (None, ListenerKind::Admin | ListenerKind::AdminTls) => {
            let answer = admin::answer(&server, &parts, &mut upload).await;
            say(answer, upload.as_ref(), record)
        }
    };
    if version >= Version::HTTP_2 {
        response.headers_mut().remove(CONNECTION);
    } else if server.is_draining() && !kind.is_admin() {
        // hyper is told, too, but maybe not before this answer.
        response.headers_mut().insert(CONNECTION, CLOSE);
    }
    let head = traffic::answer_head(response.status(), response.headers());
    response.body_mut().follows(head);
    response.body_mut().belongs_to(peer.in_flight, version);
    response
}

/// The answer to a client that asks more often than it may.
fn too_often(wait: Duration) -> FrontResponse {
    let text = "too many requests of this client";
    FrontResponse::new(StatusCode::TOO_MANY_REQUESTS, text).retry_after(wait.as_secs() + 1)
}

/// Answers a request on a listener of functions.
async fn public(
    server: &Server,
    client: IpAddr,
    parts: &Parts,
    mut upload: Option<Upload>,
    mut record: Record,
) -> Result<Response<Reply>, Accepted> {
    if let Some(page) = front_response::public(server, client, parts).await {
        return Ok(say(page, upload.as_ref(), record));
    }
    let mut pace = None;
    match serve(server, client, parts, &mut upload, &mut record, &mut pace).await {
        Err(refusal) => {
            // Refusals are delayed if there are many: a client that repeats its request at once would keep
            // the thread busy.
            if record.instance.is_none() {
                pace.as_deref().unwrap_or(server.refusals()).wait().await;
            }
            Ok(say(refusal, upload.as_ref(), record))
        }
        Ok((head, exchange, served)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            Err(Accepted { headers: head.headers, exchange, served, record })
        }
        Ok((head, client_exchange, served)) => {
            record.status = Some(head.status);
            let id = record.id().clone();
            let is_last = client_exchange.is_last();
            let mut response = Response::new(Reply::guest(client_exchange, served, record));
            *response.status_mut() = head.status;
            *response.headers_mut() = head.headers;
            response.headers_mut().insert(REQUEST_ID, id);
            if let Some(length) = head.length.filter(|_| head.status != StatusCode::NO_CONTENT) {
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
            if is_last {
                response.headers_mut().insert(CONNECTION, CLOSE);
            }
            Ok(response)
        }
    }
}

/// A guest goes on with another protocol.
struct Accepted {
    headers: HeaderMap,
    exchange: ClientExchange,
    served: Arc<Served>,
    record: Record,
}

impl Accepted {
    /// Answers so, and passes what comes behind the head.
    fn go_on(self, parts: &Parts, in_flight: InFlight, upgrade: OnUpgrade) -> Response<Reply> {
        let Accepted { mut headers, exchange, served, mut record } = self;
        let status = upgrade::accept(parts, &mut headers);
        record.status = Some(status);
        headers.insert(REQUEST_ID, record.id().clone());
        record.answer_head = traffic::answer_head(status, &headers);
        if parts.version < Version::HTTP_2 {
            in_flight.upgrade();
        }
        tokio::spawn(Tunnel { exchange, served, record, in_flight }.run(upgrade));
        let mut response = Response::new(Reply::upgrade());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// An answer of the front's own to a request with this body.
fn say(own: FrontResponse, upload: Option<&Upload>, record: Record) -> Response<Reply> {
    match upload {
        Some(upload) if !upload.is_sure_to_end() => own.last().into_response(record),
        _ => own.into_response(record),
    }
}

/// Passes a request to its function, and returns the head of the answer. On failure, `upload` has the unread
/// rest of the body, and `pace` is that of the function's refusals.
async fn serve(
    server: &Server,
    client: IpAddr,
    parts: &Parts,
    upload: &mut Option<Upload>,
    record: &mut Record,
    pace: &mut Option<Arc<Pace>>,
) -> Result<(AnswerHead, ClientExchange, Arc<Served>), FrontResponse> {
    let served = server
        .find(parts.uri.path())
        .ok_or_else(|| FrontResponse::new(StatusCode::NOT_FOUND, "no function here"))?;
    record.function = Some(served.name().clone());
    record.tenant = served.tenant().cloned();
    *pace = Some(served.refusals().clone());
    let config = served.config();
    if !config.methods.is_empty() && !config.methods.contains(&parts.method) {
        let allow = config.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
        return Err(FrontResponse::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allow}"))
            .with(ALLOW, &allow));
    }
    if let Some(upload) = upload
        && !upload.allow(config.body)
    {
        return Err(too_large(&served));
    }
    let mut bytes = Vec::with_capacity(512);
    head::write_request(parts, client, record.id(), record.trace.as_ref(), &mut bytes).map_err(
        |head::TooLong| {
            FrontResponse::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the head of the request is too long",
            )
        },
    )?;
    record.stages.queued = Some(Instant::now());
    let permit = served.gate().enter().await.map_err(|refused| match refused {
        Refused::Full => {
            FrontResponse::new(StatusCode::TOO_MANY_REQUESTS, "too many requests wait for this function")
                .later()
        }
        Refused::TenantFull => FrontResponse::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests wait for functions of this tenant",
        )
        .later(),
        Refused::NoMemory => {
            record.note_failure("no_memory");
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, "no memory was free for a guest in time")
                .later()
        }
        Refused::Late => {
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, "no guest was free in time").later()
        }
    })?;
    record.stages.admitted = Some(Instant::now());
    record.stages.resets = config.deployment.isolation == Isolation::Request;
    let exchange = Arc::new(Exchange::default());
    let may_upgrade = upgrade::is_asked_for(parts);
    let method = if may_upgrade { Method::GET } else { parts.method.clone() };
    let sink = AnswerSink { exchange: exchange.clone(), method, may_upgrade, _permit: permit };
    let call = served.function().call_as(record.number(), &bytes, Box::new(sink));
    let mut call = call.map_err(|failure| failed(&failure, false, &served, record))?;
    record.instance = Some(if call.is_cold() { "cold" } else { "warm" });
    // What comes behind a request for another protocol is that.
    if may_upgrade {
        *upload = None;
    } else if upload.is_none() {
        call.end();
    }
    let mut client_exchange = ClientExchange::new(exchange, call, upload.take());
    match poll_fn(|context| client_exchange.poll_head(context)).await {
        Ok(head) => {
            record.stages.progress = client_exchange.progress();
            Ok((head, client_exchange, served))
        }
        Err(broken) => {
            record.stages.progress = client_exchange.progress();
            record.usage = client_exchange.usage();
            *upload = client_exchange.into_upload();
            Err(note_broken(broken, &served, record))
        }
    }
}

fn too_large(served: &Served) -> FrontResponse {
    let limit = served.config().body;
    FrontResponse::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
}

/// Records why the answer is not complete. Returns the response for a client that has received nothing yet.
pub(super) fn note_broken(broken: AnswerError, served: &Served, record: &mut Record) -> FrontResponse {
    match broken {
        AnswerError::Failed { failure, uploading } => failed(&failure, uploading, served, record),
        AnswerError::Upload(UploadError::TooLarge) => {
            record.note_failure("too_large");
            too_large(served)
        }
        AnswerError::Upload(UploadError::Client) => {
            FrontResponse::new(StatusCode::BAD_REQUEST, "the body of the request did not come to its end")
        }
        AnswerError::Length { declared, sent } => {
            record.note_failure("length");
            note(served, record, &format!("it declared {declared} bytes of an answer, and sent {sent}"));
            FrontResponse::new(StatusCode::BAD_GATEWAY, "the function's answer is not as long as it says")
        }
        AnswerError::Headless => {
            record.note_failure("headless");
            note(served, record, "it ended an answer without a head");
            FrontResponse::new(StatusCode::BAD_GATEWAY, "the function gave no answer")
        }
    }
}

fn note(served: &Served, record: &Record, why: &str) {
    let request = record.id().to_str().unwrap_or_default();
    served.events().failed(served.name(), request, why);
}

/// Whether the budget for memory has no room for another guest.
fn lacks_memory(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(StartError::Budget(_)))
}

/// What metrics call a failure.
fn kind(failure: &Failure, uploading: bool) -> &'static str {
    match failure {
        Failure::Crashed(_) => "crashed",
        Failure::Exited(_) => "exited",
        Failure::WallTime if uploading => "upload_time",
        Failure::WallTime => "wall_time",
        Failure::CpuTime => "cpu_time",
        Failure::NoRoom(error) if lacks_memory(&**error) => "no_memory",
        Failure::Full | Failure::NoRoom(_) => "no_room",
        Failure::BackOff(_) => "back_off",
        Failure::Unreachable(_) => "unreachable",
        Failure::Stopped => "stopped",
    }
}

/// Notes how a guest failed; `uploading`: while the client was still sending.
fn failed(failure: &Failure, uploading: bool, served: &Served, record: &mut Record) -> FrontResponse {
    record.note_failure(kind(failure, uploading));
    match failure {
        Failure::Crashed(report) => {
            served.crashed();
            let id = record.new_crash_id();
            let request = record.id().to_str().unwrap_or_default();
            served.events().crashed(&id, served.name(), request, report);
            let refusal =
                FrontResponse::new(StatusCode::BAD_GATEWAY, format!("the function crashed; crash id {id}"));
            let refusal = refusal.with(CRASH_ID, &id);
            record.crash = Some(id);
            refusal
        }
        Failure::Exited(code) => {
            note(served, record, &format!("the guest exited with code {code} instead of answering"));
            FrontResponse::new(StatusCode::BAD_GATEWAY, "the function ended without an answer")
        }
        Failure::WallTime if uploading => {
            FrontResponse::new(StatusCode::REQUEST_TIMEOUT, "the body of the request took too long").last()
        }
        Failure::WallTime => FrontResponse::new(StatusCode::GATEWAY_TIMEOUT, "the function took too long"),
        Failure::CpuTime => {
            FrontResponse::new(StatusCode::GATEWAY_TIMEOUT, "the function used too much CPU time")
        }
        Failure::BackOff(rest) => {
            let seconds = rest.as_secs() + 1;
            let text =
                format!("the function has crashed many times in a row; it is tried again in {seconds} s");
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(seconds)
        }
        Failure::NoRoom(error) if lacks_memory(&**error) => {
            served.note_no_room(|| {
                format!("{failure}; raise `memory`, or promise its instances less (memory = \"MIN..MAX\")")
            });
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, "there is no memory for another guest")
                .later()
        }
        Failure::NoRoom(_) | Failure::Full => {
            served.note_no_room(|| limits::explain(failure));
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, "no guest could be started").later()
        }
        Failure::Unreachable(binding) => {
            note(served, record, &failure.to_string());
            let text = format!("binding {binding} cannot be reached");
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, text).later()
        }
        Failure::Stopped => {
            FrontResponse::new(StatusCode::SERVICE_UNAVAILABLE, "the function was stopped").later()
        }
    }
}
