//! TLS of the listener `admin`: clients show a certificate, too.
#![forbid(unsafe_code)]

use super::certificate::{Certificate, CertificateError, read};
use super::{PROTOCOLS, error_at};
use crate::config::{ApiTls, Config};
use crate::error::ServeError;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig};
use std::sync::{Arc, RwLock};
use tokio_rustls::TlsAcceptor;

/// What new connections to `admin` get.
pub(crate) struct AdminTls(RwLock<Arc<ServerConfig>>);

impl AdminTls {
    /// Reads the files that a configuration names, if it does. Blocks.
    pub(crate) fn of(config: &Config) -> Result<Option<AdminTls>, ServeError> {
        let Some(tls) = config.api.as_ref().and_then(|api| api.tls.as_ref()) else { return Ok(None) };
        let made = server_config(tls).map_err(|error| error_at(&tls.certificate.location, error))?;
        Ok(Some(AdminTls(RwLock::new(Arc::new(made)))))
    }

    /// New connections get what another one has.
    pub(crate) fn replace(&self, other: AdminTls) {
        let new = other.0.into_inner().expect("no panic while held");
        *self.0.write().expect("no panic while held") = new;
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0.read().expect("no panic while held").clone().into()
    }
}

fn server_config(tls: &ApiTls) -> Result<ServerConfig, CertificateError> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let certificate = Certificate::read(&tls.certificate, &provider)?;
    let no_clients = |why: String| CertificateError::NoClients { path: tls.clients.clone(), why };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&read(&tls.clients)?) {
        let root = root.map_err(|error| no_clients(error.to_string()))?;
        roots.add(root).map_err(|error| no_clients(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = verifier.build().map_err(|error| no_clients(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for all versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}
