//! Request after request.

use crate::head::Head;
use crate::input::Input;
use crate::output::Output;
use crate::request::{Body, Request};
use crate::response::{Origin, Response};
use crate::{Error, IntoResponse, Link, ServeError};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::Poll;
use embassy_futures::select::{Either, select};
use hv_abi::ring::{Front, Layout};

/// Bytes that the head of a request may have before there has to be more memory.
const HEAD: usize = 1 << 10;

/// Serves a function: `handler` answers one request after the other, until
/// [`Link::shutdown`] ends. The ring, which has this layout, is all zero.
///
/// A request whose handler has not read it to its end is answered nonetheless;
/// what is left of it is dropped.
///
/// # Errors
///
/// [`ServeError`]: nothing is served any more.
pub async fn serve<L, H, R>(link: L, memory: L::Memory, layout: &Layout, handler: H) -> Result<(), ServeError>
where
    L: Link,
    H: AsyncFn(Request<'_, L>) -> R,
    R: IntoResponse,
{
    let front = Front::<L::Memory, u8, u8>::new(memory, layout);
    let mut channel =
        Channel { input: Input::new(front.responses), output: Output::new(front.requests), link };
    let mut head = Vec::with_capacity(HEAD);
    channel.link.ready();
    loop {
        // Looks for a request first: one that is there is not made to wait for anything.
        match select(channel.input.head(&channel.link, &mut head), channel.link.shutdown()).await {
            Either::First(Ok(())) => {}
            Either::First(Err(_)) => return Err(ServeError::Broken),
            Either::Second(()) => return Ok(()),
        }
        let Channel { link, input, output } = &mut channel;
        let response = match Head::parse(&head) {
            Ok(head) => handler(Request { head, body: Body { link, input }, output }).await.into_response(),
            Err(status) => Response::status(status),
        };
        channel.answer(response).await?;
    }
}

/// The device, and the ends of its ring.
struct Channel<L: Link> {
    link: L,
    input: Input<L::Memory>,
    output: Output<L::Memory>,
}

impl<L: Link> Channel<L> {
    /// Sends an answer, or the end of one that was streamed, and takes the request's end.
    async fn answer(&mut self, response: Response) -> Result<(), ServeError> {
        let Channel { link, input, output } = self;
        let broken = |_: Error| ServeError::Broken;
        // Mostly all of the request is there, and one look, without a wait, ends it.
        let drained = poll_fn(|context| Poll::Ready(input.poll_drain(link, context))).await;
        let cancelled = input.is_cancelled();
        match &response.origin {
            Origin::Failure(reason) if output.is_headed() && !cancelled => {
                return Err(ServeError::Abandoned(reason.clone()));
            }
            Origin::Failure(reason) if !cancelled => log::error!("{reason}"),
            Origin::Handler if output.is_headed() => {
                return Err(ServeError::Abandoned("it was answered twice".into()));
            }
            _ => {}
        }
        // What was streamed before a cancellation is not a complete answer, but it is not read either.
        if !output.is_headed() {
            response.begin(output)?;
            let mut rest = &*response.content;
            while !rest.is_empty() {
                let count =
                    poll_fn(|context| output.poll_write(link, context, rest)).await.map_err(broken)?;
                rest = &rest[count..];
            }
        }
        if !response.trailers.is_empty() && link.has_trailers() {
            output.trailers(&response.trailers)?;
        }
        output.end()?;
        poll_fn(|context| output.poll_unsent(link, context)).await?;
        // Both, and one doorbell for both.
        if input.release() | output.publish() {
            link.ring_last();
        }
        match drained {
            Poll::Ready(result) => result.map_err(broken),
            Poll::Pending => poll_fn(|context| input.poll_drain(link, context)).await.map_err(broken),
        }
    }
}
