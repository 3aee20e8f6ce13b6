//! A call, as who carries it out sees it.

use super::{ServiceRequest, ServicesDevice, Session};
use hv_abi::io::services::{Answer, Status};
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// The guest does not want to hear more: it has closed the call, or it has answered the request that the call was for, or it
/// has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest has closed the call")]
pub struct Closed;

/// A call of a guest that is to be carried out. The guest is told how it ended by [`end`](Self::end); one that is dropped before has failed.
pub struct Call {
    pub(super) device: Weak<ServicesDevice>,
    /// All calls of the device with another number have been closed.
    pub(super) epoch: u64,
    pub(super) number: u32,
    pub(super) request: ServiceRequest,
    pub(super) session: Arc<Session>,
    pub(super) ended: bool,
}

impl Call {
    /// What is asked for.
    pub fn request(&self) -> &ServiceRequest {
        &self.request
    }

    /// The request of the function during which the guest has made the call.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The next data of the guest, a frame as it came; `None` once there is no more.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub fn poll_data(&self, context: &Context<'_>) -> Poll<Result<Option<Vec<u8>>, Closed>> {
        match self.device.upgrade() {
            Some(device) => device.poll_data(self, context),
            None => Poll::Ready(Err(Closed)),
        }
    }

    /// As [`poll_data`](Self::poll_data).
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn data(&self) -> Result<Option<Vec<u8>>, Closed> {
        poll_fn(|context| self.poll_data(context)).await
    }

    /// Sends some of the bytes, which are not empty, as data, as soon as the guest takes them. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub fn poll_send(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Closed>> {
        match self.device.upgrade() {
            Some(device) => device.poll_send(self, context, bytes),
            None => Poll::Ready(Err(Closed)),
        }
    }

    /// Sends all of the bytes as data.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn send(&self, mut bytes: &[u8]) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| self.poll_send(context, bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Sends a datagram as one frame, if the guest takes it now. Returns whether it does.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub fn send_datagram(&self, bytes: &[u8]) -> Result<bool, Closed> {
        self.device.upgrade().map_or(Err(Closed), |device| device.send_datagram(self, bytes))
    }

    /// Ready when the guest wants to hear no more.
    pub fn poll_closed(&self, context: &Context<'_>) -> Poll<()> {
        self.device.upgrade().map_or(Poll::Ready(()), |device| device.poll_closed(self, context))
    }

    /// Whether the guest wants to hear no more.
    pub fn is_closed(&self) -> bool {
        self.device.upgrade().is_none_or(|device| !device.is_open(self))
    }

    /// Tells the guest that what it has asked for is done, or has begun. Comes before the data, and at most once.
    pub fn answer(&self, answer: Answer) {
        if let Some(device) = self.device.upgrade() {
            device.answer(self, answer);
        }
    }

    /// Ends the call. `text`, for people, says why.
    pub fn end(mut self, status: Status, text: &str) {
        self.end_once(status, text);
    }

    /// Ends the call because the binding of this name cannot be reached, and notes that for the answer to the request.
    pub fn unreachable(mut self, binding: &str, text: &str) {
        let _ = self.session.unreachable.set(binding.into());
        self.end_once(Status::Unreachable, text);
    }

    fn end_once(&mut self, status: Status, text: &str) {
        if !std::mem::replace(&mut self.ended, true)
            && let Some(device) = self.device.upgrade()
        {
            device.end(self, status, text);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end_once(Status::Failed, "");
        if let Some(device) = self.device.upgrade() {
            device.dropped(&self.session);
        }
    }
}
