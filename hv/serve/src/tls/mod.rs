//! TLS of the listeners: certificates by the name that a client asks for, read again at reloads.
#![forbid(unsafe_code)]

mod admin;
mod certificate;
mod names;

pub(super) use admin::AdminTls;
pub use certificate::CertificateError;

use super::config::{CertificateConfig, Location};
use super::error::ServeError;
use super::events::Events;
use certificate::Certificate;
use names::Names;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};
use tokio_rustls::TlsAcceptor;

/// How long before its end a certificate is told of.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The protocols that clients may choose, the best one first (ALPN, RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificates that were read and belong together with their keys.
#[derive(Debug)]
pub(super) struct Certificates {
    all: Vec<Certificate>,
    names: Names<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads them all. Blocks.
    pub(super) fn read(configs: &[CertificateConfig]) -> Result<Certificates, ServeError> {
        let provider = ring::default_provider();
        let mut all = Vec::new();
        for config in configs {
            let certificate =
                Certificate::read(config, &provider).map_err(|error| error_at(&config.location, error))?;
            all.push(certificate);
        }
        let named = all.iter().flat_map(|certificate| {
            certificate.names.iter().map(|name| (name.clone(), certificate.key.clone()))
        });
        let names = Names::new(named, all.first().map(|certificate| certificate.key.clone()));
        Ok(Certificates { all, names })
    }

    /// Tells which ones have ended, or will soon. They are used until they are replaced: some clients do not mind,
    /// and none is better off without.
    pub(super) fn tell_of_ends(&self, now: SystemTime, events: &Events) {
        for certificate in &self.all {
            if certificate.end <= now + SOON {
                events.certificate_ends(&certificate.chain, certificate.end, certificate.end <= now);
            }
        }
    }

    /// When each of them ends, by its file.
    pub(super) fn ends(&self) -> Vec<(String, SystemTime)> {
        let ends = self.all.iter();
        ends.map(|certificate| (certificate.chain.to_string_lossy().into_owned(), certificate.end)).collect()
    }
}

fn error_at(location: &Location, error: CertificateError) -> ServeError {
    ServeError::Certificate { location: location.clone(), error: Box::new(error) }
}

/// What all connections over TLS have in common.
pub(super) struct Tls {
    current: Arc<Current>,
    config: Arc<ServerConfig>,
}

/// The certificates that new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<Certificates>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().expect("no panic while held").names.find(hello.server_name()).cloned()
    }
}

impl Tls {
    pub(super) fn new(certificates: Certificates) -> Tls {
        let current = Arc::new(Current(RwLock::new(Arc::new(certificates))));
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for all versions")
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        // Sessions go on from tickets that this process alone can read: nothing is kept for clients that stay away.
        match ring::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!("TLS sessions cannot go on in later connections: {error}"),
        }
        Tls { current, config: Arc::new(config) }
    }

    /// New connections get these.
    pub(super) fn replace(&self, certificates: Certificates) {
        *self.current.0.write().expect("no panic while held") = Arc::new(certificates);
    }

    pub(super) fn certificates(&self) -> Arc<Certificates> {
        self.current.0.read().expect("no panic while held").clone()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }
}
