//! Published ports: `--publish [HOST_IP:]HOST:GUEST[/udp]`, and the host sockets for them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publish {
    /// Where the host listens. Port 0 lets the kernel choose; see `UserNet::published`.
    pub host: SocketAddr,
    /// The guest's port, not 0.
    pub guest_port: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

/// Why a `--publish` value was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The parts do not come out as `[HOST_IP:]HOST:GUEST`.
    #[error("--publish {value:?}: expected [HOST_IP:]HOST:GUEST[/udp], for example 8080:80")]
    Shape {
        /// The whole value.
        value: String,
    },
    /// A port is no number from 1 to 65535 (the host's may be 0).
    #[error("--publish {value:?}: {which} port {port:?} is not a number from {low} to 65535")]
    Port {
        /// The whole value.
        value: String,
        /// `host` or `guest`.
        which: &'static str,
        /// The part that is wrong.
        port: String,
        /// The lowest number allowed there.
        low: u16,
    },
    /// The address is not one.
    #[error(
        "--publish {value:?}: host address {address:?} is not an IP address (write IPv6 in brackets, as [::1])"
    )]
    Address {
        /// The whole value.
        value: String,
        /// The part that is wrong.
        address: String,
    },
    /// The protocol is neither tcp nor udp.
    #[error("--publish {value:?}: protocol {protocol:?} is not known; use /tcp or /udp")]
    Protocol {
        /// The whole value.
        value: String,
        /// The part that is wrong.
        protocol: String,
    },
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let value = || text.to_owned();
        let (ports, udp) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), false),
            Some((ports, "udp")) => (ports, true),
            Some((_, other)) => {
                return Err(PublishError::Protocol { value: value(), protocol: other.to_owned() });
            }
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or_else(|| PublishError::Shape { value: value() })?;
        // What remains is `HOST` or `HOST_IP:HOST`, and an IPv6 address has colons of its own.
        let (address, host) = match rest.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
                let wrong = || PublishError::Address { value: value(), address: address.to_owned() };
                let parsed: IpAddr = bare.parse().map_err(|_| wrong())?;
                // `::1:80:80` could be read in several ways.
                if parsed.is_ipv6() && bare.len() == address.len() {
                    return Err(wrong());
                }
                (parsed, host)
            }
        };
        let port = |which, part: &str, low| match part.parse::<u16>() {
            Ok(port) if port >= low => Ok(port),
            _ => Err(PublishError::Port { value: value(), which, port: part.to_owned(), low }),
        };
        Ok(Publish {
            host: SocketAddr::new(address, port("host", host, 0)?),
            guest_port: port("guest", guest, 1)?,
            udp,
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.guest_port, if self.udp { "/udp" } else { "" })
    }
}

/// Why a published port could not be opened on the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The port is in use.
    #[error(
        "cannot publish {publish}: port {} of {} is in use on the host; stop its user or choose another host port",
        publish.host.port(),
        publish.host.ip()
    )]
    InUse {
        /// What was to be published.
        publish: Publish,
    },
    /// A port below 1024, and no right to it.
    #[error(
        "cannot publish {publish}: host port {} needs a right that this user lacks; choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE",
        publish.host.port()
    )]
    NotAllowed {
        /// What was to be published.
        publish: Publish,
    },
    /// The host does not have that address.
    #[error(
        "cannot publish {publish}: the host has no address {}; use 127.0.0.1, 0.0.0.0 or one that `ip address` shows",
        publish.host.ip()
    )]
    NoAddress {
        /// What was to be published.
        publish: Publish,
    },
    /// Anything else.
    #[error("cannot publish {publish}: opening the host port failed: {source}")]
    Other {
        /// What was to be published.
        publish: Publish,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    fn new(publish: Publish, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { publish },
            io::ErrorKind::PermissionDenied => BindError::NotAllowed { publish },
            io::ErrorKind::AddrNotAvailable => BindError::NoAddress { publish },
            _ => BindError::Other { publish, source },
        }
    }
}

/// A host socket of a published port.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(mio::net::TcpListener),
    Udp(mio::net::UdpSocket),
}

impl Publish {
    /// Opens the host's socket, and returns its address.
    pub(super) fn bind(&self) -> Result<(Listener, SocketAddr), BindError> {
        let open = || -> io::Result<_> {
            if self.udp {
                let socket = UdpSocket::bind(self.host)?;
                socket.set_nonblocking(true)?;
                let at = socket.local_addr()?;
                Ok((Listener::Udp(mio::net::UdpSocket::from_std(socket)), at))
            } else {
                let socket = TcpListener::bind(self.host)?;
                socket.set_nonblocking(true)?;
                let at = socket.local_addr()?;
                Ok((Listener::Tcp(mio::net::TcpListener::from_std(socket)), at))
            }
        };
        open().map_err(|source| BindError::new(*self, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_is_understood() {
        let parse = |text: &str| text.parse::<Publish>().map(|p| p.to_string());
        assert_eq!(parse("8080:80").as_deref(), Ok("127.0.0.1:8080:80"));
        assert_eq!(parse("8080:80/tcp").as_deref(), Ok("127.0.0.1:8080:80"));
        assert_eq!(parse("0.0.0.0:53:5353/udp").as_deref(), Ok("0.0.0.0:53:5353/udp"));
        assert_eq!(parse("[::1]:8080:80").as_deref(), Ok("[::1]:8080:80"));
        assert_eq!(parse("0:80").as_deref(), Ok("127.0.0.1:0:80"));
    }

    #[test]
    fn errors_name_the_part_that_is_wrong() {
        let message = |text: &str| text.parse::<Publish>().unwrap_err().to_string();
        assert!(message("80").contains("expected [HOST_IP:]HOST:GUEST"));
        assert!(message("").contains("expected"));
        assert!(message("x:80").contains("host port \"x\""));
        assert!(message("80:0").contains("guest port \"0\" is not a number from 1"));
        assert!(message("80:65536").contains("65536"));
        assert!(message("localhost:80:80").contains("host address \"localhost\""));
        assert!(message("::1:80:80").contains("brackets"));
        assert!(message("80:80/sctp").contains("\"sctp\""));
        assert!(message("80:80/udp/tcp").contains("\"udp/tcp\""));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let publish = Publish { host: taken.local_addr().unwrap(), guest_port: 80, udp: false };
        let message = publish.bind().unwrap_err().to_string();
        assert!(message.contains("in use"), "{message}");
        assert!(message.contains(&taken.local_addr().unwrap().port().to_string()), "{message}");
    }

    #[test]
    fn a_right_that_is_missing_is_named() {
        let publish = "80:80".parse().unwrap();
        let error = BindError::new(publish, io::ErrorKind::PermissionDenied.into());
        assert!(error.to_string().contains("host port 80 needs a right"), "{error}");
    }
}
