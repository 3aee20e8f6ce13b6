//! The table of telemetry.

use super::file::{File, TelemetrySection};
use super::services_tls::TlsKeys;
use super::validate::{Validator, value};
use super::*;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Uri};
use hv_services::{SecretBytes, TlsSpec};
use toml::Spanned;

/// How often metrics are told, unless the table says something else.
const INTERVAL: Duration = Duration::from_secs(10);

/// Fields that hv writes itself.
const OWN_FIELDS: [&str; 5] = ["host", "content-type", "content-length", "connection", "transfer-encoding"];

/// Where spans and metrics go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// The collector.
    pub endpoint: Endpoint,
    /// How it is known over TLS; `None`: without TLS.
    pub tls: Option<TlsSpec>,
    /// Header fields for it.
    pub headers: Vec<(HeaderName, SecretBytes)>,
    /// The name of this service there.
    pub service: String,
    /// How often metrics are told.
    pub interval: Duration,
    /// One request of so many is told, where its client has not decided.
    pub sample: u32,
}

/// A collector of OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL as it is written.
    pub text: String,
    /// The name or address of its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is told as `Host`.
    pub authority: HeaderValue,
    /// What stands before `/v1/traces` and `/v1/metrics`.
    pub path: String,
}

impl Validator<'_> {
    /// The table `[telemetry]`.
    pub(super) fn telemetry(
        &self,
        file: &File,
        reads: &mut Vec<PathBuf>,
    ) -> Result<Option<TelemetryConfig>, ConfigError> {
        let Some(section) = &file.telemetry else { return Ok(None) };
        let TelemetrySection { endpoint, headers, ca, chain, key, service, interval, sample } =
            section.get_ref();
        let Some(endpoint) = endpoint else {
            let remedy = "add endpoint = \"http://127.0.0.1:4318\"";
            let problem = Problem::Conflict { key: "telemetry", with: "no `endpoint`", remedy };
            return Err(self.fail(section, problem));
        };
        let header = |(name, from): (&Spanned<String>, &Spanned<String>)| {
            let shown = format!("\"{}\"", name.get_ref());
            let parsed = HeaderName::from_bytes(name.get_ref().as_bytes()).ok();
            let Some(parsed) = parsed.filter(|name| !OWN_FIELDS.contains(&name.as_str())) else {
                let why = "write the name of a header field that hv does not write itself, as authorization";
                return Err(self.fail(name, value("headers", shown, why)));
            };
            let secret = self.secret("headers", from, reads)?;
            if HeaderValue::from_bytes(secret.reveal()).is_err() {
                let why = "what the file has is no value of a header field; write one line";
                return Err(self.fail(from, value("headers", "…", why)));
            }
            Ok((parsed, secret))
        };
        let headers = headers.iter().map(header).collect::<Result<_, _>>()?;
        self.count("sample", sample)?;
        let (at, is_secure) = self.endpoint(endpoint)?;
        Ok(Some(TelemetryConfig {
            endpoint: at,
            tls: self.service_tls(endpoint, is_secure, TlsKeys { ca, chain, key }, reads)?,
            headers,
            service: service.as_ref().map_or_else(|| "hv".into(), |service| service.get_ref().clone()),
            interval: self.time("interval", interval)?.unwrap_or(INTERVAL),
            sample: sample.as_ref().map_or(1, |sample| *sample.get_ref()),
        }))
    }

    /// A collector, and whether it is spoken to over TLS.
    fn endpoint(&self, text: &Spanned<String>) -> Result<(Endpoint, bool), ConfigError> {
        let written = text.get_ref();
        let wrong = |why: &str| self.fail(text, value("endpoint", format!("\"{written}\""), why));
        let form = "write http://HOST:PORT or https://HOST:PORT, as in http://127.0.0.1:4318";
        // Not shown: it may have a password.
        if written.contains('@') {
            let why = "keep secrets out of it: headers = { authorization = \"file:PATH\" }";
            return Err(self.fail(text, value("endpoint", "…", why)));
        }
        let uri: Uri = written.parse().map_err(|_| wrong(form))?;
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        let is_http = is_secure || uri.scheme() == Some(&Scheme::HTTP);
        let (Some(authority), true, None) = (uri.authority(), is_http, uri.query()) else {
            return Err(wrong(form));
        };
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong(form));
        }
        let endpoint = Endpoint {
            text: written.clone(),
            host: host.trim_matches(['[', ']']).into(),
            port: authority.port_u16().unwrap_or(4318),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong(form))?,
            path: uri.path().trim_end_matches('/').into(),
        };
        Ok((endpoint, is_secure))
    }
}
