//! The function device: requests in, answers out, as frames in a ring of bytes.
//!
//! A guest with this device is a *function*: the host sends it requests, one
//! at a time, and it answers each. It needs no network, no sockets and no
//! protocol stack for that.
//!
//! The ring's responses (bytes, host to guest) carry requests; its requests
//! (bytes, guest to host) carry answers. Both are streams of *frames*: a
//! [`FrameHeader`], then as many bytes as it says. Bytes flow as there is room;
//! a frame may be larger than the ring.
//!
//! ```text
//! host → guest   Head  Body*  End            Head  Body*  (End | Cancel) …
//! guest → host                  Head Body* Trailers? End    Head Body* End …
//! ```
//!
//! - A *head* is the head of an HTTP/1.1 message in the syntax of RFC 9112: start
//!   line, header lines, empty line, each ended by CR LF. The fields that frame or
//!   route a message on a connection (`Content-Length`, `Transfer-Encoding`,
//!   `Connection` and their kin) mean nothing here: the body's length is that
//!   of its frames.
//! - The guest may start its answer before the request's body has ended, and
//!   may end it early, too. The host then ends the request with
//!   [`FrameKind::End`] or [`FrameKind::Cancel`] as soon as it can, and the guest
//!   drops what comes until then.
//! - [`FrameKind::Cancel`] instead of `End`: the requester has gone away in the
//!   middle. The guest still ends its answer, which nobody reads.
//! - *Trailers* (1.6) stand between the last of an answer's body and its end, if
//!   the device has the flag [`TRAILERS`].
//! - An answer with the status 101 to a request that asks for an upgrade
//!   (RFC 9110, section 7.8) makes both bodies the two directions of a connection
//!   of that protocol. Each lasts until its [`FrameKind::End`].
//! - The host sends the next head only when both sides have ended.
//!
//! A guest that breaks these rules ends as crashed.

use crate::device::{self, Config};
use crate::layout::layout;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes of a head, each way.
pub const HEAD_MAX: u32 = 16 << 10;

/// Most bytes of one body frame, each way. A body has any number of frames.
pub const BODY_MAX: u32 = 64 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FrameKind {
    /// The head of a message: at most [`HEAD_MAX`] bytes, never empty.
    Head = 1,
    /// Some of its body: 1 to [`BODY_MAX`] bytes.
    Body = 2,
    /// The message is complete. No bytes.
    End = 3,
    /// The message ends in the middle. No bytes; host to guest only.
    Cancel = 4,
    /// Fields behind the body of an answer: header lines in the syntax of RFC 9112, each ended by CR LF, without an
    /// empty line. At most [`HEAD_MAX`] bytes, never empty; guest to host only, since 1.6.
    Trailers = 5,
}

/// Flag of a device that takes [`FrameKind::Trailers`].
pub const TRAILERS: u64 = 1;

impl FrameKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Option<FrameKind> {
        match number {
            1 => Some(FrameKind::Head),
            2 => Some(FrameKind::Body),
            3 => Some(FrameKind::End),
            4 => Some(FrameKind::Cancel),
            5 => Some(FrameKind::Trailers),
            _ => None,
        }
    }

    /// Whether a frame of this kind may have this many bytes.
    pub const fn allows(self, len: u32) -> bool {
        match self {
            FrameKind::Head | FrameKind::Trailers => len >= 1 && len <= HEAD_MAX,
            FrameKind::Body => len >= 1 && len <= BODY_MAX,
            FrameKind::End | FrameKind::Cancel => len == 0,
        }
    }
}

/// Stands before the bytes of every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FrameHeader {
    /// A [`FrameKind`].
    pub kind: u32,
    /// Bytes that follow.
    pub len: u32,
}

layout!(FrameHeader: 8 { kind @ 0, len @ 4 });

impl FrameHeader {
    /// The header of a frame of this kind.
    pub const fn new(kind: FrameKind, len: u32) -> Self {
        FrameHeader { kind: kind as u32, len }
    }

    /// The kind, if kind and length are ones that the protocol has.
    pub const fn validate(self) -> Option<FrameKind> {
        match FrameKind::from_number(self.kind) {
            Some(kind) if kind.allows(self.len) => Some(kind),
            _ => None,
        }
    }
}

/// Configuration of a function device.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionConfig {
    /// What the device can do: [`TRAILERS`]. Written by the host. Before 1.6 it was zero.
    pub flags: u64,
}

layout!(FunctionConfig: 8 { flags @ 0 });

impl Config for FunctionConfig {
    const KIND: u32 = device::FUNCTION;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_other_kinds_and_lengths_are_refused() {
        let validate = |kind, len| FrameHeader { kind, len }.validate();
        assert_eq!(validate(1, HEAD_MAX), Some(FrameKind::Head));
        assert_eq!(validate(1, HEAD_MAX + 1), None);
        assert_eq!(validate(1, 0), None);
        assert_eq!(validate(2, BODY_MAX), Some(FrameKind::Body));
        assert_eq!(validate(2, u32::MAX), None);
        assert_eq!(validate(2, 0), None);
        assert_eq!(validate(3, 0), Some(FrameKind::End));
        assert_eq!(validate(3, 1), None);
        assert_eq!(validate(4, 0), Some(FrameKind::Cancel));
        assert_eq!(validate(0, 0), None);
        assert_eq!(validate(5, 1), Some(FrameKind::Trailers));
        assert_eq!(validate(5, 0), None);
        assert_eq!(validate(6, 0), None);
    }
}
