//! The body of an answer: hv's own text, or the answer of a guest.
#![forbid(unsafe_code)]

use super::exchange::{AnswerError, ClientExchange};
use super::handler::note_broken;
use super::record::Record;
use super::table::Served;
use super::transport::InFlight;
use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A body, and the record that ends with it.
pub(super) struct Reply {
    content: Content,
    /// `None` if the request goes on elsewhere.
    record: Option<Record>,
    /// The answer has broken off, and what there was of it is on its way to the client.
    broken: bool,
    /// The request's place in its connection.
    in_flight: Option<InFlight>,
    /// Whether the connection has to be cut for the client to see that the answer has broken off.
    cuts: bool,
}

enum Content {
    FrontResponse(Bytes),
    Guest(ClientExchange, Arc<Served>),
}

/// The answer breaks off in the middle; the connection is closed, so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("the function failed in the middle of its answer")]
pub(super) struct AnswerAborted;

impl Reply {
    pub(super) fn own(text: impl Into<Bytes>, mut record: Record) -> Self {
        // The whole body is in memory, so it counts as sent.
        record.done = true;
        Reply::of(Content::FrontResponse(text.into()), Some(record))
    }

    /// The answer of a guest.
    pub(super) fn guest(client_exchange: ClientExchange, served: Arc<Served>, record: Record) -> Self {
        let mut reply = Reply::of(Content::Guest(client_exchange, served), Some(record));
        reply.note_end();
        reply
    }

    /// Nothing: the connection goes on with another protocol.
    pub(super) fn upgrade() -> Self {
        Reply::of(Content::FrontResponse(Bytes::new()), None)
    }

    fn of(content: Content, record: Option<Record>) -> Self {
        Reply { content, record, broken: false, in_flight: None, cuts: false }
    }

    /// It is behind a head of so many bytes.
    pub(super) fn follows(&mut self, head: u64) {
        if let Some(record) = &mut self.record {
            record.answer_head = head;
        }
    }

    /// It answers a request of this connection, in this version of HTTP.
    pub(super) fn belongs_to(&mut self, in_flight: InFlight, version: Version) {
        self.cuts = version < Version::HTTP_2;
        self.in_flight = Some(in_flight);
    }

    /// Notes whether the client has everything: the body is not polled again then.
    fn note_end(&mut self) {
        let ended = self.is_end_stream();
        if let (Content::Guest(client_exchange, _), true, Some(record)) =
            (&self.content, ended, &mut self.record)
        {
            record.done = true;
            record.usage = client_exchange.usage();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // A client that goes away pays for what was used until then.
        if let (Content::Guest(client_exchange, _), Some(record)) = (&self.content, &mut self.record)
            && record.usage.is_none()
        {
            record.usage = client_exchange.usage();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = AnswerAborted;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerAborted>>> {
        let this = self.get_mut();
        if this.broken {
            return Poll::Ready(Some(Err(AnswerAborted)));
        }
        let chunk = match &mut this.content {
            Content::FrontResponse(text) => Some(std::mem::take(text)).filter(|text| !text.is_empty()),
            Content::Guest(client_exchange, served) => match ready!(client_exchange.poll_body(context)) {
                None => {
                    if let Some(trailers) = client_exchange.take_trailers() {
                        this.note_end();
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    None
                }
                Some(Ok(chunk)) => Some(chunk),
                Some(Err(broken)) => {
                    // If the client went away, it is not the guest's failure.
                    if let Some(record) = &mut this.record {
                        record.done = !matches!(broken, AnswerError::Upload(_));
                        record.aborted = true;
                        record.usage = client_exchange.usage();
                        note_broken(broken, served, record);
                    }
                    // Told at once, hyper would close the connection without having
                    // written even the head; in between two polls it does.
                    this.broken = true;
                    if let (true, Some(in_flight)) = (this.cuts, &this.in_flight) {
                        in_flight.cut();
                    }
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            },
        };
        if let (Some(record), Some(chunk)) = (&mut this.record, &chunk) {
            record.bytes += chunk.len() as u64;
        }
        this.note_end();
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        let has_trailers = matches!(&self.content, Content::Guest(exchange, _) if exchange.has_trailers());
        self.size_hint().exact() == Some(0) && !has_trailers
    }

    fn size_hint(&self) -> SizeHint {
        let exact = match &self.content {
            Content::FrontResponse(text) => Some(text.len() as u64),
            Content::Guest(client_exchange, _) => client_exchange.remaining(),
        };
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
