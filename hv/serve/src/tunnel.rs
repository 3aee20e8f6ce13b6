//! Bytes of another protocol between a client and a guest, until either has had enough.
#![forbid(unsafe_code)]

use super::exchange::{AnswerError, ClientExchange};
use super::handler::note_broken;
use super::record::Record;
use super::table::Served;
use super::transport::InFlight;
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are read of a client at once.
const READ: usize = 16 << 10;

/// A request that goes on as another protocol.
pub(super) struct Tunnel {
    pub(super) exchange: ClientExchange,
    pub(super) served: Arc<Served>,
    pub(super) record: Record,
    /// The request's place in its connection.
    pub(super) in_flight: InFlight,
}

/// How far the two directions have come.
struct Pump {
    /// From the client, and not yet with the guest.
    up: Bytes,
    /// Where bytes of the client are read to.
    buffer: Box<[u8]>,
    /// The client has ended its direction.
    up_ended: bool,
    /// From the guest, and not yet with the client.
    down: Bytes,
    /// The guest has ended its direction.
    down_ended: bool,
}

/// Why a tunnel ends before its time.
enum Broken {
    Guest(AnswerError),
    Client(io::Error),
}

impl Tunnel {
    /// Passes bytes as soon as the client's connection is free for them.
    pub(super) async fn run(mut self, upgrade: OnUpgrade) {
        let Ok(upgraded) = upgrade.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut pump = Pump {
            up: Bytes::new(),
            buffer: vec![0; READ].into(),
            up_ended: false,
            down: Bytes::new(),
            down_ended: false,
        };
        let Tunnel { exchange, record, .. } = &mut self;
        let result = poll_fn(|context| {
            let down = pump.poll_down(context, &mut stream, exchange, record)?;
            // The client's direction has no say in the end: the guest hears of its end, and answers.
            let _ = pump.poll_up(context, &mut stream, exchange, record)?;
            down.map(Ok)
        });
        match result.await {
            Ok(()) => self.record.done = true,
            Err(Broken::Guest(broken)) => {
                note_broken(broken, &self.served, &mut self.record);
                (self.record.done, self.record.aborted) = (true, true);
                self.in_flight.cut();
            }
            Err(Broken::Client(error)) => tracing::debug!("the client of a WebSocket: {error}"),
        }
        self.record.usage = self.exchange.usage();
    }
}

impl Pump {
    /// Passes what the client sends; ready when it has ended.
    fn poll_up(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut TokioIo<Upgraded>,
        exchange: &mut ClientExchange,
        record: &mut Record,
    ) -> Poll<Result<(), Broken>> {
        while !self.up_ended {
            if !self.up.is_empty() {
                ready!(exchange.poll_send(context, &mut self.up));
                continue;
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)).map_err(Broken::Client)?;
            self.up = Bytes::copy_from_slice(buffer.filled());
            record.request_body.get_or_insert_default().fetch_add(self.up.len() as u64, Ordering::Relaxed);
            if self.up.is_empty() {
                self.up_ended = true;
                exchange.end_request();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Passes what the guest sends; ready when it has ended, and the client has all of it.
    fn poll_down(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut TokioIo<Upgraded>,
        exchange: &mut ClientExchange,
        record: &mut Record,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if !self.down.is_empty() {
                let written = ready!(Pin::new(&mut *stream).poll_write(context, &self.down));
                let written = written.map_err(Broken::Client)?;
                if written == 0 {
                    return Poll::Ready(Err(Broken::Client(io::ErrorKind::WriteZero.into())));
                }
                drop(self.down.split_to(written));
                record.bytes += written as u64;
            } else if self.down_ended {
                return Pin::new(&mut *stream).poll_shutdown(context).map_err(Broken::Client);
            } else {
                match exchange.poll_body(context) {
                    Poll::Ready(Some(Ok(chunk))) => self.down = chunk,
                    Poll::Ready(Some(Err(broken))) => return Poll::Ready(Err(Broken::Guest(broken))),
                    Poll::Ready(None) => self.down_ended = true,
                    Poll::Pending => {
                        ready!(Pin::new(&mut *stream).poll_flush(context)).map_err(Broken::Client)?;
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
