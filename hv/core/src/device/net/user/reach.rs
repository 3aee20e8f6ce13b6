//! What the guest may reach, and how it is told what it cannot.

use super::{DNS, GATEWAY, PREFIX};
use smoltcp::wire::Icmpv4DstUnreachable as Reason;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;

/// Which addresses of the host's side a guest reaches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Whether the gateway is the host's loopback interface.
    pub(super) host_loopback: bool,
}

impl Reach {
    /// The address on the host's side of a destination of the guest, or why there is none.
    ///
    /// The name server is not one of these: it answers port 53 only, by itself.
    pub(super) fn target(self, addr: Ipv4Addr) -> Result<Ipv4Addr, Reason> {
        if addr == GATEWAY {
            return if self.host_loopback { Ok(Ipv4Addr::LOCALHOST) } else { Err(Reason::PortUnreachable) };
        }
        if addr == DNS {
            return Err(Reason::PortUnreachable);
        }
        // To the kernel of the host, 0.0.0.0 is its loopback interface as well.
        if addr.is_loopback() || addr.octets()[0] == 0 || addr.octets()[0] >= 224 {
            return Err(Reason::NetUnreachable);
        }
        if is_local(addr) { Err(Reason::HostUnreachable) } else { Ok(addr) }
    }
}

/// Whether an address belongs to the network between the guest and its gateway.
pub(super) fn is_local(addr: Ipv4Addr) -> bool {
    let network = u32::MAX << (32 - PREFIX);
    addr.to_bits() & network == GATEWAY.to_bits() & network
}

/// What an error of the host's sockets means to the guest; `None` if nothing that would help it.
pub(super) fn reason(error: &io::Error) -> Option<Reason> {
    if error.raw_os_error() == Some(libc::EMSGSIZE) {
        return Some(Reason::FragRequired);
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => Some(Reason::PortUnreachable),
        ErrorKind::HostUnreachable | ErrorKind::TimedOut => Some(Reason::HostUnreachable),
        ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Some(Reason::NetUnreachable),
        // A firewall of the host.
        ErrorKind::PermissionDenied => Some(Reason::CommProhibited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_destination_is_the_hosts_loopback_unless_it_is_open() {
        let (closed, open) = (Reach { host_loopback: false }, Reach { host_loopback: true });
        assert_eq!(closed.target(GATEWAY), Err(Reason::PortUnreachable));
        assert_eq!(open.target(GATEWAY), Ok(Ipv4Addr::LOCALHOST));
        for reach in [closed, open] {
            for no in
                ["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.0.0.53", "127.255.255.255", "224.0.0.1", "240.0.0.1"]
            {
                assert_eq!(reach.target(no.parse().unwrap()), Err(Reason::NetUnreachable), "{no}");
            }
            assert_eq!(reach.target(Ipv4Addr::new(10, 0, 2, 4)), Err(Reason::HostUnreachable));
            assert_eq!(reach.target(DNS), Err(Reason::PortUnreachable));
            for yes in ["1.1.1.1", "192.168.1.1", "10.0.3.2", "126.255.255.255", "128.0.0.1"] {
                assert_eq!(reach.target(yes.parse().unwrap()), Ok(yes.parse().unwrap()));
            }
        }
    }

    #[test]
    fn errors_of_the_host_say_why() {
        let of = |number| reason(&io::Error::from_raw_os_error(number));
        assert_eq!(of(libc::ECONNREFUSED), Some(Reason::PortUnreachable));
        assert_eq!(of(libc::EHOSTUNREACH), Some(Reason::HostUnreachable));
        assert_eq!(of(libc::ETIMEDOUT), Some(Reason::HostUnreachable));
        assert_eq!(of(libc::ENETUNREACH), Some(Reason::NetUnreachable));
        assert_eq!(of(libc::EMSGSIZE), Some(Reason::FragRequired));
        assert_eq!(of(libc::EPERM), Some(Reason::CommProhibited));
        assert_eq!(of(libc::EACCES), Some(Reason::CommProhibited));
        assert_eq!(of(libc::EAGAIN), None);
    }
}
