//! One request in a guest: the data between the guest's thread, which must never wait, and the client's
//! connection, which does.
#![forbid(unsafe_code)]

use super::gate::Permit;
use super::head::{AnswerHead, has_body, validate_answer, validate_trailers};
use super::upload::{Upload, UploadError};
use bytes::Bytes;
use http::{HeaderMap, Method};
use hv_function::{Answer, Call, Failure, Progress, RequestUsage};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

/// Most bytes of an answer that wait for the client; the guest waits then.
const BUFFER: usize = 256 << 10;

/// The guest goes on when no more than this is left.
const LOW: usize = BUFFER / 2;

/// What both sides share.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    state: Mutex<ExchangeState>,
}

#[derive(Debug, Default)]
struct ExchangeState {
    head: Option<AnswerHead>,
    /// What came together with the head has come, too. Before that the client's side does not look at it: it could
    /// not say how long an answer is that the guest has sent as a whole.
    shown: bool,
    /// The answer's body is not for the client: it has asked for the head alone, or the status has none.
    bodiless: bool,
    chunks: VecDeque<Bytes>,
    buffered: usize,
    /// Bytes of the body that the guest has sent so far.
    sent: u64,
    /// Fields behind it.
    trailers: Option<HeaderMap>,
    /// The guest was given no room and waits for [`Call::resume`].
    paused: bool,
    end: Option<Result<(), Failure>>,
    reader: Option<Waker>,
    /// The guest has room for more of the request.
    room: bool,
    writer: Option<Waker>,
}

impl Exchange {
    fn state(&self) -> MutexGuard<'_, ExchangeState> {
        self.state.lock().expect("no panic while held")
    }

    /// Forgets that there was room: ask this before [`Call::send`], so that
    /// none that comes afterwards is missed.
    pub(super) fn expect_room(&self) {
        self.state().room = false;
    }

    /// Ready as soon as the guest has had room since [`expect_room`](Self::expect_room).
    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let state = &mut *self.state();
        if state.room {
            return Poll::Ready(());
        }
        keep(&mut state.writer, context);
        Poll::Pending
    }
}

/// Stores the waker of the task.
fn keep(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
    }
}

/// The guest's end of an exchange. It holds the request's permit until the function drops it.
pub(super) struct AnswerSink {
    pub(super) exchange: Arc<Exchange>,
    pub(super) method: Method,
    /// Whether the client has asked to go on with another protocol.
    pub(super) may_upgrade: bool,
    pub(super) _permit: Permit,
}

impl AnswerSink {
    /// Shows the client's side what there is, and wakes it outside of the lock.
    fn show(&self, mut state: MutexGuard<'_, ExchangeState>) {
        state.shown = state.head.is_some() || state.shown;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Answer for AnswerSink {
    fn head(&mut self, head: &[u8]) -> Result<(), String> {
        let head = validate_answer(head, self.may_upgrade)?;
        let mut state = self.exchange.state();
        state.bodiless = !has_body(&self.method, head.status);
        state.head = Some(head);
        Ok(())
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        let state = &mut *self.exchange.state();
        let taken = if state.bodiless { bytes.len() } else { bytes.len().min(BUFFER - state.buffered) };
        state.sent += taken as u64;
        if !state.bodiless {
            state.paused = taken < bytes.len();
            state.buffered += taken;
            if taken > 0 {
                state.chunks.push_back(Bytes::copy_from_slice(&bytes[..taken]));
            }
        }
        taken
    }

    fn trailers(&mut self, lines: &[u8]) -> Result<(), String> {
        let trailers = validate_trailers(lines)?;
        self.exchange.state().trailers = Some(trailers);
        Ok(())
    }

    fn end(&mut self) {
        self.exchange.state().end = Some(Ok(()));
    }

    fn flush(&mut self) {
        self.show(self.exchange.state());
    }

    fn failed(&mut self, failure: Failure) {
        let mut state = self.exchange.state();
        state.end = Some(Err(failure));
        self.show(state);
    }

    fn writable(&mut self) {
        let mut state = self.exchange.state();
        state.room = true;
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

/// The client's end of an exchange: sends the request's body, takes the answer.
/// Dropping it before the end cancels the request.
pub(super) struct ClientExchange {
    exchange: Arc<Exchange>,
    /// Until the guest has ended its answer.
    call: Option<Call>,
    /// When what happened to it, once it is in an instance and its call is over.
    progress: Option<Arc<Progress>>,
    /// Until the request's body has been sent, if it ever is.
    upload: Option<Upload>,
    /// What the guest has used for it, once it has ended.
    usage: Option<RequestUsage>,
    /// Bytes that the body will have, if the guest has said so.
    declared: Option<u64>,
    /// Bytes of it that were taken.
    taken: u64,
    /// All of the answer has been taken.
    complete: bool,
}

/// Why an answer will not be complete.
#[derive(Debug)]
pub(super) enum AnswerError {
    /// By the guest. `uploading`: it waited for the request's body, which the client had not sent.
    Failed { failure: Failure, uploading: bool },
    /// By the request's body.
    Upload(UploadError),
    /// The guest ended an answer that it had not begun.
    Headless,
    /// The guest's body is not as long as it had declared.
    Length { declared: u64, sent: u64 },
}

impl ClientExchange {
    pub(super) fn new(exchange: Arc<Exchange>, call: Call, upload: Option<Upload>) -> Self {
        ClientExchange {
            exchange,
            call: Some(call),
            progress: None,
            upload,
            usage: None,
            declared: None,
            taken: 0,
            complete: false,
        }
    }

    /// What the guest has used for the request, as far as it is known.
    pub(super) fn usage(&self) -> Option<RequestUsage> {
        self.usage.or_else(|| self.call.as_ref()?.usage())
    }

    /// When what happened to it, once it is in an instance.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone().or_else(|| self.call.as_ref()?.progress())
    }

    /// Sends what can be sent of the request's body, unless nobody takes it any more.
    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), AnswerError> {
        if self.exchange.state().end.is_some() {
            return Ok(());
        }
        if let (Some(upload), Some(call)) = (&mut self.upload, &mut self.call)
            && let Poll::Ready(result) = upload.poll(call, &self.exchange, context)
        {
            result.map_err(AnswerError::Upload)?;
            self.upload = None;
        }
        Ok(())
    }

    /// The end of the answer, if there is one: nothing more is sent to the guest.
    fn end(&mut self, end: Result<(), Failure>) -> Result<(), AnswerError> {
        let uploading = self.upload.as_ref().is_some_and(Upload::waits_for_client);
        if let Some(call) = self.call.take() {
            self.progress = call.progress();
            self.usage = call.usage();
        }
        end.map_err(|failure| AnswerError::Failed { failure, uploading })
    }

    /// The head of the answer. One that has no body is only given when the
    /// guest has ended the answer in good order.
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<AnswerHead, AnswerError>> {
        let uploaded = self.poll_upload(context);
        let mut state = self.exchange.state();
        let waits = (state.bodiless || !state.shown) && state.end.is_none();
        match state.head.take_if(|_| !waits) {
            Some(_) if matches!(state.end, Some(Err(_))) => {}
            Some(mut head) => {
                if state.bodiless {
                    head.length = head.length.or_else(|| (state.sent > 0).then_some(state.sent));
                } else {
                    self.declared = head.length;
                }
                let mismatch = self.mismatch(&state);
                return Poll::Ready(mismatch.map_or(Ok(head), Err));
            }
            None if state.end.is_some() => {}
            None => {
                keep(&mut state.reader, context);
                drop(state);
                return uploaded.map_or_else(|broken| Poll::Ready(Err(broken)), |()| Poll::Pending);
            }
        }
        let end = state.end.take().unwrap_or(Ok(()));
        drop(state);
        Poll::Ready(Err(self.end(end).err().unwrap_or(AnswerError::Headless)))
    }

    /// Whether the body is too long, or has ended too early, if its length was declared.
    fn mismatch(&self, state: &ExchangeState) -> Option<AnswerError> {
        let (declared, sent) = (self.declared?, state.sent);
        let differs = sent > declared || sent < declared && matches!(state.end, Some(Ok(())));
        differs.then_some(AnswerError::Length { declared, sent })
    }

    /// The next bytes of the answer's body; `None` at its end.
    pub(super) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, AnswerError>>> {
        let uploaded = self.poll_upload(context);
        let exchange = self.exchange.clone();
        let mut state = exchange.state();
        if let Some(mismatch) = self.mismatch(&state) {
            return Poll::Ready(Some(Err(mismatch)));
        }
        // The client takes the answer for complete with the last byte that was declared: it waits for the end.
        let declared = self.declared;
        let is_last = |len: usize| declared == Some(self.taken + len as u64);
        let waits = state.end.is_none() && state.chunks.front().is_some_and(|chunk| is_last(chunk.len()));
        if !waits && let Some(chunk) = state.chunks.pop_front() {
            state.buffered -= chunk.len();
            let resume = state.buffered <= LOW && std::mem::take(&mut state.paused);
            drop(state);
            self.taken += chunk.len() as u64;
            if let (true, Some(call)) = (resume, &self.call) {
                call.resume();
            }
            return Poll::Ready(Some(Ok(chunk)));
        }
        if let Some(end) = state.end.take() {
            drop(state);
            self.complete = end.is_ok();
            return Poll::Ready(self.end(end).err().map(Err));
        }
        keep(&mut state.reader, context);
        drop(state);
        match uploaded {
            Ok(()) => Poll::Pending,
            Err(broken) => Poll::Ready(Some(Err(broken))),
        }
    }

    /// Sends on some bytes of another protocol; ready when all of them are sent.
    pub(super) fn poll_send(&mut self, context: &mut Context<'_>, bytes: &mut Bytes) -> Poll<()> {
        while !bytes.is_empty() {
            let Some(call) = &self.call else {
                bytes.clear();
                break;
            };
            self.exchange.expect_room();
            let taken = call.send(bytes);
            drop(bytes.split_to(taken.min(bytes.len())));
            if !bytes.is_empty() {
                ready!(self.exchange.poll_room(context));
            }
        }
        Poll::Ready(())
    }

    /// The client sends no more.
    pub(super) fn end_request(&mut self) {
        if let Some(call) = &mut self.call {
            call.end();
        }
    }

    /// The fields behind the body, once all of that was taken; given once.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.exchange.state().trailers.take()
    }

    /// Whether fields behind the body are still to be taken, as far as is known.
    pub(super) fn has_trailers(&self) -> bool {
        self.exchange.state().trailers.is_some()
    }

    /// The rest of the request's body, once there will be no answer from the guest.
    pub(super) fn into_upload(self) -> Option<Upload> {
        self.upload
    }

    /// Whether the connection has to end with this answer: it is there as a whole, and the
    /// request's body is not, and may not come to its end.
    pub(super) fn is_last(&self) -> bool {
        self.whole().is_some() && self.upload.as_ref().is_some_and(|upload| !upload.is_sure_to_end())
    }

    /// Bytes of the body, once all of them are there.
    fn whole(&self) -> Option<u64> {
        let state = self.exchange.state();
        (self.complete || matches!(state.end, Some(Ok(())))).then_some(state.buffered as u64)
    }

    /// Bytes of the body that are still to be taken, if that is known, and all of the answer: behind a body of a
    /// known length HTTP/1 has no place for trailers.
    pub(super) fn remaining(&self) -> Option<u64> {
        if self.has_trailers() {
            return None;
        }
        self.declared.map(|declared| declared - self.taken).or_else(|| self.whole())
    }
}
