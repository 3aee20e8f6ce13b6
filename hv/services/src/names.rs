//! Names of hosts, looked up with the host's name servers.

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver, system_conf};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long a name server may take to answer; it is asked twice.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks up names.
#[derive(Clone)]
pub struct Names(Option<Arc<TokioResolver>>);

impl Names {
    /// Asks these name servers; if there are none, those of `/etc/resolv.conf`. That and `/etc/hosts` are read now and not
    /// again, and what random numbers come from is opened: in its jail, hv cannot.
    pub fn of_host(name_servers: &[SocketAddr]) -> Names {
        // Questions have random numbers. Where hv is linked statically, those come from a file, which is opened for the first one. The
        // error is that of the host, which has none: it will be told then.
        let _ = getrandom::fill(&mut [0; 1]);
        let (config, mut options) = match name_servers {
            [] => std::fs::read("/etc/resolv.conf")
                .ok()
                .and_then(|text| system_conf::parse_resolv_conf(text).ok())
                .unwrap_or_else(|| {
                    (ResolverConfig::from_parts(None, vec![], vec![]), ResolverOpts::default())
                }),
            servers => {
                let servers = servers.iter().map(server).collect();
                (ResolverConfig::from_parts(None, vec![], servers), ResolverOpts::default())
            }
        };
        // Names are looked up as they are written: what they are allowed by.
        let config = ResolverConfig::from_parts(None, vec![], config.name_servers().to_vec());
        (options.timeout, options.attempts) = (PATIENCE, 2);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Names(builder.build().ok().map(Arc::new))
    }

    /// The addresses of a name, or the address that it is. The error is for people.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let resolver = self.0.as_ref().ok_or("hv has no name servers")?;
        let found = resolver.lookup_ip(host).await.map_err(|_| "the name cannot be looked up")?;
        let addresses: Vec<_> = found.iter().collect();
        if addresses.is_empty() { Err("the name has no address".into()) } else { Ok(addresses) }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connection = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}
