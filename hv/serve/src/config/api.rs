//! The table of the admin API.

use super::file::{ApiSection, File};
use super::validate::{Validator, value};
use super::*;
use hv_host::escape::escape;
use hv_services::SecretBytes;
use toml::Spanned;

/// Largest image that can be uploaded, unless the table says something else.
const UPLOAD: u64 = 64 << 20;
/// The most that it can say.
const UPLOAD_MAX: u64 = 4 << 30;
/// Requests whose logs and traces are kept, unless the table says something else.
const REQUESTS: usize = 1024;
/// The most that it can say.
const REQUESTS_MAX: usize = 65536;
/// Shortest token: one that cannot be guessed.
const TOKEN_MIN: usize = 16;

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Its position in the configuration.
    pub location: Location,
    /// The folder where its changes are kept.
    pub state: PathBuf,
    /// What clients have to know.
    pub token: Option<SecretBytes>,
    /// Who clients have to be.
    pub tls: Option<ApiTls>,
    /// Most bytes of an image that is uploaded.
    pub upload: u64,
    /// Requests whose logs and traces are kept.
    pub requests: usize,
}

/// TLS of the listener `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTls {
    /// What hv shows.
    pub certificate: CertificateConfig,
    /// The file of the certificates that vouch for clients, in PEM format.
    pub clients: PathBuf,
}

impl Validator<'_> {
    /// The table `[api]`.
    pub(super) fn api(
        &self,
        file: &File,
        reads: &mut Vec<PathBuf>,
    ) -> Result<Option<ApiConfig>, ConfigError> {
        let Some(section) = &file.api else { return Ok(None) };
        let ApiSection { state, token, chain, key, clients, upload, requests } = section.get_ref();
        let conflict = |with, remedy| self.fail(section, Problem::Conflict { key: "api", with, remedy });
        if file.admin.is_none() {
            return Err(conflict("a server without `admin`", "add admin = \"127.0.0.1:9090\", say"));
        }
        let Some(state) = state else {
            let remedy = "add state = \"state\", and make that folder: what the API changes is kept there";
            return Err(conflict("no `state`", remedy));
        };
        let folder = self.beside(state.get_ref());
        if !folder.is_dir() {
            let why = "no such folder; make it, and let hv's user read and write it";
            return Err(self.fail(state, value("state", format!("\"{}\"", escape(&folder)), why)));
        }
        let tls = match (chain, key, clients) {
            (None, None, None) => None,
            (Some(chain), Some(key), Some(clients)) => {
                let [chain, key, clients] = [chain, key, clients].map(|path| self.beside(path.get_ref()));
                let location = self.location(section.span().start);
                reads.push(clients.clone());
                let certificate = CertificateConfig { location, chain, key, names: Vec::new() };
                reads.extend([certificate.chain.clone(), certificate.key.clone()]);
                Some(ApiTls { certificate, clients })
            }
            _ => {
                let remedy = "name all three of chain, key (those of hv) and clients (who vouches for clients), or none";
                return Err(conflict("a part of TLS", remedy));
            }
        };
        if token.is_none() && tls.is_none() {
            let remedy = "add token = \"file:api.token\", or chain, key and clients for TLS on both sides";
            return Err(conflict("neither `token` nor `clients`", remedy));
        }
        Ok(Some(ApiConfig {
            location: self.location(section.span().start),
            state: folder,
            token: token.as_ref().map(|from| self.token(from, reads)).transpose()?,
            tls,
            upload: self.upload(upload)?,
            requests: self.kept_requests(requests)?,
        }))
    }

    /// A token that fits into a header, and is long enough.
    fn token(&self, from: &Spanned<String>, reads: &mut Vec<PathBuf>) -> Result<SecretBytes, ConfigError> {
        let token = self.secret("token", from, reads)?;
        let bytes = token.reveal();
        if bytes.len() < TOKEN_MIN || !bytes.iter().all(u8::is_ascii_graphic) {
            let why = format!(
                "a token has at least {TOKEN_MIN} characters, and no spaces or line ends in it; make one: openssl rand -hex 32"
            );
            return Err(self.fail(from, value("token", "…", why)));
        }
        Ok(token)
    }

    fn upload(&self, text: &Option<Spanned<super::file::Scalar>>) -> Result<u64, ConfigError> {
        let bytes = self.size("upload", text)?.unwrap_or(UPLOAD);
        match text {
            Some(at) if bytes == 0 || bytes > UPLOAD_MAX => {
                let written = format!("\"{}\"", at.get_ref().0);
                Err(self.fail(at, value("upload", written, "use 1 byte to 4G, as in 64M")))
            }
            _ => Ok(bytes),
        }
    }

    fn kept_requests(&self, count: &Option<Spanned<u32>>) -> Result<usize, ConfigError> {
        let kept = count.as_ref().map_or(REQUESTS, |count| *count.get_ref() as usize);
        match count {
            Some(at) if kept > REQUESTS_MAX => Err(self.fail(
                at,
                value("requests", kept, format!("use at most {REQUESTS_MAX}: they are kept in memory")),
            )),
            _ => Ok(kept),
        }
    }
}
