//! Messages from the processes that make guests' processes. Each is checked before any of it is used. Pure.
#![forbid(unsafe_code)]

use hv_stub::REPLY_WORDS;
use std::io;

/// Bytes of a reply.
pub(crate) const REPLY_BYTES: usize = REPLY_WORDS * 8;

/// Size of the receive buffer: larger than a reply, so that longer messages are detected.
pub(crate) const ROOM: usize = REPLY_BYTES + 8;

/// The largest error number of Linux (`MAX_ERRNO` in include/linux/err.h).
const MAX_ERRNO: i64 = 4095;

/// A message as it was received, with its ancillary data.
#[derive(Debug)]
pub(crate) struct Message<D> {
    /// The bytes, as far as they fit.
    pub(crate) bytes: [u8; ROOM],
    /// Number of bytes.
    pub(crate) len: usize,
    /// Whether bytes or ancillary data were cut off.
    pub(crate) truncated: bool,
    /// The descriptors that came with it.
    pub(crate) descriptors: Vec<D>,
    /// The number of the process that sent it, from the kernel (`SCM_CREDENTIALS`).
    pub(crate) sender: Option<i32>,
}

/// What hv expects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// One of [`reply`](hv_stub::reply).
    pub(crate) kind: u64,
    /// The nonce of the request.
    pub(crate) nonce: u64,
    /// The process that must have sent it; `None` if it is not known yet.
    pub(crate) sender: Option<i32>,
    /// How many descriptors come with it.
    pub(crate) descriptors: usize,
}

/// A reply that matches what hv expects.
#[derive(Debug)]
pub(crate) struct Reply<D> {
    /// Its kind.
    pub(crate) kind: u64,
    /// The number of the process that sent it.
    pub(crate) sender: i32,
    /// Its descriptor, if it has one.
    pub(crate) descriptor: Option<D>,
    /// The error that it reports.
    pub(crate) error: Option<i32>,
}

/// Why nothing more that arrives on a socket can be trusted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Nothing came in time.
    #[error("it did not answer in time")]
    Late,
    /// The socket was closed, or a process at its other end has ended.
    #[error("it has ended")]
    Ended,
    /// hv could not wait, or could not send.
    #[error("its socket failed: {0}")]
    Socket(io::ErrorKind),
    /// The length is not that of a reply.
    #[error("it sent a message of {0} bytes instead of {REPLY_BYTES}")]
    Length(usize),
    /// Bytes or descriptors were lost, for example because hv has reached its limit of descriptors.
    #[error("a part of its message was lost (too many open files?)")]
    Truncated,
    /// A reply of a kind that was not requested.
    #[error("it sent a reply of kind {0}, which was not due")]
    Kind(u64),
    /// A reply to another request.
    #[error("it answered another request")]
    Nonce,
    /// From another process than expected.
    #[error("another process answered")]
    Sender,
    /// More or fewer descriptors than expected.
    #[error("it sent {0} descriptors instead of {1}")]
    Descriptors(usize, usize),
    /// A result that is neither 0 nor an error.
    #[error("it sent the result {0}")]
    Result(i64),
}

impl Violation {
    /// The remedy if it is a violation of the supervisor.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Violation::Ended => "; no guest can start any more, restart hv",
            Violation::Late => "; is it stopped? (kill -CONT)",
            _ => "",
        }
    }
}

/// Checks a message against what hv expects: one of these, each of its own kind.
///
/// # Errors
///
/// The violation.
pub(crate) fn check<D>(message: Message<D>, expected: &[Expected]) -> Result<Reply<D>, Violation> {
    if message.truncated {
        return Err(Violation::Truncated);
    }
    if message.len == 0 {
        return Err(Violation::Ended);
    }
    if message.len != REPLY_BYTES {
        return Err(Violation::Length(message.len));
    }
    let word = |n: usize| u64::from_le_bytes(message.bytes[8 * n..8 * n + 8].try_into().expect("8 bytes"));
    let (kind, nonce, result) = (word(0), word(1), word(2) as i64);
    let expected = expected.iter().find(|expected| expected.kind == kind).ok_or(Violation::Kind(kind))?;
    if nonce != expected.nonce {
        return Err(Violation::Nonce);
    }
    let sender = message.sender.filter(|sender| *sender > 0).ok_or(Violation::Sender)?;
    if expected.sender.is_some_and(|expected| expected != sender) {
        return Err(Violation::Sender);
    }
    if !(-MAX_ERRNO..=0).contains(&result) {
        return Err(Violation::Result(result));
    }
    let error = (result != 0).then_some(-result as i32);
    let due = if error.is_some() { 0 } else { expected.descriptors };
    let mut descriptors = message.descriptors;
    if descriptors.len() != due {
        return Err(Violation::Descriptors(descriptors.len(), due));
    }
    Ok(Reply { kind, sender, descriptor: descriptors.pop(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected { kind: 3, nonce: 77, sender: Some(5), descriptors: 1 };

    fn message(words: [u64; 3], sender: Option<i32>, descriptors: usize) -> Message<usize> {
        let mut bytes = [0; ROOM];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Message { bytes, len: REPLY_BYTES, truncated: false, descriptors: (0..descriptors).collect(), sender }
    }

    fn violation(message: Message<usize>) -> Violation {
        check(message, &[EXPECTED]).unwrap_err()
    }

    #[test]
    fn what_was_waited_for_is_taken() {
        let reply = check(message([3, 77, 0], Some(5), 1), &[EXPECTED]).unwrap();
        assert_eq!((reply.sender, reply.descriptor, reply.error), (5, Some(0), None));
        let reply = check(message([3, 77, -11i64 as u64], Some(5), 0), &[EXPECTED]).unwrap();
        assert_eq!((reply.descriptor, reply.error), (None, Some(11)));
        let anybody = Expected { sender: None, ..EXPECTED };
        assert_eq!(check(message([3, 77, 0], Some(9), 1), &[anybody]).unwrap().sender, 9);
    }

    #[test]
    fn each_kind_has_a_nonce_of_its_own() {
        let other = Expected { kind: 4, nonce: 78, sender: None, descriptors: 0 };
        let both = [EXPECTED, other];
        assert_eq!(check(message([4, 78, 0], Some(1), 0), &both).unwrap().kind, 4);
        assert_eq!(check(message([3, 77, 0], Some(5), 1), &both).unwrap().kind, 3);
        assert_eq!(check(message([4, 77, 0], Some(5), 1), &both).unwrap_err(), Violation::Nonce);
    }

    #[test]
    fn everything_else_is_a_violation() {
        let right = || message([3, 77, 0], Some(5), 1);
        assert_eq!(violation(Message { len: 0, ..right() }), Violation::Ended);
        assert_eq!(violation(Message { len: 23, ..right() }), Violation::Length(23));
        assert_eq!(violation(Message { len: ROOM, ..right() }), Violation::Length(ROOM));
        assert_eq!(violation(Message { truncated: true, ..right() }), Violation::Truncated);
        assert_eq!(violation(message([3, 76, 0], Some(5), 1)), Violation::Nonce);
        assert_eq!(violation(message([4, 77, 0], Some(5), 1)), Violation::Kind(4));
        for sender in [None, Some(0), Some(6)] {
            assert_eq!(violation(message([3, 77, 0], sender, 1)), Violation::Sender);
        }
        for count in [0, 2] {
            assert_eq!(violation(message([3, 77, 0], Some(5), count)), Violation::Descriptors(count, 1));
        }
        // An error has no descriptor.
        assert_eq!(violation(message([3, 77, -1i64 as u64], Some(5), 1)), Violation::Descriptors(1, 0));
        for result in [1, -4096, i64::MIN, i64::MAX] {
            assert_eq!(violation(message([3, 77, result as u64], Some(5), 0)), Violation::Result(result));
        }
    }
}
