//! From one server to the next without a lost connection: the listening sockets are handed over while both run.
//!
//! ```text
//!  next                                              running
//!   │── connects to the socket of `handover` ──────────►│
//!   │◄─ the listening sockets, and that one itself ─────│
//!   │   boots its functions                             │  answers
//!   │── "ready" ───────────────────────────────────────►│
//!   │   answers                                         │  drains, and ends
//! ```
//!
//! Both accept from the same sockets, so no connection in their backlogs is lost. If the next one does not come so far,
//! the connection ends without that word, and the running one goes on.
#![forbid(unsafe_code)]

use super::error::ServeError;
use hv_host::escape::escape;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Most sockets that are handed over.
const MAX_SOCKETS: usize = 64;

/// Most bytes of the message with them: a line for each.
const MAX_MESSAGE: usize = MAX_SOCKETS * 128;

/// How long the running server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What the next server says once it answers requests.
const READY: &[u8] = b"ready\n";

/// A listening socket, and the address as the configuration has it: with port 0 it is not that of the socket.
pub(super) type Named = (SocketName, OwnedFd);

/// How both servers call a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SocketName {
    /// The key of the configuration.
    pub(super) key: String,
    /// Its value.
    pub(super) address: String,
}

impl SocketName {
    pub(super) fn new(key: &str, address: impl ToString) -> Self {
        SocketName { key: key.into(), address: address.to_string() }
    }
}

/// The name of the socket of `handover` itself.
fn own_name() -> SocketName {
    SocketName::new("handover", "-")
}

/// What a server got from the one before it.
#[derive(Debug, Default)]
pub(super) struct Received {
    sockets: HashMap<SocketName, OwnedFd>,
    /// Where the one before waits for the word.
    predecessor: Option<UnixStream>,
}

impl Received {
    /// The socket of this name, if it was handed over.
    pub(super) fn take(&mut self, key: &str, address: SocketAddr) -> Option<TcpListener> {
        self.sockets.remove(&SocketName::new(key, address)).map(TcpListener::from)
    }

    /// Tells the server before that this one answers requests.
    pub(super) fn tell_ready(&mut self) -> io::Result<()> {
        match self.predecessor.take() {
            Some(mut predecessor) => io::Write::write_all(&mut predecessor, READY),
            None => Ok(()),
        }
    }
}

/// The socket at this path: taken over from the server that listens there, with all that it hands over, or made.
pub(super) fn open(path: &Path) -> Result<(UnixListener, Received), ServeError> {
    let failed = |error: io::Error| ServeError::Handover { path: path.into(), error };
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) => {
            // What is left of a server that has ended.
            let is_socket = path.symlink_metadata().is_ok_and(|data| data.file_type().is_socket());
            if error.kind() == io::ErrorKind::ConnectionRefused && is_socket {
                std::fs::remove_file(path).map_err(failed)?;
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
            return Ok((listener, Received::default()));
        }
    };
    stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
    let mut sockets = receive(&stream).map_err(failed)?;
    let own = sockets.remove(&own_name()).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    Ok((own.into(), Received { sockets, predecessor: Some(stream) }))
}

fn receive(stream: &UnixStream) -> io::Result<HashMap<SocketName, OwnedFd>> {
    let mut text = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let count =
        recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let text = std::str::from_utf8(&text[..count]).map_err(io::Error::other)?;
    let names = text.lines().filter_map(|line| line.split_once(' '));
    let names = names.map(|(key, address)| SocketName::new(key, address));
    Ok(names.zip(descriptors).collect())
}

/// The running server's side.
pub(super) struct Handover {
    listener: tokio::net::UnixListener,
    sockets: Vec<Named>,
}

impl Handover {
    /// Hands these over to whoever comes to this socket.
    pub(super) fn new(listener: UnixListener, mut sockets: Vec<Named>) -> io::Result<Self> {
        sockets.push((own_name(), listener.as_fd().try_clone_to_owned()?));
        listener.set_nonblocking(true)?;
        Ok(Handover { listener: tokio::net::UnixListener::from_std(listener)?, sockets })
    }

    /// Waits until another server answers requests in this one's place.
    pub(super) async fn handed_over(&self) {
        loop {
            match self.next().await {
                Ok(true) => return,
                Ok(false) => tracing::warn!("another server took the sockets, and ended before it was ready"),
                Err(error) => tracing::warn!("handing over: {error}"),
            }
        }
    }

    /// Whether the next one that comes gets ready. Who listens at this path decides who that may be: its user, and root.
    async fn next(&self) -> io::Result<bool> {
        let (mut stream, _) = self.listener.accept().await?;
        let user = stream.peer_cred()?.uid();
        if user != 0 && user != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("user {user} is not the one of this server")));
        }
        let text: String =
            self.sockets.iter().map(|(name, _)| format!("{} {}\n", name.key, name.address)).collect();
        let descriptors: Vec<BorrowedFd<'_>> =
            self.sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other(format!("more than {MAX_SOCKETS} sockets")));
        }
        sendmsg(&stream, &[IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        let mut word = [0; READY.len()];
        match stream.read_exact(&mut word).await {
            Ok(_) => Ok(word == *READY),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What to do about a socket that cannot be had.
pub(super) fn explain(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "a file that is no socket is there; choose another path",
        io::ErrorKind::NotFound => "make its folder first",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "what listens there does not answer; is it another program's?"
        }
        io::ErrorKind::PermissionDenied => "it belongs to another user",
        _ => "choose another path",
    };
    format!("handover = \"{}\": {error}; {remedy}", escape(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_keep_their_names_on_their_way() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (listener, first) = open(&path).unwrap();
        assert!(first.sockets.is_empty());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let _context = runtime.enter();
        let named = vec![(SocketName::new("listen", "127.0.0.1:0"), OwnedFd::from(tcp))];
        let handover = Handover::new(listener, named).unwrap();
        let next = |says_ready: bool| {
            let path = path.clone();
            std::thread::spawn(move || {
                let (_own, mut received) = open(&path).unwrap();
                let taken = received.take("listen", "127.0.0.1:0".parse().unwrap()).unwrap();
                assert!(received.take("listen", "127.0.0.1:0".parse().unwrap()).is_none());
                if says_ready {
                    received.tell_ready().unwrap();
                }
                taken.local_addr().unwrap()
            })
        };
        // One that fails on its way, and one that does not.
        for ready in [false, true] {
            let thread = next(ready);
            assert_eq!(runtime.block_on(handover.next()).unwrap(), ready);
            assert_eq!(thread.join().unwrap(), address);
        }
        drop(handover);
        assert!(open(&path).is_ok(), "what is left of one that has ended");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = open(&folder.path().join("file")).err().unwrap().to_string();
        assert!(error.contains("no socket is there"), "{error}");
    }
}
