//! Where the answers of a function go.

use super::failure::Failure;

/// Takes the answer of one request, piece by piece.
///
/// The methods are called from the threads that run guests, one at a time, and
/// with locks of the device held: they never block, and never call back into the device.
pub trait Answer: Send {
    /// The head: an HTTP/1.1 response head, as the guest wrote it, of at most
    /// [`HEAD_MAX`](hv_abi::io::function::HEAD_MAX) bytes. Comes first, and once. A
    /// reason to refuse it ends the guest.
    ///
    /// # Errors
    ///
    /// Why the head is refused: the reason in the report of the guest's end.
    fn head(&mut self, head: &[u8]) -> Result<(), String>;

    /// Some of the body. Returns how many bytes were taken; when it is fewer, the rest is offered again once
    /// the device is told that there is room.
    fn body(&mut self, bytes: &[u8]) -> usize;

    /// Fields behind the body, as the guest wrote them: header lines, each ended by CR LF. Comes once at most, behind
    /// all of the body. A reason to refuse them ends the guest.
    ///
    /// # Errors
    ///
    /// Why they are refused: the reason in the report of the guest's end.
    fn trailers(&mut self, _lines: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// The answer is complete. Nothing comes after this but [`flush`](Self::flush).
    fn end(&mut self);

    /// All that the guest has shown so far was passed on. What has come since the last call came together: a
    /// receiver that looks at it only now sees a whole answer as one.
    fn flush(&mut self) {}

    /// There will be no (complete) answer. Nothing comes after this.
    fn failed(&mut self, failure: Failure);

    /// There is room again for more of the request's body.
    fn writable(&mut self);
}

/// The exchange that was taken off a device: its answer may be incomplete.
pub struct Unanswered {
    pub(super) answer: Box<dyn Answer>,
    pub(super) ended: bool,
}

impl Unanswered {
    /// Reports the failure to the receiver of the answer, unless the answer is complete.
    pub fn fail(mut self, failure: impl FnOnce() -> Failure) {
        if !self.ended {
            self.answer.failed(failure());
        }
    }
}
