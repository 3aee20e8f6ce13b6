//! How this host looks names up: `/etc/resolv.conf` and `/etc/hosts`.

use super::super::GATEWAY;
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name servers that are asked, in the order of `/etc/resolv.conf` (which has at most 3).
pub(super) const MAX_SERVERS: usize = 3;
/// Bytes of `/etc/resolv.conf` that are read; all of it, unless it is something else.
const MAX_RESOLV_CONF: usize = 16 << 10;
/// The same for `/etc/hosts`.
const MAX_HOSTS: u64 = 4 << 20;
/// Addresses of a name in `/etc/hosts`; so many fit every answer.
const MAX_ADDRESSES: usize = 12;

/// The servers that are asked, and with which time limits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Servers {
    pub(super) list: Vec<SocketAddr>,
    /// How long one server has before the next is asked.
    pub(super) timeout: Duration,
    /// How often each is asked.
    pub(super) attempts: usize,
}

impl Servers {
    /// These servers, with the time limits of the C library (resolv.conf(5)).
    pub(super) fn new(mut list: Vec<SocketAddr>) -> Self {
        list.truncate(MAX_SERVERS);
        Servers { list, timeout: Duration::from_secs(5), attempts: 2 }
    }

    fn parse(text: &str) -> Self {
        let mut servers = Servers::new(Vec::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // An IPv6 address with a zone needs the interface's number; such
                // servers are rare, and others usually stand beside them.
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    servers.list.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("options") => words.for_each(|option| servers.option(option)),
                _ => {}
            }
        }
        servers.list.truncate(MAX_SERVERS);
        if servers.list.is_empty() {
            servers.list.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
        }
        servers
    }

    /// The bounds are those of the C library.
    fn option(&mut self, option: &str) {
        match option.split_once(':').map(|(name, value)| (name, value.parse::<u64>())) {
            Some(("timeout", Ok(seconds))) => self.timeout = Duration::from_secs(seconds.clamp(1, 30)),
            Some(("attempts", Ok(count))) => self.attempts = count.clamp(1, 5) as usize,
            _ => {}
        }
    }
}

/// `/etc/resolv.conf`, open: what is written to it later is seen, though hv can open no file by then.
///
/// A file that takes its place (by renaming) is another file, which is opened unless this process is jailed.
pub(super) struct ResolvConf {
    path: PathBuf,
    file: File,
    /// What it said last.
    text: Vec<u8>,
}

impl ResolvConf {
    /// Reads the file. Without one, the C library asks the host itself, and so does this.
    pub(super) fn open(path: &Path) -> (Option<Self>, Servers) {
        let conf = File::open(path).ok().map(|file| ResolvConf { path: path.into(), file, text: Vec::new() });
        let mut servers = Servers::parse("");
        let conf = conf.map(|mut conf| {
            servers = conf.changed().unwrap_or(servers.clone());
            conf
        });
        (conf, servers)
    }

    /// The servers to ask, if the file has changed. An empty file is one that is being written.
    pub(super) fn changed(&mut self) -> Option<Servers> {
        if let Some(other) = self.replaced() {
            self.file = other;
        }
        let mut text = vec![0; MAX_RESOLV_CONF];
        let len = self.file.read_at(&mut text, 0).ok()?;
        text.truncate(len);
        if text == self.text || text.is_empty() {
            return None;
        }
        self.text = text;
        Some(Servers::parse(&String::from_utf8_lossy(&self.text)))
    }
}

impl ResolvConf {
    /// The file that has taken the place of this one.
    fn replaced(&self) -> Option<File> {
        if hv_jail::is_on() {
            return None;
        }
        let identity = |data: &Metadata| (data.dev(), data.ino());
        let (here, there) = (self.file.metadata().ok()?, fs::metadata(&self.path).ok()?);
        (identity(&here) != identity(&there)).then(|| File::open(&self.path).ok()).flatten()
    }
}

/// The addresses of the names in `/etc/hosts`.
pub(super) struct Hosts(HashMap<String, Vec<Ipv4Addr>>);

impl Hosts {
    pub(super) fn read(path: &Path) -> Self {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(path) {
            let _ = file.take(MAX_HOSTS).read_to_end(&mut bytes);
        }
        Hosts::parse(&String::from_utf8_lossy(&bytes))
    }

    fn parse(text: &str) -> Self {
        let mut hosts: HashMap<String, Vec<Ipv4Addr>> = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for name in words {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                let of_name = hosts.entry(name).or_default();
                // Names with IPv6 addresses only exist, without an address that the guest could use.
                if let IpAddr::V4(address) = address
                    && of_name.len() < MAX_ADDRESSES
                {
                    of_name.push(address);
                }
            }
        }
        for (name, addresses) in &mut hosts {
            // To the guest, this host is its gateway. The guest itself is its own localhost.
            if name != "localhost" {
                addresses
                    .iter_mut()
                    .filter(|address| address.is_loopback())
                    .for_each(|address| *address = GATEWAY);
            }
        }
        Hosts(hosts)
    }

    pub(super) fn get(&self, name: &str) -> Option<&[Ipv4Addr]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn name_servers_are_found_in_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch example\nnameserver 127.0.0.53\n\
                    nameserver ::1 # local\n nameserver x\noptions edns0\nnameserver 9.9.9.9\nnameserver 8.8.8.8\n";
        let servers = Servers::parse(text);
        let list: Vec<String> = servers.list.iter().map(SocketAddr::to_string).collect();
        assert_eq!(list, ["127.0.0.53:53", "[::1]:53", "9.9.9.9:53"]);
        assert_eq!((servers.timeout, servers.attempts), (Duration::from_secs(5), 2));
        assert_eq!(Servers::parse("").list, ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn the_time_limits_of_resolv_conf() {
        let limits = |text| {
            let servers = Servers::parse(text);
            (servers.timeout.as_secs(), servers.attempts)
        };
        assert_eq!(limits("options timeout:1 rotate attempts:3"), (1, 3));
        assert_eq!(limits("options attempts:99\noptions timeout:0"), (1, 5));
        assert_eq!(limits("options timeout:x attempts:"), (5, 2));
    }

    #[test]
    fn resolv_conf_is_followed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "nameserver 1.1.1.1").unwrap();
        let (conf, servers) = ResolvConf::open(file.path());
        let mut conf = conf.unwrap();
        assert_eq!(servers.list, ["1.1.1.1:53".parse().unwrap()]);
        assert_eq!(conf.changed(), None);
        file.as_file().set_len(0).unwrap();
        assert_eq!(conf.changed(), None, "it is being written");
        file.rewind().unwrap();
        writeln!(file, "nameserver 9.9.9.9").unwrap();
        assert_eq!(conf.changed().unwrap().list, ["9.9.9.9:53".parse().unwrap()]);
        assert_eq!(conf.changed(), None);
    }

    #[test]
    fn another_file_in_the_place_of_resolv_conf_is_followed() {
        let folder = tempfile::TempDir::new().unwrap();
        let [path, new] = ["resolv.conf", "new"].map(|name| folder.path().join(name));
        fs::write(&path, "nameserver 1.1.1.1\n").unwrap();
        let mut conf = ResolvConf::open(&path).0.unwrap();
        for server in ["9.9.9.9", "8.8.8.8"] {
            fs::write(&new, format!("nameserver {server}\n")).unwrap();
            assert_eq!(conf.changed(), None);
            fs::rename(&new, &path).unwrap();
            assert_eq!(conf.changed().unwrap().list, [format!("{server}:53").parse().unwrap()]);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(conf.changed(), None, "the last one holds");
    }

    #[test]
    fn names_of_etc_hosts() {
        let hosts = Hosts::parse(
            "# a comment\n127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 me.example ME # 9.9.9.9 no\n\
             192.0.2.7\tserver server.example.\n192.0.2.8 server\nnonsense name\n",
        );
        let of = |name| hosts.get(name).map(<[_]>::to_vec);
        assert_eq!(of("localhost"), Some(vec![Ipv4Addr::LOCALHOST]));
        assert_eq!(of("ip6-localhost"), Some(vec![]));
        assert_eq!((of("me"), of("me.example")), (Some(vec![GATEWAY]), Some(vec![GATEWAY])));
        assert_eq!(of("server"), Some(vec![Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 8)]));
        assert_eq!(of("server.example"), Some(vec![Ipv4Addr::new(192, 0, 2, 7)]));
        assert_eq!((of("no"), of("name")), (None, None));
    }
}
