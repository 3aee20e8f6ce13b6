//! The body of a request, from the client's connection to the guest.
//!
//! hyper closes a connection whose request was not read to its end, and does not say so beforehand: the
//! client's next request would be lost, and maybe the answer with it, which the kernel drops when the client
//! is still sending. So the unread rest of a body is read and discarded, for a limited time; and answers say
//! `Connection: close` where that may not be enough.
#![forbid(unsafe_code)]

use super::exchange::Exchange;
use bytes::Bytes;
use http_body::{Body, Frame};
use hv_function::Call;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A connection goes on if the rest of a body is no longer than this, or than the function allows.
const FORGETTABLE: u64 = 1 << 20;

/// A body on its way to a guest. If it is dropped before its end, the rest is discarded.
pub(super) struct Upload {
    /// Until its end has come.
    body: Option<Incoming>,
    /// What the guest has not taken yet of the last chunk.
    rest: Bytes,
    /// Bytes that may still come.
    allowed: u64,
    /// Counts those that have come.
    received: Arc<AtomicU64>,
    /// The client may wait for `100 Continue` (`Expect: 100-continue`).
    expects: bool,
    /// Why the body is not complete.
    error: Option<UploadError>,
    /// How long the rest may take to be read and discarded; `None`: that is not necessary.
    discard_time: Option<Duration>,
}

/// Why the body is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadError {
    /// It is larger than the function allows.
    TooLarge,
    /// The client went away, or sent no HTTP.
    Client,
}

impl Upload {
    /// A request's body, if it has one. `expects`: the client waits for `100 Continue`. `discard_time`: how long the
    /// rest of one that nobody reads may take; `None` if its end need not come before the next request, as in HTTP/2.
    pub(super) fn new(body: Incoming, expects: bool, discard_time: Option<Duration>) -> Option<Upload> {
        let upload = Upload {
            body: Some(body),
            rest: Bytes::new(),
            allowed: 0,
            received: Arc::default(),
            expects,
            error: None,
            discard_time,
        };
        (upload.most() != Some(0)).then_some(upload)
    }

    /// Bytes that have come, also later.
    pub(super) fn received(&self) -> Arc<AtomicU64> {
        self.received.clone()
    }

    /// Most bytes that are still to come, if that is known.
    fn most(&self) -> Option<u64> {
        self.body.as_ref().map_or(Some(0), |body| body.size_hint().upper())
    }

    /// So many bytes may come. Returns whether it may be as small as that.
    pub(super) fn allow(&mut self, bytes: u64) -> bool {
        self.allowed = bytes;
        self.body.as_ref().is_none_or(|body| body.size_hint().lower() <= bytes)
    }

    /// Whether it is the client that has to send something: nothing waits for the guest.
    pub(super) fn waits_for_client(&self) -> bool {
        self.body.is_some() && self.rest.is_empty()
    }

    /// Whether the connection can be used again after this body.
    pub(super) fn is_sure_to_end(&self) -> bool {
        if self.discard_time.is_none() {
            return true;
        }
        let bearable = self.allowed.max(FORGETTABLE);
        !self.expects && self.error.is_none() && self.most().is_some_and(|most| most <= bearable)
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, UploadError> {
        while let Some(body) = &mut self.body {
            match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
                None => self.body = None,
                Some(Err(_)) => self.error = Some(UploadError::Client),
                Some(Ok(frame)) => {
                    if let Some(data) = self.take(frame) {
                        return Ok(Some(data));
                    }
                }
            }
            if let Some(error) = self.error {
                return Err(error);
            }
        }
        Ok(None)
    }

    /// What has come, if it is a part of the body, and allowed.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<Bytes> {
        self.expects = false;
        // The guest's protocol has no trailers.
        let data = frame.into_data().ok()?;
        self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
        match self.allowed.checked_sub(data.len() as u64) {
            Some(allowed) => {
                self.allowed = allowed;
                Some(data)
            }
            None => {
                self.error = Some(UploadError::TooLarge);
                None
            }
        }
    }

    /// Sends on as long as the client sends and the guest has room; ready when
    /// the guest has been told the end, or never will be.
    pub(super) fn poll(
        &mut self,
        call: &mut Call,
        exchange: &Exchange,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            if let Some(error) = self.error {
                return Poll::Ready(Err(error));
            }
            while !self.rest.is_empty() {
                exchange.expect_room();
                let taken = call.send(&self.rest);
                drop(self.rest.split_to(taken.min(self.rest.len())));
                if !self.rest.is_empty() {
                    ready!(exchange.poll_room(context));
                }
            }
            let Some(body) = &mut self.body else {
                call.end();
                return Poll::Ready(Ok(()));
            };
            match ready!(Pin::new(body).poll_frame(context)) {
                None => self.body = None,
                Some(Err(_)) => self.error = Some(UploadError::Client),
                Some(Ok(frame)) => self.rest = self.take(frame).unwrap_or_default(),
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Some(time), Ok(runtime)) = (body, self.discard_time, Handle::try_current()) {
            runtime.spawn(timeout(time, discard(body, self.received.clone())));
        }
    }
}

/// Reads a body to its end, and discards it.
async fn discard(mut body: Incoming, received: Arc<AtomicU64>) {
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        received.fetch_add(frame.data_ref().map_or(0, |data| data.len() as u64), Ordering::Relaxed);
    }
}
