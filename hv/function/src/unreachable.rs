//! Answers that only say that a binding could not be reached.

use super::{Answer, Failure};
use hv_core::device::services::ServicesDevice;
use std::sync::Arc;

/// Passes an answer on, unless its status is 500 and the guest could not reach a binding for it: what an error becomes that a
/// handler returns. Then nobody is told what the guest answers: the request has [failed](Failure::Unreachable).
pub(super) struct ReachedAnswer {
    pub(super) answer: Box<dyn Answer>,
    pub(super) services: Arc<ServicesDevice>,
    /// The binding that could not be reached.
    pub(super) unreachable: Option<String>,
}

/// Whether a response head, which nobody has validated yet, says that the server has failed.
fn is_server_error(head: &[u8]) -> bool {
    head.strip_prefix(b"HTTP/1.1 500").is_some_and(|rest| rest.starts_with(b" ") || rest.starts_with(b"\r"))
}

impl Answer for ReachedAnswer {
    fn head(&mut self, head: &[u8]) -> Result<(), String> {
        if is_server_error(head) {
            self.unreachable = self.services.unreachable();
        }
        if self.unreachable.is_some() { Ok(()) } else { self.answer.head(head) }
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        if self.unreachable.is_some() { bytes.len() } else { self.answer.body(bytes) }
    }

    fn trailers(&mut self, lines: &[u8]) -> Result<(), String> {
        if self.unreachable.is_some() { Ok(()) } else { self.answer.trailers(lines) }
    }

    fn end(&mut self) {
        // At the end: the guest has kept to the protocol, and its machine is used again.
        match self.unreachable.take() {
            Some(binding) => self.answer.failed(Failure::Unreachable(binding)),
            None => self.answer.end(),
        }
    }

    fn flush(&mut self) {
        self.answer.flush();
    }

    fn failed(&mut self, failure: Failure) {
        self.answer.failed(failure);
    }

    fn writable(&mut self) {
        self.answer.writable();
    }
}
