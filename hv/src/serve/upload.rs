//! The body of a request, from the client's connection to the guest.
#![forbid(unsafe_code)]

use super::exchange::Exchange;
use crate::function::Call;
use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A body on its way to a guest.
pub(super) struct Upload {
    body: Incoming,
    /// What the guest has not taken yet of the last chunk.
    rest: Bytes,
    /// Bytes that may still come.
    allowed: u64,
}

/// Why the body does not get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadError {
    /// It is larger than the function allows.
    TooLarge,
    /// The client went away, or sent no HTTP.
    Client,
}

impl Upload {
    /// A body of at most this many bytes.
    pub(super) fn new(body: Incoming, allowed: u64) -> Self {
        Upload { body, rest: Bytes::new(), allowed }
    }

    /// Sends on as long as the client sends and the guest has room; ready when
    /// the guest has been told the end.
    pub(super) fn poll(
        &mut self,
        call: &mut Call,
        exchange: &Exchange,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            while !self.rest.is_empty() {
                exchange.expect_room();
                let taken = call.send(&self.rest);
                drop(self.rest.split_to(taken.min(self.rest.len())));
                if !self.rest.is_empty() {
                    ready!(exchange.poll_room(context));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => {
                    call.end();
                    return Poll::Ready(Ok(()));
                }
                Some(Err(_)) => return Poll::Ready(Err(UploadError::Client)),
                Some(Ok(frame)) => {
                    // Trailers have no place in the guest's protocol.
                    let Ok(data) = frame.into_data() else { continue };
                    match self.allowed.checked_sub(data.len() as u64) {
                        Some(allowed) => self.allowed = allowed,
                        None => return Poll::Ready(Err(UploadError::TooLarge)),
                    }
                    self.rest = data;
                }
            }
        }
    }
}
