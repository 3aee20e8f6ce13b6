//! Functions: requests answered without a network.
//!
//! ```ignore
//! #[hv_guest::entry]
//! async fn main() -> Result<(), function::ServeError> {
//!     function::serve(async |request: Request<'_>| match request.path() {
//!         "/" => (200, format!("{} is what you said\n", request.method())),
//!         _ => (404, "there is nothing else\n".into()),
//!     })
//!     .await
//! }
//! ```
//!
//! `hv serve` answers every request in a fresh clone of the guest. The snapshot is made when [`serve`] is about to look
//! for the first request. What the guest did before is done for all clones. `docs/guests.md` describes the consequences
//! for randomness, time and addresses.
//!
//! Requests and answers are those of [`hv_guest_function`]. This module connects them to the device.
#![forbid(unsafe_code)]

pub use hv_guest_function::{CloseCode, Content, Error, IntoResponse, Message, Response, ServeError};

use crate::devices::devices;
use crate::ring::RingMemory;
use crate::{doorbell, event, executor, hypercall};
use core::task::Waker;
use hv_abi::EventPort;
use hv_abi::device::{Config, FUNCTION};
use hv_abi::io::function::{FunctionConfig, TRAILERS};
use hv_guest_function::Link;

/// A request. Its head is complete; its body is read as it arrives.
pub type Request<'a> = hv_guest_function::Request<'a, Device>;
/// The body of a request.
pub type Body<'a> = hv_guest_function::Body<'a, Device>;
/// An answer that has been started.
pub type Stream<'a> = hv_guest_function::Stream<'a, Device>;
/// A WebSocket with the client.
pub type WebSocket<'a> = hv_guest_function::WebSocket<'a, Device>;
/// The body of an answer.
pub type Writer<'a> = hv_guest_function::Writer<'a, Device>;

/// The function device of this guest.
#[derive(Debug)]
pub struct Device {
    port: EventPort,
    has_trailers: bool,
}

/// Answers one request after the other, until the host asks the guest to end.
///
/// Calls [`ready`](hypercall::ready) when it is about to look for the first request. Do what all requests have in common
/// before calling this.
///
/// # Errors
///
/// [`ServeError`]: no requests are answered any more.
pub async fn serve<H, R>(handler: H) -> Result<(), ServeError>
where
    H: AsyncFn(Request<'_>) -> R,
    R: IntoResponse,
{
    let info = devices().find(|device| device.kind == FUNCTION).ok_or(ServeError::NoDevice)?;
    let ring = &info.rings[0];
    let (memory, layout) = RingMemory::new::<u8, u8>(ring).ok_or(ServeError::Broken)?;
    let config = FunctionConfig::of(&info).unwrap_or_default();
    let device = Device { port: ring.event, has_trailers: config.flags & TRAILERS != 0 };
    hv_guest_function::serve(device, memory, &layout, handler).await
}

impl Link for Device {
    type Memory = RingMemory;

    fn has_trailers(&self) -> bool {
        self.has_trailers
    }

    fn ring(&self) {
        hypercall::event_send(self.port);
    }

    fn ring_soon(&self) {
        doorbell::ring_soon(self.port);
    }

    fn ring_last(&self) {
        // Other tasks could compute for long before that.
        if executor::has_own_tasks() { self.ring() } else { self.ring_soon() }
    }

    fn flush(&self) {
        doorbell::ring();
    }

    fn register(&self, waker: &Waker) {
        event::register(self.port, waker);
    }

    fn ready(&self) {
        // What the first wait would do, so that no clone has to do it.
        event::unmask(self.port);
        event::unmask(hv_abi::event::POWER);
        event::stop_polling();
        hypercall::ready();
    }

    fn shutdown(&self) -> impl Future<Output = ()> {
        event::shutdown()
    }
}
