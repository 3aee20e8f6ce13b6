//! The tables of stores and blobs: where they are, and what may be done with them.

use super::file::{BlobSection, File, Scalar, StoreSection};
use super::services_tls::TlsKeys;
use super::validate::{Validator, value};
use super::*;
use http::Uri;
use hv_host::escape::escape;
use hv_services::{
    Addressing, BlobPlace, BlobSpec, Limits, RedisSpec, S3Problem, S3Spec, StorePlace, StoreSpec,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;

/// Most bytes of a value of a store, unless the table says something else.
const VALUE: u64 = 1 << 20;
/// The most that it can say: a value passes through memory as a whole.
const VALUE_MAX: u64 = 64 << 20;
/// Most bytes of a blob, unless the table says something else.
const BLOB: u64 = 1 << 30;
/// The most that services of the S3 kind take as one object in one upload.
const OBJECT_MAX: u64 = 5 << 30;
/// Longest name of a binding or a secret.
const NAME_MAX: usize = 64;

/// The bindings of a file, by their names.
#[derive(Default)]
pub(super) struct BindingSpecs {
    pub(super) stores: BTreeMap<String, Arc<StoreSpec>>,
    pub(super) blobs: BTreeMap<String, Arc<BlobSpec>>,
}

/// Where a binding is, as it is written.
enum Place<'s> {
    Folder(PathBuf),
    Url(&'s Spanned<String>),
}

/// A key, and where it stands if it does.
type Key = (&'static str, Option<Range<usize>>);

pub(super) fn span<T>(of: &Option<Spanned<T>>) -> Option<Range<usize>> {
    of.as_ref().map(Spanned::span)
}

fn text(of: &Option<Spanned<String>>) -> Option<String> {
    of.as_ref().map(|text| text.get_ref().clone())
}

impl Validator<'_> {
    /// All stores and blobs.
    pub(super) fn bindings(
        &self,
        file: &File,
        reads: &mut Vec<PathBuf>,
    ) -> Result<BindingSpecs, ConfigError> {
        let mut specs = BindingSpecs::default();
        for (name, section) in &file.store {
            self.check_name("store", name)?;
            let limits = self.limits(&section.value, &section.operations, &section.bytes, VALUE)?;
            if limits.value > VALUE_MAX {
                let why = "a value has at most 64M; larger ones are blobs";
                return Err(self.at(span(&section.value), value("value", limits.value, why)));
            }
            let place = self.store_place(name, section, reads)?;
            let name = name.get_ref().clone();
            specs.stores.insert(name.clone(), Arc::new(StoreSpec { name, place, limits }));
        }
        for (name, section) in &file.blob {
            self.check_name("blob", name)?;
            let limits = self.limits(&section.value, &section.operations, &section.bytes, BLOB)?;
            let place = self.blob_place(name, section, reads)?;
            if matches!(place, BlobPlace::S3(_)) && limits.value > OBJECT_MAX {
                let why = "a service of the S3 kind takes at most 5G at once";
                return Err(self.at(span(&section.value), value("value", limits.value, why)));
            }
            let name = name.get_ref().clone();
            specs.blobs.insert(name.clone(), Arc::new(BlobSpec { name, place, limits }));
        }
        Ok(specs)
    }

    /// What is wrong with a key that stands somewhere.
    pub(super) fn at(&self, span: Option<Range<usize>>, problem: Problem) -> ConfigError {
        let location = span.map_or(Location::File(self.path.into()), |span| self.location(span.start));
        ConfigError { location, problem }
    }

    pub(super) fn check_name(&self, key: &'static str, name: &Spanned<String>) -> Result<(), ConfigError> {
        let named = name.get_ref();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if named.is_empty() || named.len() > NAME_MAX || !named.bytes().all(plain) {
            let why = format!("use 1 to {NAME_MAX} letters, digits, dots, underscores and dashes");
            return Err(self.fail(name, value(key, format!("\"{named}\""), why)));
        }
        Ok(())
    }

    /// Where a binding is: a folder that is there, or something with a URL. Some keys are for URLs only.
    fn place<'s>(
        &self,
        name: &Spanned<String>,
        (folder, url): (&Option<Spanned<String>>, &'s Option<Spanned<String>>),
        bytes: &Option<Spanned<Scalar>>,
        of_urls: &[Key],
        example: &'static str,
    ) -> Result<Place<'s>, ConfigError> {
        match (folder, url) {
            (Some(folder), None) => {
                if let Some((key, at)) = of_urls.iter().find(|(_, at)| at.is_some()) {
                    let remedy = "remove it, or name a service by `url` instead of `folder`";
                    return Err(self.at(at.clone(), Problem::Conflict { key, with: "`folder`", remedy }));
                }
                let path = self.beside(folder.get_ref());
                if !path.is_dir() {
                    let written = format!("\"{}\"", escape(&path));
                    let why = "no such folder; make it, and let hv's user read and write it";
                    return Err(self.fail(folder, value("folder", written, why)));
                }
                Ok(Place::Folder(path))
            }
            (None, Some(url)) => match bytes {
                None => Ok(Place::Url(url)),
                Some(bytes) => {
                    let remedy = "remove it: hv counts the bytes of folders only; limit the service itself";
                    Err(self.fail(bytes, Problem::Conflict { key: "bytes", with: "`url`", remedy }))
                }
            },
            (Some(folder), Some(_)) => {
                let remedy = "remove one of them";
                Err(self.fail(folder, Problem::Conflict { key: "folder", with: "`url`", remedy }))
            }
            (None, None) => {
                let why = format!("add folder = \"data\" or url = \"{example}\"");
                Err(self.fail(name, value("binding", format!("\"{}\"", name.get_ref()), why)))
            }
        }
    }

    fn limits(
        &self,
        most: &Option<Spanned<Scalar>>,
        operations: &Option<Spanned<u32>>,
        bytes: &Option<Spanned<Scalar>>,
        default: u64,
    ) -> Result<Limits, ConfigError> {
        Ok(Limits {
            value: self.size("value", most)?.unwrap_or(default),
            operations: self.count("operations", operations)?.map(|count| count as u32),
            bytes: self.size("bytes", bytes)?,
        })
    }

    fn store_place(
        &self,
        name: &Spanned<String>,
        section: &StoreSection,
        reads: &mut Vec<PathBuf>,
    ) -> Result<StorePlace, ConfigError> {
        let StoreSection { user, password, prefix, ca, chain, key, .. } = section;
        let of_urls = [
            ("user", span(user)),
            ("password", span(password)),
            ("prefix", span(prefix)),
            ("ca", span(ca)),
            ("chain", span(chain)),
            ("key", span(key)),
        ];
        let example = "redis://127.0.0.1:6379";
        let url =
            match self.place(name, (&section.folder, &section.url), &section.bytes, &of_urls, example)? {
                Place::Folder(folder) => return Ok(StorePlace::Folder(folder)),
                Place::Url(url) => url,
            };
        // Not shown: it may have a password.
        let wrong = |why: &str| self.fail(url, value("url", "…", why));
        let form = "write redis://HOST:PORT or redis://HOST:PORT/DATABASE, with TLS rediss://…";
        let uri: Uri = url.get_ref().parse().map_err(|_| wrong(form))?;
        let is_secure = match uri.scheme_str() {
            Some("redis") => false,
            Some("rediss") => true,
            _ => return Err(wrong(form)),
        };
        if uri.query().is_some() {
            return Err(wrong(form));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong(
                "keep the password out of it: user = \"…\" and password = \"file:…\" or \"credential:…\"",
            ));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong(form))?;
        let database = match uri.path().trim_matches('/') {
            "" => 0,
            number => number.parse::<u16>().map_err(|_| wrong(form))?.into(),
        };
        Ok(StorePlace::Redis(RedisSpec {
            host: host.trim_matches(['[', ']']).into(),
            port: uri.port_u16().unwrap_or(6379),
            database,
            user: text(user),
            password: password.as_ref().map(|from| self.secret("password", from, reads)).transpose()?,
            prefix: text(prefix).unwrap_or_default(),
            tls: self.service_tls(url, is_secure, TlsKeys { ca, chain, key }, reads)?,
        }))
    }

    fn blob_place(
        &self,
        name: &Spanned<String>,
        section: &BlobSection,
        reads: &mut Vec<PathBuf>,
    ) -> Result<BlobPlace, ConfigError> {
        let BlobSection { bucket, region, addressing, access_key, secret_key, session_token, .. } = section;
        let BlobSection { prefix, ca, chain, key, .. } = section;
        let of_urls = [
            ("bucket", span(bucket)),
            ("region", span(region)),
            ("addressing", span(addressing)),
            ("access_key", span(access_key)),
            ("secret_key", span(secret_key)),
            ("session_token", span(session_token)),
            ("prefix", span(prefix)),
            ("ca", span(ca)),
            ("chain", span(chain)),
            ("key", span(key)),
        ];
        let example = "https://s3.eu-central-1.amazonaws.com";
        let url =
            match self.place(name, (&section.folder, &section.url), &section.bytes, &of_urls, example)? {
                Place::Folder(folder) => return Ok(BlobPlace::Folder(folder)),
                Place::Url(url) => url,
            };
        let lacks = |why| self.fail(url, value("url", "…", why));
        let bucket = bucket.as_ref().ok_or_else(|| lacks("name its bucket: bucket = \"NAME\""))?;
        let addressing = match addressing {
            None => (Addressing::Path, bucket),
            Some(written) => match written.get_ref().as_str() {
                "path" => (Addressing::Path, written),
                "virtual-host" => (Addressing::VirtualHost, written),
                other => {
                    let why = "write \"path\" (the default) or \"virtual-host\"";
                    return Err(self.fail(written, value("addressing", format!("\"{other}\""), why)));
                }
            },
        };
        let named = region.as_ref().map_or("us-east-1", |region| region.get_ref());
        let found = S3Spec::bucket(url.get_ref(), bucket.get_ref(), addressing.0, named);
        let found = found.map_err(|problem| match problem {
            // Not shown: it may have a password.
            S3Problem::Url => self.fail(url, value("url", "…", problem.to_string())),
            S3Problem::Bucket => {
                self.fail(bucket, value("bucket", format!("\"{}\"", bucket.get_ref()), problem.to_string()))
            }
            S3Problem::Region => {
                self.at(span(region), value("region", format!("\"{named}\""), problem.to_string()))
            }
            S3Problem::Host => {
                let written = format!("\"{}\"", addressing.1.get_ref());
                self.fail(addressing.1, value("addressing", written, problem.to_string()))
            }
        })?;
        if let Some(prefix) = prefix
            && prefix.get_ref().split('/').any(|part| matches!(part, "." | ".."))
        {
            let why = "no part of it between slashes is . or ..";
            return Err(self.fail(prefix, value("prefix", format!("\"{}\"", prefix.get_ref()), why)));
        }
        let (Some(access_key), Some(secret_key)) = (access_key, secret_key) else {
            return Err(lacks(
                "say who hv is there: access_key = \"file:PATH\" and secret_key = \"file:PATH\"",
            ));
        };
        let is_secure = found.base_url().scheme() == "https";
        Ok(BlobPlace::S3(Box::new(S3Spec {
            bucket: found,
            access_key: self.secret("access_key", access_key, reads)?,
            secret_key: self.secret("secret_key", secret_key, reads)?,
            session_token: session_token
                .as_ref()
                .map(|from| self.secret("session_token", from, reads))
                .transpose()?,
            prefix: text(prefix).unwrap_or_default(),
            tls: self.service_tls(url, is_secure, TlsKeys { ca, chain, key }, reads)?,
        })))
    }
}
