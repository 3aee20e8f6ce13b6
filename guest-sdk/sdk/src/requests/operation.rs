//! One request, from its first poll to its response.

use super::{Request, RequestQueue};
use core::future::Future;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use hv_abi::Errno;

/// A request and the wait for its response, as a future. Dropping it before the response has come waits for the host, which may be
/// using the buffers.
#[must_use = "an operation does nothing until it is awaited"]
pub(crate) struct Operation<'a, R: Request> {
    queue: &'static RequestQueue<R>,
    request: R,
    flying: Option<u16>,
    /// The buffers stay borrowed for as long as this lives.
    buffers: PhantomData<&'a mut [u8]>,
}

impl<R: Request> Operation<'_, R> {
    /// The addresses in the request are those of buffers that are borrowed for the lifetime, whose provenance is exposed.
    pub(crate) fn new(queue: &'static RequestQueue<R>, request: R) -> Self {
        Operation { queue, request, flying: None, buffers: PhantomData }
    }

    fn advance(&mut self, waker: Option<&Waker>) -> Option<Result<R::Response, Errno>> {
        let id = match self.flying {
            Some(id) => id,
            None => match self.queue.submit(self.request, &mut None, waker) {
                Ok(Some(id)) => *self.flying.insert(id),
                Ok(None) => return None,
                Err(errno) => return Some(Err(errno)),
            },
        };
        let outcome = self.queue.finish(id, waker)?;
        self.flying = None;
        Some(outcome)
    }

    /// Carries it out, waiting without an executor. No task runs meanwhile.
    pub(crate) fn block(mut self) -> Result<R::Response, Errno> {
        loop {
            if let Some(outcome) = self.advance(None) {
                return outcome;
            }
            self.queue.collect();
            if let Some(outcome) = self.advance(None) {
                return outcome;
            }
            self.queue.wait();
        }
    }
}

impl<R: Request> Future for Operation<'_, R>
where
    Self: Unpin,
{
    type Output = Result<R::Response, Errno>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The answer may be there already.
        self.queue.collect();
        self.advance(Some(context.waker())).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<R: Request> Drop for Operation<'_, R> {
    fn drop(&mut self) {
        while let Some(id) = self.flying {
            self.queue.collect();
            if self.queue.finish(id, None).is_some() {
                self.flying = None;
            } else {
                self.queue.wait();
            }
        }
    }
}
