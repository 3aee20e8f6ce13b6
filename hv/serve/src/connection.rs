//! One connection of a client: its protocol, its requests, its end.
#![forbid(unsafe_code)]

use super::clients::{Clients, Seat, TooMany};
use super::handler::{self, Peer};
use super::listener::{Drain, GRACE, ListenerKind, drained};
use super::proxy_header::{self, Told};
use super::reply::Reply;
use super::server::Server;
use super::transport::{ConnectionState, Protocol, Stream, Transport};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may read nothing of its answer.
const STUCK: Duration = Duration::from_secs(30);

/// Most bytes of a head, and of what is read at once.
const READ_BUFFER: usize = 32 << 10;

/// Most header lines of a request.
const MAX_FIELDS: usize = 100;

/// Most bytes of a head in HTTP/2, as section 6.5.2 of RFC 9113 counts them: 16 KiB, and 32 for each field.
const MAX_HEADER_LIST: u32 = (16 << 10) + 32 * MAX_FIELDS as u32;

/// Most requests of one connection at a time.
const MAX_STREAMS: u32 = 128;

/// Bytes of all bodies of a connection, and of one of them, that a client may send before hv has taken them.
const CONNECTION_WINDOW: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 64 << 10;

/// Speaks with clients.
#[derive(Clone)]
pub(super) struct Speaker {
    server: Arc<Server>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    header_time: Duration,
    /// Turns true when the server drains.
    drain: watch::Receiver<Drain>,
}

/// What hyper makes of a connection, of either protocol.
trait Conversation: Future<Output = hyper::Result<()>> {
    /// Ends it behind the requests that run.
    fn end_soon(self: Pin<&mut Self>);
}

impl Speaker {
    /// Heads have to come in `header_time`.
    pub(super) fn new(server: Arc<Server>, header_time: Duration, drain: watch::Receiver<Drain>) -> Self {
        let mut http1 = http1::Builder::new();
        // A client that shuts down its sending side may still wait for its answer (`nc -N`, RFC 9293 section 3.6).
        // One that is gone altogether looks the same until something is sent to it.
        http1
            .timer(TokioTimer::new())
            .half_close(true)
            .header_read_timeout(header_time)
            .max_buf_size(READ_BUFFER)
            .max_headers(MAX_FIELDS);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(header_time)
            .keep_alive_timeout(STUCK)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .enable_connect_protocol();
        Speaker { server, http1, http2, header_time, drain }
    }

    pub(super) fn clients(&self) -> &Clients {
        &self.server.clients
    }

    /// Whether whoever has this address begins its connections to functions with a header of the PROXY protocol.
    pub(super) fn is_proxy(&self, kind: ListenerKind, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !kind.is_admin()
            && self.server.table().config.proxies.iter().any(|network| network.contains(&address))
    }

    /// Reads who is behind a proxy. `None`: a connection without a client, or one too many of its client.
    async fn behind(
        &self,
        stream: &mut TcpStream,
        proxy: SocketAddr,
        state: &Arc<ConnectionState>,
    ) -> Option<(SocketAddr, Option<Seat>)> {
        let client = match timeout(self.header_time, proxy_header::read(stream)).await {
            Ok(Ok(Told::Client(client))) => client,
            Ok(Ok(Told::Proxy)) => proxy,
            // It only looked whether there is somebody.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Ok(Err(error)) => {
                tracing::debug!("connection of proxy {proxy}: {error}");
                self.server.record_refused(proxy.ip(), StatusCode::BAD_REQUEST);
                return None;
            }
            Err(_) => return None,
        };
        let seat = self.seat(ListenerKind::Public, client.ip(), state).ok()?;
        Some((client, seat))
    }

    /// The place of a client that has connected, unless it has too many. hv's own pages have no such limit.
    pub(super) fn seat(
        &self,
        kind: ListenerKind,
        client: IpAddr,
        state: &Arc<ConnectionState>,
    ) -> Result<Option<Seat>, TooMany> {
        if kind.is_admin() {
            return Ok(None);
        }
        let seat = self.server.clients.connect(client, state, Instant::now());
        seat.map(Some).inspect_err(|TooMany| self.server.telemetry.metrics.refused_connections.inc())
    }

    /// Serves one connection until it is closed by either side. Who is at the other end of one that is `proxied` stands at its beginning.
    pub(super) async fn converse(
        self,
        mut stream: TcpStream,
        client: SocketAddr,
        (kind, proxied): (ListenerKind, bool),
        state: Arc<ConnectionState>,
    ) {
        // Answers are written whole; the kernel ends a connection whose client takes nothing.
        let prepared = stream.set_nodelay(true).and_then(|()| {
            let stuck = u32::try_from(STUCK.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(&stream, stuck).map_err(Into::into)
        });
        if prepared.is_err() {
            // The client has disconnected.
            return;
        }
        let metrics = &self.server.telemetry.metrics;
        metrics.connections.inc();
        let behind = match proxied {
            true => self.behind(&mut stream, client, &state).await,
            false => Some((client, None)),
        };
        let Some((client, _seat)) = behind else { return metrics.connections.dec() };
        if let Err(error) = self.speak(stream, client, kind, &state).await {
            self.note_end(client, error.as_ref());
        }
        metrics.connections.dec();
    }

    /// A connection has ended with an error. What hyper refuses, nobody else has seen.
    fn note_end(&self, client: SocketAddr, error: &(dyn Error + 'static)) {
        tracing::debug!("connection of {client}: {error}");
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && error.is_parse()
        {
            let status = if error.is_parse_too_large() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            self.server.record_refused(client.ip(), status);
        }
    }

    async fn speak(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        kind: ListenerKind,
        state: &Arc<ConnectionState>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let begin = async {
            let stream = match kind {
                ListenerKind::PublicTls | ListenerKind::AdminTls => {
                    Stream::Tls(Box::new(self.handshake(stream, kind).await?))
                }
                ListenerKind::Public | ListenerKind::Admin => Stream::Plain(stream),
            };
            let mut transport = Transport::new(stream, state.clone());
            let protocol = timeout(self.header_time, transport.protocol()).await??;
            Ok::<_, Box<dyn Error + Send + Sync>>(protocol.map(|protocol| (transport, protocol)))
        };
        let begun = tokio::select! {
            begun = begin => begun?,
            () = state.told_to_end() => None,
        };
        let Some((transport, protocol)) = begun else { return Ok(()) };
        let service = {
            let (server, state) = (self.server.clone(), state.clone());
            service_fn(move |request: Request<Incoming>| {
                let (server, peer) = (server.clone(), Peer { client: client.ip(), in_flight: state.begin() });
                async move {
                    Ok::<Response<Reply>, Infallible>(handler::handle(kind, server, peer, request).await)
                }
            })
        };
        let io = TokioIo::new(transport);
        match protocol {
            Protocol::Http1 => {
                let connection = pin!(self.http1.serve_connection(io, service).with_upgrades());
                self.until_end(connection, state, protocol).await?;
                // It may go on with another protocol.
                state.idle().await;
            }
            Protocol::Http2 => {
                let connection = pin!(self.http2.serve_connection(io, service));
                self.until_end(connection, state, protocol).await?;
            }
        }
        Ok(())
    }

    fn acceptor(&self, kind: ListenerKind) -> TlsAcceptor {
        match &self.server.admin_tls {
            Some(tls) if kind.is_admin() => tls.acceptor(),
            _ => self.server.tls.acceptor(),
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        kind: ListenerKind,
    ) -> Result<TlsStream<TcpStream>, Box<dyn Error + Send + Sync>> {
        let accept = async { Ok(timeout(self.header_time, self.acceptor(kind).accept(stream)).await??) };
        accept.await.inspect_err(|_| self.server.telemetry.metrics.handshakes_failed.inc())
    }

    /// Waits for the end of a connection, and brings it about if the server drains, or if a client of HTTP/2 has asked for
    /// nothing in `header_time`.
    async fn until_end(
        &self,
        mut connection: Pin<&mut impl Conversation>,
        state: &ConnectionState,
        protocol: Protocol,
    ) -> hyper::Result<()> {
        let mut drain = self.drain.clone();
        let end = async {
            tokio::select! {
                () = drained(&mut drain) => {
                    // Where another server has the sockets nobody is in a hurry: an idle client has as much time as ever.
                    let is_over = *drain.borrow() == Drain::HandedOver;
                    let grace = if is_over { self.header_time } else { GRACE };
                    match protocol {
                        Protocol::Http1 => idle(state, grace).await,
                        // A request may be on its way. Those that run are no matter: clients are told which ones are answered.
                        Protocol::Http2 => drop(timeout(grace, state.busy()).await),
                    }
                }
                () = forgiving(state, protocol, self.header_time) => {}
                () = state.told_to_end() => {}
            }
        };
        tokio::select! {
            // What has come is read before it is looked whether the time is over.
            biased;
            result = connection.as_mut() => return result,
            () = end => connection.as_mut().end_soon(),
        }
        connection.await
    }
}

/// Waits until there was no request for so long, from now on or from the end of the last one on. In HTTP/1 an answer that a client has
/// had since a drain began says that it is the last one, and ends its connection; one whose head is older does not say so, and the client
/// may ask again.
async fn idle(state: &ConnectionState, time: Duration) {
    while timeout(time, state.busy()).await.is_ok() {
        state.idle().await;
    }
}

/// Waits until a client of HTTP/2 has asked for nothing for so long; of HTTP/1, for ever: hyper sees to that.
async fn forgiving(state: &ConnectionState, protocol: Protocol, time: Duration) {
    if protocol == Protocol::Http1 {
        return std::future::pending().await;
    }
    loop {
        sleep(time).await;
        // No request for the whole of the time, or one that has ended in it: that one is forgiven.
        if state.is_idle() && timeout(time, state.busy()).await.is_err() {
            return;
        }
    }
}

impl<S> Conversation for http1::UpgradeableConnection<TokioIo<Transport>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Reply>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn end_soon(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Conversation for http2::Connection<TokioIo<Transport>, S, TokioExecutor>
where
    S: hyper::service::HttpService<Incoming, ResBody = Reply>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, Reply>,
{
    fn end_soon(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
