//! Connections of clients: accepted, counted, and waited for.
#![forbid(unsafe_code)]

use super::clients::Clients;
use super::connection::Speaker;
use super::error::ServeError;
use super::server::Server;
use super::transport::ConnectionState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// How long to wait when no connection can be accepted, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerKind {
    /// Functions.
    Public,
    /// Functions over TLS.
    PublicTls,
    /// hv's own pages.
    Admin,
    /// hv's own pages, for clients with a certificate.
    AdminTls,
}

impl ListenerKind {
    /// What it is called where it is told.
    pub(super) fn name(self) -> &'static str {
        if self.is_admin() { "admin" } else { "functions" }
    }

    /// The scheme of URIs that lead there.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            ListenerKind::PublicTls | ListenerKind::AdminTls => "https",
            ListenerKind::Public | ListenerKind::Admin => "http",
        }
    }

    /// Whether hv's own pages are there.
    pub(super) fn is_admin(self) -> bool {
        matches!(self, ListenerKind::Admin | ListenerKind::AdminTls)
    }
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

/// Connections to hv's own pages that may be open. They take none of those of clients.
const ADMIN_CONNECTIONS: usize = 64;

/// Counts the connections of clients.
#[derive(Default)]
struct OpenConnections {
    count: AtomicUsize,
    closed: Notify,
}

/// One of them, until it is dropped.
struct OpenConnection(Arc<OpenConnections>);

impl OpenConnection {
    fn new(all: Arc<OpenConnections>) -> Self {
        all.count.fetch_add(1, Ordering::SeqCst);
        OpenConnection(all)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.closed.notify_waiters();
    }
}

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Connections {
    speaker: Speaker,
    /// Permits for connections of clients.
    permits: Arc<Semaphore>,
    admin_permits: Arc<Semaphore>,
    open: Arc<OpenConnections>,
    /// Turns true when the server drains.
    drain: watch::Receiver<Drain>,
}

/// How far a server is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// It serves.
    No,
    /// It drains.
    Ending,
    /// It drains, and another server has its sockets.
    HandedOver,
}

impl Connections {
    /// At most `capacity` connections, whose heads have to come in `header_time`.
    pub(super) fn new(
        server: Arc<Server>,
        capacity: usize,
        header_time: Duration,
        drain: watch::Receiver<Drain>,
    ) -> Self {
        Connections {
            speaker: Speaker::new(server, header_time, drain.clone()),
            permits: Arc::new(Semaphore::new(capacity)),
            open: Arc::default(),
            admin_permits: Arc::new(Semaphore::new(ADMIN_CONNECTIONS)),
            drain,
        }
    }

    /// Connections of clients that are open.
    pub(super) fn open(&self) -> usize {
        self.open.count.load(Ordering::SeqCst)
    }

    /// Waits until none of a client is open.
    pub(super) async fn closed(&self) {
        loop {
            let closed = self.open.closed.notified();
            if self.open() == 0 {
                return;
            }
            closed.await;
        }
    }

    /// Accepts connections: those of clients until the server drains, and a little longer for those that did not
    /// know yet; those to hv's own pages until it ends. Beyond the most that may be open, one that is idle ends for the next;
    /// if none is, clients wait in the kernel's backlog.
    pub(super) async fn accept(self, listener: TcpListener, kind: ListenerKind) {
        let Connections { speaker, permits, admin_permits, mut drain, open } = self;
        let permits = if kind.is_admin() { admin_permits } else { permits };
        let serve = async {
            loop {
                match listener.accept().await {
                    Ok((stream, client)) => {
                        let state = Arc::<ConnectionState>::default();
                        // Who is behind a proxy is known later.
                        let proxied = speaker.is_proxy(kind, client.ip());
                        let seat = match proxied {
                            true => None,
                            false => match speaker.seat(kind, client.ip(), &state) {
                                Ok(seat) => seat,
                                Err(_) => continue,
                            },
                        };
                        let permit = room(&permits, speaker.clients()).await;
                        let speaker = speaker.clone();
                        let place = (!kind.is_admin()).then(|| OpenConnection::new(open.clone()));
                        tokio::spawn(async move {
                            speaker.converse(stream, client, (kind, proxied), state).await;
                            drop((permit, place, seat));
                        });
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept connections for now: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        let until = async {
            match kind {
                ListenerKind::Public | ListenerKind::PublicTls => drained(&mut drain).await,
                // Its own pages are there until the end, unless another server has them now.
                ListenerKind::Admin | ListenerKind::AdminTls => {
                    drop(drain.wait_for(|drain| *drain == Drain::HandedOver).await)
                }
            }
            let is_shared = *drain.borrow() == Drain::HandedOver;
            if !is_shared {
                tokio::time::sleep(GRACE).await;
            }
        };
        tokio::select! {
            // Who is in the backlog is accepted before it is closed.
            biased;
            () = serve => {}
            () = until => {}
        }
    }
}

/// How often it is looked whether a connection has become idle, while none was.
const LOOK: Duration = Duration::from_millis(20);

/// A permit for a connection. If there is none, the one that has been idle the longest has to end.
async fn room(permits: &Arc<Semaphore>, clients: &Clients) -> OwnedSemaphorePermit {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return permit;
    }
    loop {
        clients.end_idle();
        if let Ok(permit) = timeout(LOOK, permits.clone().acquire_owned()).await {
            return permit.expect("nobody closes the semaphore");
        }
    }
}

/// How long a server that drains accepts connections and keeps idle ones: a request may be on its way.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Waits until the server drains.
pub(super) async fn drained(drain: &mut watch::Receiver<Drain>) {
    // An error would mean that the server was dropped.
    let _ = drain.wait_for(|drain| *drain != Drain::No).await;
}
