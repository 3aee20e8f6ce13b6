//! hv's side of starting processes, for the fuzz targets.

use super::channel::{Patience, Socket};
use super::reply::{self, Expected, Message, ROOM};
use super::{NextProcess, Serving};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes that are received of a message.
pub const RECEIVED: usize = ROOM;

/// A message with its ancillary data, and what hv expects.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The bytes, and how many there are.
    pub bytes: ([u8; RECEIVED], usize),
    /// Whether bytes or ancillary data were cut off.
    pub truncated: bool,
    /// How many descriptors came with it.
    pub descriptors: usize,
    /// From which process.
    pub sender: Option<i32>,
    /// The expected kind, nonce, sender and number of descriptors.
    pub expected: (u64, u64, Option<i32>, usize),
}

/// Checks the message. Returns the sender, whether there is a descriptor, and the error that it reports.
///
/// # Errors
///
/// The violation, in words.
pub fn check(case: &Case) -> Result<(i32, bool, Option<i32>), String> {
    let (bytes, len) = case.bytes;
    let descriptors = vec![(); case.descriptors];
    let message = Message { bytes, len, truncated: case.truncated, descriptors, sender: case.sender };
    let (kind, nonce, sender, descriptors) = case.expected;
    let expected = Expected { kind, nonce, sender, descriptors };
    let reply = reply::check(message, &[expected]).map_err(|violation| violation.to_string())?;
    assert_eq!(reply.kind, kind);
    Ok((reply.sender, reply.descriptor.is_some(), reply.error))
}

/// A message of a zygote: bytes, and the number of descriptors with them.
pub type Said = (Vec<u8>, usize);

/// Starts guests with a zygote that has sent all these messages and then closed its end. Its greetings have nonce 0, the
/// requests 1, 2 and so on. Returns the result of each start. After a violation there are no more starts.
pub fn starts(said: &[Said], count: u64) -> Vec<Result<(), String>> {
    let (hv, zygote) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a pair of sockets");
    rustix::net::sockopt::set_socket_passcred(&hv, true).expect("credentials");
    // Not the handle of a process: dropping the zygote would end that.
    let descriptor = || eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
    let given = descriptor();
    for (bytes, descriptors) in said {
        say(&zygote, bytes, &given, *descriptors);
    }
    let _ = rustix::net::shutdown(&zygote, rustix::net::Shutdown::Write);
    let mut serving =
        Serving { channel: Socket::new(hv), nonce: 0, handle: descriptor(), next: NextProcess::Unknown };
    let mut results = Vec::new();
    for nonce in 1..=count {
        let result = serving.fork(&[nonce], &[], &mut Patience::new());
        let goes_on = matches!(result, Ok(_) | Err(super::StartFailure::Refused(_)));
        results.push(result.map(drop).map_err(|failure| failure.into_error().to_string()));
        if !goes_on {
            break;
        }
    }
    results
}

fn say(zygote: &OwnedFd, bytes: &[u8], given: &OwnedFd, descriptors: usize) {
    const MOST: usize = 8;
    let all = [given.as_fd(); MOST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors > 0 {
        control.push(SendAncillaryMessage::ScmRights(&all[..descriptors.min(MOST)]));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // At most as many as fit.
    let _ = rustix::net::sendmsg(zygote, &[IoSlice::new(bytes)], &mut control, flags);
}
