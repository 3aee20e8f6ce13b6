//! The body of a request, from the client's connection to the guest.
#![forbid(unsafe_code)]

use super::exchange::Exchange;
use crate::function::Call;
use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A body on its way to a guest.
pub(super) struct Upload {
    body: Incoming,
    call: Arc<Call>,
    exchange: Arc<Exchange>,
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
    pub(super) fn new(body: Incoming, call: Arc<Call>, exchange: Arc<Exchange>, allowed: u64) -> Self {
        Upload { body, call, exchange, rest: Bytes::new(), allowed }
    }

    /// Sends on as long as the client sends and the guest has room; ready when
    /// the guest has been told the end.
    pub(super) fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        let this = self.get_mut();
        loop {
            while !this.rest.is_empty() {
                this.exchange.expect_room();
                let taken = this.call.send(&this.rest);
                drop(this.rest.split_to(taken.min(this.rest.len())));
                if !this.rest.is_empty() {
                    ready!(this.exchange.poll_room(context));
                }
            }
            match ready!(pin!(&mut this.body).poll_frame(context)) {
                None => {
                    this.call.end();
                    return Poll::Ready(Ok(()));
                }
                Some(Err(_)) => return Poll::Ready(Err(UploadError::Client)),
                Some(Ok(frame)) => {
                    // Trailers have no place in the guest's protocol.
                    let Ok(data) = frame.into_data() else { continue };
                    match this.allowed.checked_sub(data.len() as u64) {
                        Some(allowed) => this.allowed = allowed,
                        None => return Poll::Ready(Err(UploadError::TooLarge)),
                    }
                    this.rest = data;
                }
            }
        }
    }
}
