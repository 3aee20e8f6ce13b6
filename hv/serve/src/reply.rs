//! The body of an answer: the front's own words, or what a guest says.
#![forbid(unsafe_code)]

use super::exchange::{Broken, Conversation};
use super::handler::note_broken;
use super::record::Record;
use super::table::Served;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A body, and the record that ends with it.
pub(super) struct Reply {
    content: Content,
    record: Record,
    /// The answer has broken off, and what there was of it is on its way to the client.
    broken: bool,
}

enum Content {
    FrontResponse(Bytes),
    Guest(Conversation, Arc<Served>),
}

/// The answer breaks off in the middle; the connection is closed, so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("the function failed in the middle of its answer")]
pub(super) struct BrokenOff;

impl Reply {
    pub(super) fn own(text: impl Into<Bytes>, mut record: Record) -> Self {
        // It is as good as given: nobody takes it back.
        record.done = true;
        Reply { content: Content::FrontResponse(text.into()), record, broken: false }
    }

    pub(super) fn guest(conversation: Conversation, served: Arc<Served>, record: Record) -> Self {
        let mut reply = Reply { content: Content::Guest(conversation, served), record, broken: false };
        reply.note_end();
        reply
    }

    /// Notes whether the client has everything: nobody asks for more then.
    fn note_end(&mut self) {
        if let (Content::Guest(conversation, _), true) = (&self.content, self.is_end_stream()) {
            self.record.done = true;
            self.record.cpu = conversation.cpu_time();
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        if this.broken {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        let chunk = match &mut this.content {
            Content::FrontResponse(text) => Some(std::mem::take(text)).filter(|text| !text.is_empty()),
            Content::Guest(conversation, served) => match ready!(conversation.poll_body(context)) {
                None => None,
                Some(Ok(chunk)) => Some(chunk),
                Some(Err(broken)) => {
                    // A client that went away has nobody to blame.
                    this.record.done = !matches!(broken, Broken::Upload(_));
                    note_broken(broken, served, &mut this.record);
                    // Told at once, hyper would close the connection without having
                    // written even the head; in between two polls it does.
                    this.broken = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            },
        };
        this.record.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        this.note_end();
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        let exact = match &self.content {
            Content::FrontResponse(text) => Some(text.len() as u64),
            Content::Guest(conversation, _) => conversation.remaining(),
        };
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
