//! The keys of TLS, validated.

use super::file::{CertificateSection, File};
use super::validate::{Validator, value};
use super::*;
use toml::Spanned;

impl Validator<'_> {
    /// The certificates, and the addresses that need them.
    pub(super) fn tls(&self, file: &File) -> Result<(Vec<SocketAddr>, Vec<CertificateConfig>), ConfigError> {
        let listen = match &file.listen_tls {
            None => Vec::new(),
            Some(list) => {
                let addresses = list.get_ref().0.iter().map(|text| self.address("listen_tls", text));
                addresses.collect::<Result<_, _>>().map_err(|problem| self.fail(list, problem))?
            }
        };
        let certificates = file
            .certificate
            .iter()
            .map(|section| self.certificate(section))
            .collect::<Result<Vec<_>, _>>()?;
        match (&file.listen_tls, file.certificate.first()) {
            (Some(list), None) => Err(self.fail(list, Problem::NoCertificates)),
            (None, Some(section)) => Err(self.fail(
                section,
                Problem::Conflict {
                    key: "certificate",
                    with: "a server without TLS",
                    remedy: "add listen_tls = \"0.0.0.0:8443\", say, or remove it",
                },
            )),
            _ => Ok((listen, certificates)),
        }
    }

    fn certificate(&self, section: &Spanned<CertificateSection>) -> Result<CertificateConfig, ConfigError> {
        let CertificateSection { chain, key, names } = section.get_ref();
        let file = |key, text: &Option<Spanned<String>>| match text {
            Some(text) => Ok(self.beside(text.get_ref())),
            None => Err(self.fail(section, Problem::CertificateLacks { key })),
        };
        let names = names.as_ref().map_or(&[][..], |names| &names.get_ref().0);
        if let Some(bad) = names.iter().find(|name| !is_name(name)) {
            let why = "write the name of a host, as in example.org or *.example.org";
            return Err(self.fail(section, value("names", format!("\"{bad}\""), why)));
        }
        Ok(CertificateConfig {
            location: self.location(section.span().start),
            chain: file("chain", chain)?,
            key: file("key", key)?,
            names: names.to_vec(),
        })
    }
}

/// Whether it is the name of a host, of which the first part may be `*`.
fn is_name(name: &str) -> bool {
    let labels = name.strip_prefix("*.").unwrap_or(name).split('.');
    name.len() <= 253
        && labels.into_iter().all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}
