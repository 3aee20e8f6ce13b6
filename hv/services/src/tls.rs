//! TLS to services: who vouches for them, and who hv is to them.

use crate::spec::SecretBytes;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::{Arc, OnceLock};

/// How a service is known over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSpec {
    /// Certificates in PEM format of those that vouch for it. `None`: those that the host trusts.
    pub authorities: Option<Arc<[u8]>>,
    /// Who hv is to it. `None`: it is not asked.
    pub client: Option<ClientCertificate>,
}

/// A certificate that hv shows to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and behind it those that vouch for it, in PEM format.
    pub chain: Arc<[u8]>,
    /// Its private key, in PEM format.
    pub key: SecretBytes,
}

/// Why TLS cannot be used as specified.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authorities are none.
    #[error("it has no certificate that vouches for others: {0}; name a file in PEM format")]
    Authorities(String),
    /// The host trusts nobody, as far as hv can see.
    #[error(
        "hv cannot read whom this host trusts: {0}; name a file in PEM format: ca = \"ca.pem\". (A server in its jail reads the host's certificates at the start only.)"
    )]
    Host(String),
    /// The certificate is none.
    #[error("it has no certificate: {0}; name a file in PEM format")]
    Certificate(String),
    /// The key is none, or another certificate's.
    #[error("it is not the private key of the certificate: {0}; name the two that were made together")]
    Key(String),
}

impl TlsSpec {
    /// What connections are made with. Reads the host's certificates if nothing else is specified: blocks.
    ///
    /// # Errors
    ///
    /// If it says nothing that could be used.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let authorities = match &self.authorities {
            Some(pem) => Arc::new(authorities(pem)?),
            None => of_host()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for all versions")
            .with_root_certificates(authorities);
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(ClientCertificate { chain, key }) => {
                let chain = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| TlsError::Certificate(error.to_string()))?;
                if chain.is_empty() {
                    return Err(TlsError::Certificate("it is empty, or in another format".into()));
                }
                let key = PrivateKeyDer::from_pem_slice(key.reveal())
                    .map_err(|error| TlsError::Key(error.to_string()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Key(error.to_string()))?
            }
        };
        Ok(Arc::new(config))
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| TlsError::Authorities(error.to_string()))?;
        store.add(certificate).map_err(|error| TlsError::Authorities(error.to_string()))?;
    }
    match store.is_empty() {
        true => Err(TlsError::Authorities("it is empty, or in another format".into())),
        false => Ok(store),
    }
}

/// Those that the host trusts, as they were when they were first asked for.
fn of_host() -> Result<Arc<RootCertStore>, TlsError> {
    static STORE: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(store) = STORE.get() {
        return Ok(store.clone());
    }
    let mut store = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Hosts have some that nothing can be done with; they vouch for nobody then.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".into(), ToString::to_string);
        return Err(TlsError::Host(why));
    }
    Ok(STORE.get_or_init(|| Arc::new(store)).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused() {
        let text: Arc<[u8]> = (*b"no certificate").into();
        let broken: Arc<[u8]> = (*b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").into();
        for pem in [&text, &broken] {
            let spec = TlsSpec { authorities: Some(pem.clone()), client: None };
            assert!(matches!(spec.client_config(), Err(TlsError::Authorities(_))));
        }
    }
}
