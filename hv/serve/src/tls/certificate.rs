//! A certificate and its key, from their files.
#![forbid(unsafe_code)]

use crate::config::CertificateConfig;
use hv_host::escape::escape;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Most bytes of a file with certificates or a key. Long chains have some 10 KiB.
const MAX_FILE: u64 = 1 << 20;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {error}; name a readable file in PEM format", escape(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A file has more bytes than any that is meant.
    #[error(
        "{} is larger than 1 MiB; name a file in PEM format with a certificate and its chain",
        escape(path)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// No certificates in PEM format.
    #[error(
        "{} has no certificate: {why}; it takes one in PEM format, and behind it those that vouch for it",
        escape(path)
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No key in PEM format.
    #[error("{} has no private key: {why}; it takes one in PEM format", escape(path))]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A kind of key that there is no signature for.
    #[error("the key in {} cannot be used: {why}; make one for ECDSA (P-256), Ed25519 or RSA", escape(path))]
    KeyKind {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: rustls::Error,
    },
    /// Certificates that can vouch for nobody.
    #[error(
        "{} vouches for no client: {why}; name the certificate of the authority that signs those of clients",
        escape(path)
    )]
    NoClients {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} is not that of the certificate in {}; name the two that were made together",
        escape(key),
        escape(chain)
    )]
    OtherKey {
        /// The file with the key.
        key: PathBuf,
        /// The file with the certificate.
        chain: PathBuf,
    },
}

/// A certificate that can be used.
#[derive(Debug)]
pub(super) struct Certificate {
    /// The file that it is from.
    pub(super) chain: PathBuf,
    /// The names that it is for: those configured, or those in it.
    pub(super) names: Vec<String>,
    /// When it ends.
    pub(super) end: SystemTime,
    pub(super) key: Arc<CertifiedKey>,
}

impl Certificate {
    pub(super) fn read(
        config: &CertificateConfig,
        provider: &CryptoProvider,
    ) -> Result<Certificate, CertificateError> {
        let path = &config.chain;
        let no_certificate = |why: String| CertificateError::NoCertificate { path: path.clone(), why };
        let chain = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, pem::Error>>();
        let chain = chain.map_err(|error| no_certificate(error.to_string()))?;
        let first =
            chain.first().ok_or_else(|| no_certificate("it is empty, or in another format".into()))?;
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|error| no_certificate(error.to_string()))?;
        let names = if config.names.is_empty() { names(&parsed) } else { config.names.clone() };
        let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let key_path = &config.key;
        let key = PrivateKeyDer::from_pem_slice(&read(key_path)?)
            .map_err(|error| CertificateError::NoKey { path: key_path.clone(), why: error.to_string() })?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|why| match why {
            rustls::Error::InconsistentKeys(_) => {
                CertificateError::OtherKey { key: key_path.clone(), chain: path.clone() }
            }
            why => CertificateError::KeyKind { path: key_path.clone(), why },
        })?;
        Ok(Certificate {
            chain: path.clone(),
            names,
            end: UNIX_EPOCH + Duration::from_secs(end),
            key: Arc::new(key),
        })
    }
}

/// A whole file, if it is not too large.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let mut bytes = Vec::new();
    let result = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    result.map_err(|error| CertificateError::Unreadable { path: path.into(), error })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(CertificateError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

/// The names of hosts in a certificate.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}
