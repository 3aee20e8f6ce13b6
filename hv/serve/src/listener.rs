//! Connections of clients: accepted, spoken to, and ended.
#![forbid(unsafe_code)]

use super::error::ServeError;
use super::handler;
use super::server::Server;
use http::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// How long a client may read nothing of its answer.
const STUCK: Duration = Duration::from_secs(30);

/// How long to wait when no connection can be accepted, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// Most bytes of a head, and of what is read at once.
const READ_BUFFER: usize = 32 << 10;

/// Most header lines of a request.
const MAX_FIELDS: usize = 100;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerKind {
    /// Functions.
    Public,
    /// hv's own pages.
    Admin,
}

/// Listens on an address.
pub(super) fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|error| ServeError::Listen { key, address, error })
}

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Connections {
    server: Arc<Server>,
    http: http1::Builder,
    /// Permits for connections.
    permits: Arc<Semaphore>,
    capacity: usize,
    /// Turns true when the server drains.
    drain: watch::Receiver<bool>,
}

impl Connections {
    /// At most `capacity` connections, whose heads have to come in `header_time`.
    pub(super) fn new(
        server: Arc<Server>,
        capacity: usize,
        header_time: Duration,
        drain: watch::Receiver<bool>,
    ) -> Self {
        let mut http = http1::Builder::new();
        // A client that shuts down its sending side may still wait for its answer (`nc -N`, RFC 9293 section 3.6).
        // One that is gone altogether looks the same until something is sent to it.
        http.timer(TokioTimer::new())
            .half_close(true)
            .header_read_timeout(header_time)
            .max_buf_size(READ_BUFFER)
            .max_headers(MAX_FIELDS);
        let permits = Arc::new(Semaphore::new(capacity));
        Connections { server, http, permits, capacity, drain }
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.capacity - self.permits.available_permits()
    }

    /// Waits until none is open.
    pub(super) async fn closed(&self) {
        let all = u32::try_from(self.capacity).expect("a number of 32 bits in the configuration");
        let _all = self.permits.acquire_many(all).await;
    }

    /// Accepts connections until the server drains. Beyond the most that may be
    /// open, clients wait in the kernel's backlog.
    pub(super) async fn accept(self, listener: TcpListener, kind: ListenerKind) {
        let mut drain = self.drain.clone();
        let serve = async {
            loop {
                let permit = self.permits.clone().acquire_owned().await.expect("nobody closes the semaphore");
                match listener.accept().await {
                    Ok((stream, client)) => {
                        tokio::spawn(self.clone().converse(stream, client, kind, permit));
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept connections for now: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = drained(&mut drain) => {}
        }
    }

    /// Serves one connection until it is closed by either side.
    async fn converse(
        mut self,
        stream: TcpStream,
        client: SocketAddr,
        kind: ListenerKind,
        _permit: OwnedSemaphorePermit,
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
        let server = &self.server;
        server.telemetry.metrics.connections.inc();
        let service = service_fn(|request| {
            let (server, client) = (server.clone(), client.ip());
            async move {
                Ok::<Response<_>, Infallible>(match kind {
                    ListenerKind::Public => handler::public(server, client, request).await,
                    ListenerKind::Admin => handler::admin(server, client, request).await,
                })
            }
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = drained(&mut self.drain) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!("connection of {client}: {error}");
        }
        server.telemetry.metrics.connections.dec();
    }
}

/// Waits until the server drains.
async fn drained(drain: &mut watch::Receiver<bool>) {
    // An error would mean that the server was dropped.
    let _ = drain.wait_for(|drain| *drain).await;
}
