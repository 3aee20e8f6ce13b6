//! The listening sockets of a server: passed by a service manager, handed over by the server before, or made.
#![forbid(unsafe_code)]

use super::activation::{self, Manager};
use super::config::Config;
use super::error::ServeError;
use super::handover::{self, Named, Received, SocketName};
use super::listener::{ListenerKind, listen};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

/// What a server has from those that have started it, or ran before it. Made before it is jailed.
#[derive(Default)]
pub struct Inherited {
    passed: Vec<(SocketAddr, TcpListener)>,
    pub(super) received: Received,
    pub(super) handover: Option<UnixListener>,
    pub(super) manager: Option<Manager>,
}

impl Inherited {
    /// Takes what is there: sockets of the service manager (`LISTEN_FDS`), where it wants to hear of the server
    /// (`NOTIFY_SOCKET`), and the sockets of the server that listens at the configuration's `handover`, if one does.
    ///
    /// # Errors
    ///
    /// [`ServeError::Handover`]: the socket of `handover` cannot be made or taken over.
    pub fn take(config: &Config) -> Result<Inherited, ServeError> {
        let (handover, received) = match &config.handover {
            Some(path) => {
                let (listener, received) = handover::open(path)?;
                (Some(listener), received)
            }
            None => Default::default(),
        };
        Ok(Inherited {
            passed: activation::sockets(),
            received,
            handover,
            manager: Manager::of_environment(),
        })
    }

    fn socket(&mut self, key: &str, address: SocketAddr) -> Option<TcpListener> {
        if let Some(place) = self.passed.iter().position(|(passed, _)| *passed == address) {
            return Some(self.passed.swap_remove(place).1);
        }
        self.received.take(key, address)
    }

    /// Names what was passed and is not wanted.
    fn note_rest(&self) {
        for (address, _) in &self.passed {
            tracing::warn!(
                "a socket for {address} was passed, which the configuration does not name; it is not used"
            );
        }
    }
}

/// A socket that is listened on.
pub(super) struct Listening {
    pub(super) listener: tokio::net::TcpListener,
    pub(super) kind: ListenerKind,
    name: SocketName,
}

impl Listening {
    /// The socket again, to be handed over later.
    pub(super) fn share(&self) -> std::io::Result<Named> {
        Ok((self.name.clone(), self.listener.as_fd().try_clone_to_owned()?))
    }
}

/// All addresses of a configuration, listened on.
pub(super) fn listeners(config: &Config, inherited: &mut Inherited) -> Result<Vec<Listening>, ServeError> {
    let public = config.listen.iter().map(|address| ("listen", *address, ListenerKind::Public));
    let tls = config.listen_tls.iter().map(|address| ("listen_tls", *address, ListenerKind::PublicTls));
    let has_tls = config.api.as_ref().is_some_and(|api| api.tls.is_some());
    let kind = if has_tls { ListenerKind::AdminTls } else { ListenerKind::Admin };
    let admin = config.admin.iter().map(|address| ("admin", *address, kind));
    let mut all = Vec::new();
    for (key, address, kind) in public.chain(tls).chain(admin) {
        let listener = match inherited.socket(key, address) {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(socket)?
            }
            None => listen(key, address)?,
        };
        all.push(Listening { listener, kind, name: SocketName::new(key, address) });
    }
    inherited.note_rest();
    Ok(all)
}
