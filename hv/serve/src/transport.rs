//! The bytes of one connection, between the socket and hyper.
#![forbid(unsafe_code)]

use super::framing::Framing;
use bytes::{Bytes, BytesMut};
use rustix::net::sockopt::set_socket_linger;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::server::TlsStream;

/// What those who answer requests say of the connection as a whole, and it of them.
#[derive(Debug)]
pub(super) struct ConnectionState {
    running: AtomicUsize,
    /// Since when no request has been answered, if none is.
    idle_since: Mutex<Instant>,
    /// It is to end for others, as soon as it is idle.
    ending: AtomicBool,
    told: Notify,
    /// Told at the beginning of each request.
    began: Notify,
    /// Told at the end of each.
    ended: Notify,
    cut: AtomicBool,
    upgraded: AtomicBool,
}

impl Default for ConnectionState {
    fn default() -> Self {
        ConnectionState {
            running: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            ending: AtomicBool::new(false),
            told: Notify::new(),
            began: Notify::new(),
            ended: Notify::new(),
            cut: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
        }
    }
}

impl ConnectionState {
    /// Since when it has been idle, unless it is busy or about to end.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.is_idle() && !self.is_ending();
        is_idle.then(|| *self.idle_since.lock().expect("no panic while held"))
    }

    /// Has it end, behind a request that may just have come.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Whether it was told to end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Waits until it is told to end.
    pub(super) async fn told_to_end(&self) {
        while !self.is_ending() {
            self.told.notified().await;
        }
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.began.notify_one();
        InFlight(self.clone())
    }

    /// Whether no request is being answered.
    pub(super) fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }

    /// Waits until no request is being answered.
    pub(super) async fn idle(&self) {
        while !self.is_idle() {
            self.ended.notified().await;
        }
    }

    /// Waits until a request is being answered.
    pub(super) async fn busy(&self) {
        while self.is_idle() {
            self.began.notified().await;
        }
    }
}

/// A request of a connection, until its answer has ended.
#[derive(Debug)]
pub(super) struct InFlight(Arc<ConnectionState>);

impl InFlight {
    /// The answer is incomplete: the connection ends with a reset, which no client takes for the end of an answer
    /// that is as long as the connection lasts (RFC 9112, section 8).
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::Relaxed);
    }

    /// What comes behind this request is another protocol.
    pub(super) fn upgrade(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().expect("no panic while held") = Instant::now();
        }
        self.0.ended.notify_one();
    }
}

/// Which version of HTTP a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How a client that speaks HTTP/2 begins; no method of HTTP/1 does (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI ";

/// What bytes come and go on.
#[derive(Debug)]
pub(super) enum Stream {
    /// A connection without TLS.
    Plain(TcpStream),
    /// One with it.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Calls a method of whichever stream it is.
macro_rules! each {
    ($stream:expr, $method:ident ($($argument:expr),*)) => {
        match $stream {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

/// A connection as hyper reads and writes it.
#[derive(Debug)]
pub(super) struct Transport {
    stream: Stream,
    /// What was read to see the protocol.
    first: Bytes,
    framing: Framing,
    state: Arc<ConnectionState>,
}

impl Transport {
    pub(super) fn new(stream: Stream, state: Arc<ConnectionState>) -> Self {
        Transport { stream, first: Bytes::new(), framing: Framing::new(), state }
    }

    /// Reads so much that it is clear which protocol it is. `None`: the client has ended the connection.
    pub(super) async fn protocol(&mut self) -> io::Result<Option<Protocol>> {
        let mut first = BytesMut::with_capacity(FIRST_READ);
        loop {
            let count = match &mut self.stream {
                Stream::Plain(stream) => stream.read_buf(&mut first).await?,
                Stream::Tls(stream) => stream.read_buf(&mut first).await?,
            };
            if count == 0 {
                return Ok(None);
            }
            let len = first.len().min(PREFACE.len());
            let is_h2 = first[..len] == PREFACE[..len];
            if !is_h2 || len == PREFACE.len() {
                if is_h2 {
                    self.framing.stop();
                }
                self.framing.check(&mut first);
                self.first = first.freeze();
                return Ok(Some(if is_h2 { Protocol::Http2 } else { Protocol::Http1 }));
            }
        }
    }
}

/// Most bytes that are read to see the protocol. Most requests fit, and take no second look at the socket.
const FIRST_READ: usize = 1024;

impl Drop for Transport {
    fn drop(&mut self) {
        if self.state.cut.load(Ordering::Relaxed) {
            // Without it the client sees a connection that ends in good order.
            if let Err(error) = set_socket_linger(self.stream.socket(), Some(Duration::ZERO)) {
                tracing::debug!("no reset at the end of a connection: {error}");
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let count = this.first.len().min(buffer.remaining());
            buffer.put_slice(&this.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(each!(&mut this.stream, poll_read(context, buffer)))?;
        if this.state.upgraded.load(Ordering::Relaxed) {
            this.framing.stop();
        }
        this.framing.check(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().stream, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut self.get_mut().stream, poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().stream, poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.cut.load(Ordering::Relaxed) {
            // A client that is told the end would take what it has for all.
            return Poll::Ready(Ok(()));
        }
        each!(&mut this.stream, poll_shutdown(context))
    }
}
