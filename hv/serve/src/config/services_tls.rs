//! TLS to services: whom hv trusts, and what it shows them.

use super::validate::{Validator, value};
use super::*;
use hv_host::escape::escape;
use hv_services::{ClientCertificate, TlsError, TlsSpec};
use std::io::Read;
use std::sync::Arc;
use toml::Spanned;

/// Most bytes of a file with certificates: those of all authorities of the world have some 300 KiB.
const MAX_FILE: u64 = 4 << 20;

/// The keys of a table that speaks of a service.
pub(super) struct TlsKeys<'s> {
    pub(super) ca: &'s Option<Spanned<String>>,
    pub(super) chain: &'s Option<Spanned<String>>,
    pub(super) key: &'s Option<Spanned<String>>,
}

impl Validator<'_> {
    /// How the service at a URL is known over TLS, if that is what the URL says.
    pub(super) fn service_tls(
        &self,
        url: &Spanned<String>,
        is_secure: bool,
        keys: TlsKeys<'_>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<Option<TlsSpec>, ConfigError> {
        let TlsKeys { ca, chain, key } = keys;
        let all = [("ca", ca), ("chain", chain), ("key", key)];
        if !is_secure {
            return match all.into_iter().find_map(|(key, at)| Some((key, at.as_ref()?))) {
                None => Ok(None),
                Some((key, at)) => {
                    let remedy = "remove it, or write a URL with TLS: https://…, rediss://…";
                    Err(self.fail(at, Problem::Conflict { key, with: "a URL without TLS", remedy }))
                }
            };
        }
        let client = match (chain, key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(ClientCertificate {
                chain: self.pem("chain", chain, reads)?,
                key: self.secret("key", key, reads)?,
            }),
            (Some(at), None) | (None, Some(at)) => {
                let remedy = "name both of chain = \"PATH\" and key = \"file:PATH\", or none";
                let problem = Problem::Conflict { key: "chain", with: "a certificate in part", remedy };
                return Err(self.fail(at, problem));
            }
        };
        let authorities = ca.as_ref().map(|ca| self.pem("ca", ca, reads)).transpose()?;
        let tls = TlsSpec { authorities, client };
        // What does not fit together is found here, not when the first guest needs it.
        tls.client_config().map_err(|error| {
            let (key, at) = match &error {
                TlsError::Authorities(_) => ("ca", ca.as_ref().unwrap_or(url)),
                TlsError::Host(_) => ("url", url),
                TlsError::Certificate(_) => ("chain", chain.as_ref().unwrap_or(url)),
                TlsError::Key(_) => ("key", key.as_ref().unwrap_or(url)),
            };
            let shown = if key == "url" { "…".into() } else { format!("\"{}\"", at.get_ref()) };
            self.fail(at, value(key, shown, error.to_string()))
        })?;
        Ok(Some(tls))
    }

    /// A file with certificates.
    fn pem(
        &self,
        key: &'static str,
        path: &Spanned<String>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<Arc<[u8]>, ConfigError> {
        let file = self.beside(path.get_ref());
        let wrong = |why: String| self.fail(path, value(key, format!("\"{}\"", escape(&file)), why));
        let mut bytes = Vec::new();
        std::fs::File::open(&file)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(|error| wrong(format!("{error}; let hv's user read it")))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(wrong("it has more than 4M; name a file with certificates in PEM format".into()));
        }
        reads.push(file);
        Ok(bytes.into())
    }
}
