//! Which connections a function may make. Pure.
//!
//! A rule names a host, an address or a network. A *name* is allowed by a rule that has this name; the addresses that it leads to
//! are then looked at once more, since whoever answers for a name can have it lead anywhere. An *address* is allowed by a rule that
//! has it or its network. Some addresses are never meant unless a rule has them: see [`is_special`].

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// What connections are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a function may connect to, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetSpec {
    /// All that is not here is refused.
    pub rules: Vec<Rule>,
    /// How much.
    pub limits: NetLimits,
}

/// How much a function may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetLimits {
    /// Most connections of a request at a time. `None`: as many as a guest has calls.
    pub connections: Option<u32>,
    /// Most bytes of all connections of a request, both ways.
    pub bytes: Option<u64>,
    /// Most bytes a second of all connections of the function, both ways.
    pub rate: Option<u64>,
}

/// A line of the list: `tcp:example.org:443`, `udp:192.0.2.0/24:*`, `tcp:[2001:db8::]/32:1-1024`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    protocol: Protocol,
    target: Target,
    /// The first and the last port.
    ports: (u16, u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// This name.
    Name(String),
    /// All names that end so: `.example.org`.
    Below(String),
    /// All addresses of a network.
    Network(IpNet),
}

/// Why a rule is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Neither TCP nor UDP.
    #[error("begin with tcp: or udp:, as in tcp:example.org:443")]
    Protocol,
    /// No port.
    #[error(
        "end with a port, a range of ports or *, as in tcp:example.org:443, tcp:10.0.0.0/8:1-1024, udp:192.0.2.1:*"
    )]
    Port,
    /// No host.
    #[error(
        "name a host (example.org, *.example.org), an address (192.0.2.1, [2001:db8::1]) or a network (10.0.0.0/8, [2001:db8::]/32)"
    )]
    Target,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let (protocol, rest) = text.split_once(':').ok_or(RuleError::Protocol)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(RuleError::Protocol),
        };
        let (target, ports) = rest.rsplit_once(':').ok_or(RuleError::Port)?;
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(RuleError::Port);
        let ports = match ports.split_once('-') {
            None if ports == "*" => (1, u16::MAX),
            None => (port(ports)?, port(ports)?),
            Some((first, last)) => (port(first)?, port(last)?),
        };
        if ports.0 > ports.1 {
            return Err(RuleError::Port);
        }
        Ok(Rule { protocol, target: target.parse()?, ports })
    }
}

impl FromStr for Target {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Target, RuleError> {
        let bare = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, prefix) = rest.split_once(']').ok_or(RuleError::Target)?;
                address.parse::<Ipv6Addr>().map_err(|_| RuleError::Target)?;
                format!("{address}{prefix}")
            }
            None if text.contains(':') => return Err(RuleError::Target),
            None => text.to_owned(),
        };
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Target::Network(address.into()));
        }
        if bare.contains('/') {
            let network: IpNet = bare.parse().map_err(|_| RuleError::Target)?;
            return Ok(Target::Network(network.trunc()));
        }
        let (name, below) = match bare.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (bare.as_str(), false),
        };
        if !is_name(name) {
            return Err(RuleError::Target);
        }
        let name = canonical(name);
        Ok(if below { Target::Below(format!(".{name}")) } else { Target::Name(name) })
    }
}

/// Whether this can be the name of a host. One whose last part is a number would be an address to some.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(part)
        && !last.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
}

/// A name as it is compared.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// What a guest wants to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// This address.
    Address(IpAddr),
    /// Where this name leads.
    Name(String),
}

impl NetSpec {
    fn allows(&self, protocol: Protocol, port: u16, target: impl Fn(&Target) -> bool) -> bool {
        self.rules.iter().any(|rule| {
            rule.protocol == protocol && (rule.ports.0..=rule.ports.1).contains(&port) && target(&rule.target)
        })
    }

    /// What a guest may connect to, if it may at all.
    pub(crate) fn destination(&self, protocol: Protocol, host: &str, port: u16) -> Option<Destination> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.allows_address(protocol, address, port).then_some(Destination::Address(address));
        }
        if !is_name(host) {
            return None;
        }
        let name = canonical(host);
        let named = |target: &Target| match target {
            Target::Name(one) => *one == name,
            Target::Below(end) => name.len() > end.len() && name.ends_with(end),
            Target::Network(_) => false,
        };
        self.allows(protocol, port, named).then_some(Destination::Name(name))
    }

    /// Whether a rule has this address, as it is: an IPv4 address in IPv6 is another one.
    fn allows_address(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        self.allows(protocol, port, |target| match target {
            // A special address is not meant by a network that is larger than what makes it special: 0.0.0.0/0 has none.
            Target::Network(network) => {
                network.contains(&address)
                    && special(&address).is_none_or(|special| special.contains(network))
            }
            _ => false,
        })
    }

    /// Whether an address that an allowed name leads to may be connected to.
    pub(crate) fn allows_found(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        special(&address).is_none() || self.allows_address(protocol, address, port)
    }
}

/// Addresses of the host itself, of its links and of services that trust whoever reaches them; and those that are others in disguise.
const SPECIAL: [&str; 19] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Metadata of instances, where it is not at a link-local address.
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    // Unspecified, loopback, and IPv4 addresses in IPv6: compatible, mapped, translated, 6to4, Teredo.
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2001::/32",
    "2002::/16",
    // Link-local (and what was site-local), multicast.
    "fe80::/9",
    "ff00::/8",
];

/// The network that makes an address special; `None`: it is not.
fn special(address: &IpAddr) -> Option<IpNet> {
    SPECIAL
        .iter()
        .map(|network| network.parse::<IpNet>().expect("a network"))
        .find(|network| network.contains(address))
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn spec(rules: &[&str]) -> NetSpec {
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        NetSpec { rules, limits: NetLimits::default() }
    }

    fn tcp(spec: &NetSpec, host: &str, port: u16) -> bool {
        spec.destination(Protocol::Tcp, host, port).is_some()
    }

    #[test]
    fn nothing_is_allowed_but_what_a_rule_has() {
        let net = spec(&[
            "tcp:example.org:443",
            "tcp:*.example.net:1-10",
            "tcp:10.0.0.0/8:5432",
            "tcp:[2001:db8::]/32:*",
        ]);
        for (host, port) in [
            ("example.org", 443),
            ("EXAMPLE.org.", 443),
            ("a.b.example.net", 10),
            ("10.1.2.3", 5432),
            ("2001:db8::1", 9),
        ] {
            assert!(tcp(&net, host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("example.org", 80),
            ("www.example.org", 443),
            ("example.net", 1),
            ("notexample.net", 1),
            ("a.example.net", 11),
            ("11.0.0.1", 5432),
            ("10.0.0.1", 5433),
            ("2001:db9::1", 9),
            ("::ffff:10.0.0.1", 5432),
            ("", 443),
            ("example.org:443", 443),
            ("exam ple.org", 443),
        ] {
            assert!(!tcp(&net, host, port), "{host}:{port}");
        }
        assert_eq!(net.destination(Protocol::Udp, "example.org", 443), None);
        assert!(!tcp(&NetSpec::default(), "example.org", 443));
    }

    #[test]
    fn special_addresses_are_meant_only_where_they_are_named() {
        let all = spec(&["tcp:0.0.0.0/0:*", "tcp:[::]/0:*", "tcp:*.test:*"]);
        for host in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
        ] {
            assert!(!tcp(&all, host, 80), "{host}");
            assert!(!all.allows_found(Protocol::Tcp, host.parse().unwrap(), 80), "{host}");
        }
        for host in ["8.8.8.8", "10.0.0.1", "2606:4700::1", "fd00::1"] {
            assert!(
                tcp(&all, host, 80) && all.allows_found(Protocol::Tcp, host.parse().unwrap(), 80),
                "{host}"
            );
        }
        let named = spec(&[
            "tcp:127.0.0.1:6379",
            "tcp:169.254.0.0/16:80",
            "tcp:[::1]:80",
            "tcp:localhost:6379",
            "tcp:localhost:80",
        ]);
        assert!(
            tcp(&named, "127.0.0.1", 6379) && tcp(&named, "169.254.169.254", 80) && tcp(&named, "::1", 80)
        );
        assert!(
            !tcp(&named, "127.0.0.1", 80)
                && !tcp(&named, "127.0.0.2", 6379)
                && !tcp(&named, "::ffff:127.0.0.1", 6379)
        );
        // A name leads to a special address only where that is named, too.
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(
            named.allows_found(Protocol::Tcp, loopback, 6379)
                && !named.allows_found(Protocol::Tcp, loopback, 80)
        );
    }

    #[test]
    fn what_is_no_rule() {
        let error = |text: &str| text.parse::<Rule>().unwrap_err();
        for text in ["", "example.org:443", "http:example.org:80", "TCP:a:1"] {
            assert_eq!(error(text), RuleError::Protocol, "{text}");
        }
        for text in
            ["tcp:example.org", "tcp:a:0", "tcp:a:65536", "tcp:a:9-1", "tcp:a:", "tcp:a:x", "udp:a:1-"]
        {
            assert_eq!(error(text), RuleError::Port, "{text}");
        }
        for text in [
            "tcp::1",
            "tcp:a b:1",
            "tcp:1.2.3:1",
            "tcp:10.0.0.0/33:1",
            "tcp:::1:1",
            "tcp:[a]:1",
            "tcp:*:1",
            "tcp:*.*.a:1",
            "tcp:a..b:1",
        ] {
            assert_eq!(error(text), RuleError::Target, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_rule_or_an_error(text in "\\PC{0,40}") {
            let _ = text.parse::<Rule>();
        }

        #[test]
        fn the_host_is_never_reached_by_accident(address in any::<u32>(), port in 1..u16::MAX) {
            let all = spec(&["tcp:0.0.0.0/0:*", "tcp:[::]/0:*"]);
            let v4 = Ipv4Addr::from(address);
            let reached = tcp(&all, &v4.to_string(), port);
            prop_assert!(!(reached && (v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified())));
            prop_assert!(!tcp(&all, &v4.to_ipv6_mapped().to_string(), port));
        }
    }
}
