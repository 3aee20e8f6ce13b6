//! What a service manager such as systemd gives a server, and wants to hear: listening sockets (`sd_listen_fds`), and
//! words about its state (`sd_notify`).
#![forbid(unsafe_code)]

use listenfd::ListenFd;
use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{self, UnixDatagram};
use std::time::Duration;

/// Listening sockets that were passed to this process.
pub(super) fn sockets() -> Vec<(SocketAddr, TcpListener)> {
    let mut passed = ListenFd::from_env();
    let sockets = (0..passed.len()).filter_map(|n| match passed.take_tcp_listener(n) {
        Ok(listener) => {
            let listener = listener?;
            Some((listener.local_addr().ok()?, listener))
        }
        Err(error) => {
            tracing::warn!("socket {n} of the service manager is none for TCP: {error}");
            None
        }
    });
    sockets.collect()
}

/// Where a service manager wants to hear of this server.
pub(super) struct Manager {
    socket: UnixDatagram,
    /// How often it wants to hear that the server is alive.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that has started this process, if it wants to hear. The socket stays open: a server in its jail opens
    /// none.
    pub(super) fn of_environment() -> Option<Manager> {
        let address = env::var_os("NOTIFY_SOCKET")?;
        let socket =
            connect(address.as_bytes()).inspect_err(|error| tracing::warn!("NOTIFY_SOCKET: {error}")).ok()?;
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
        let watchdog =
            number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros);
        Some(Manager { socket, watchdog })
    }

    /// How often to [say](Self::say) that the server is alive: twice as often as it has to be heard.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    pub(super) fn say(&self, word: Word) {
        let text = match word {
            Word::Ready => "READY=1\n".to_owned(),
            Word::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_micros()),
            Word::Stopping => "STOPPING=1\n".to_owned(),
            Word::Alive => "WATCHDOG=1\n".to_owned(),
        };
        if let Err(error) = self.socket.send(text.as_bytes()) {
            tracing::debug!("the service manager does not hear: {error}");
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Requests are answered, with the configuration that was read last.
    Ready,
    /// The configuration is being read.
    Reloading,
    /// It drains.
    Stopping,
    /// It is alive.
    Alive,
}

/// An address that begins with `@` is an abstract one (unix(7)).
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match address.strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&net::SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(std::ffi::OsStr::from_bytes(address))?,
    }
    // A manager that does not read is no reason to wait.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}
