//! A socket to one of the processes that make guests' processes: sending requests, and waiting for replies.
#![forbid(unsafe_code)]

use super::reply::{self, Expected, Message, ROOM, Reply, Violation};
use hv_stub::MAX_DOORBELLS;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use zerocopy::IntoBytes;

/// How long the complete start of a guest may wait for other processes.
///
/// Counted in polls. If the host is suspended, hv is suspended too, and that counts as one poll.
pub(super) struct Patience(u32);

/// Nanoseconds of a poll.
const LOOK: i64 = 50_000_000;

impl Patience {
    /// Ten seconds. A process is there within a millisecond; on a host with many more programs than processors it takes
    /// seconds. Two seconds in unit tests, where some simulated processes never come.
    pub(super) fn new() -> Patience {
        Patience(if cfg!(test) { 40 } else { 200 })
    }

    /// Waits until there is something to receive, or until one of the processes has ended.
    fn wait(&mut self, socket: BorrowedFd<'_>, processes: &[BorrowedFd<'_>]) -> Result<(), Violation> {
        let all = [&[socket], processes].concat();
        let mut all: Vec<_> = all.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let limit = Timespec { tv_sec: 0, tv_nsec: LOOK };
        while self.0 > 0 {
            match rustix::event::poll(&mut all, Some(&limit)) {
                Ok(0) => self.0 -= 1,
                // What it sent before it ended counts.
                Ok(_) if !all[0].revents().is_empty() => return Ok(()),
                Ok(_) => return Err(Violation::Ended),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Violation::Socket(io::Error::from(error).kind())),
            }
        }
        Err(Violation::Late)
    }
}

/// Why something was not sent.
pub(super) enum NotSent {
    /// The other end does not take it.
    Violation(Violation),
    /// hv's side lacks a resource. Nothing has been sent.
    Refused(io::Error),
}

/// A socket that preserves message boundaries.
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn new(socket: OwnedFd) -> Socket {
        Socket(socket)
    }

    /// Sends a request, completely and without blocking, or not at all.
    pub(super) fn send(&self, words: &[u64], descriptors: &[BorrowedFd<'_>]) -> Result<(), NotSent> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DOORBELLS + 2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let pushed = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(pushed, "there is room for so many");
        }
        let bytes = [IoSlice::new(words.as_bytes())];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::sendmsg(&self.0, &bytes, &mut control, flags)) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(NotSent::Violation(Violation::Ended)),
            // The other side has not received the previous messages.
            Err(Errno::AGAIN) => Err(NotSent::Violation(Violation::Late)),
            Err(error) => Err(NotSent::Refused(error.into())),
        }
    }

    /// Waits for a reply, as long as these processes live.
    pub(super) fn receive(
        &self,
        patience: &mut Patience,
        processes: &[BorrowedFd<'_>],
        expected: &[Expected],
    ) -> Result<Reply<OwnedFd>, Violation> {
        let message = match self.message() {
            // A greeting has usually arrived already.
            Err(Violation::Socket(io::ErrorKind::WouldBlock)) => {
                patience.wait(self.0.as_fd(), processes)?;
                self.message()?
            }
            message => message?,
        };
        reply::check(message, expected)
    }

    /// The next message that has arrived.
    pub(super) fn message(&self) -> Result<Message<OwnedFd>, Violation> {
        let mut bytes = [0; ROOM];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        });
        let received = received.map_err(|error| match error {
            Errno::CONNRESET => Violation::Ended,
            error => Violation::Socket(io::Error::from(error).kind()),
        })?;
        let (mut descriptors, mut sender) = (Vec::new(), None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(rights) => descriptors.extend(rights),
                RecvAncillaryMessage::ScmCredentials(credentials) => {
                    sender = Some(credentials.pid.as_raw_nonzero().get());
                }
                _ => {}
            }
        }
        let truncated = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
        Ok(Message { bytes, len: received.bytes, truncated, descriptors, sender })
    }
}
