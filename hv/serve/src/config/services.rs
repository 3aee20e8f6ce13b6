//! What functions reach: tables of stores and blobs, and the keys of functions that name them.

use super::error::nearest;
use super::file::{BindingSection, File, FunctionSection};
use super::validate::{Validator, value};
use super::*;
use http::Uri;
use hv_host::escape::escape;
use hv_services::{
    BlobPlace, BlobSpec, Limits, NetLimits, NetSpec, RedisSpec, Rule, SecretBytes, Spec, StorePlace,
    StoreSpec,
};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use toml::Spanned;

/// Most bytes of a value of a store, unless the table says something else.
const VALUE: u64 = 1 << 20;
/// The most that it can say: a value passes through memory as a whole.
const VALUE_MAX: u64 = 64 << 20;
/// Most bytes of a blob, unless the table says something else.
const BLOB: u64 = 1 << 30;
/// Most bytes of a secret.
const SECRET_MAX: u64 = 64 << 10;
/// Most secrets of a function.
const SECRETS_MAX: usize = 64;
/// Longest name of a binding or a secret.
const NAME_MAX: usize = 64;

/// The variable in which systemd says where a service's credentials are.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The bindings of a file, by their names.
#[derive(Default)]
pub(super) struct BindingSpecs {
    stores: BTreeMap<String, Arc<StoreSpec>>,
    blobs: BTreeMap<String, Arc<BlobSpec>>,
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
            let limits = self.limits(section, VALUE)?;
            if limits.value > VALUE_MAX {
                let at = section.value.as_ref().map_or(name.span(), Spanned::span);
                let problem = value("value", limits.value, "a value has at most 64M; larger ones are blobs");
                return Err(ConfigError { location: self.location(at.start), problem });
            }
            let place = match self.place(name, section, "redis://127.0.0.1:6379")? {
                Place::Folder(folder) => StorePlace::Folder(folder),
                Place::Url(url) => StorePlace::Redis(self.redis(section, url, reads)?),
            };
            let name = name.get_ref().clone();
            specs.stores.insert(name.clone(), Arc::new(StoreSpec { name, place, limits }));
        }
        for (name, section) in &file.blob {
            self.check_name("blob", name)?;
            let limits = self.limits(section, BLOB)?;
            if let Some(url) = &section.url {
                let problem = Problem::Conflict {
                    key: "url",
                    with: "blobs",
                    remedy: "give the folder that they are in: folder = \"data\"",
                };
                return Err(self.fail(url, problem));
            }
            let Place::Folder(folder) = self.place(name, section, "")? else {
                unreachable!("it has no `url`")
            };
            let place = BlobPlace::Folder(folder);
            let name = name.get_ref().clone();
            specs.blobs.insert(name.clone(), Arc::new(BlobSpec { name, place, limits }));
        }
        Ok(specs)
    }

    fn check_name(&self, key: &'static str, name: &Spanned<String>) -> Result<(), ConfigError> {
        let named = name.get_ref();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if named.is_empty() || named.len() > NAME_MAX || !named.bytes().all(plain) {
            let why = format!("use 1 to {NAME_MAX} letters, digits, dots, underscores and dashes");
            return Err(self.fail(name, value(key, format!("\"{named}\""), why)));
        }
        Ok(())
    }

    /// Where a binding is: a folder that is there, or something with a URL.
    fn place<'s>(
        &self,
        name: &Spanned<String>,
        section: &'s BindingSection,
        example: &'static str,
    ) -> Result<Place<'s>, ConfigError> {
        match (&section.folder, &section.url) {
            (Some(folder), None) => {
                let path = self.beside(folder.get_ref());
                if !path.is_dir() {
                    let written = format!("\"{}\"", escape(&path));
                    let why = "no such folder; make it, and let hv's user read and write it";
                    return Err(self.fail(folder, value("folder", written, why)));
                }
                Ok(Place::Folder(path))
            }
            (None, Some(url)) => {
                if let Some(bytes) = &section.bytes {
                    let problem = Problem::Conflict {
                        key: "bytes",
                        with: "`url`",
                        remedy: "remove it: hv counts the bytes of folders only; limit the service itself",
                    };
                    return Err(self.fail(bytes, problem));
                }
                Ok(Place::Url(url))
            }
            (Some(folder), Some(_)) => {
                let problem =
                    Problem::Conflict { key: "folder", with: "`url`", remedy: "remove one of them" };
                Err(self.fail(folder, problem))
            }
            (None, None) => {
                let or = if example.is_empty() { String::new() } else { format!(" or url = \"{example}\"") };
                let why = format!("add folder = \"data\"{or}");
                Err(self.fail(name, value("binding", format!("\"{}\"", name.get_ref()), why)))
            }
        }
    }

    fn limits(&self, section: &BindingSection, default: u64) -> Result<Limits, ConfigError> {
        Ok(Limits {
            value: self.size("value", &section.value)?.unwrap_or(default),
            operations: self.count("operations", &section.operations)?.map(|count| count as u32),
            bytes: self.size("bytes", &section.bytes)?,
        })
    }

    fn redis(
        &self,
        section: &BindingSection,
        url: &Spanned<String>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<RedisSpec, ConfigError> {
        // Not shown: it may have a password.
        let wrong = |why: &str| self.fail(url, value("url", "…", why));
        let form = "write redis://HOST:PORT or redis://HOST:PORT/DATABASE";
        let uri: Uri = url.get_ref().parse().map_err(|_| wrong(form))?;
        if uri.scheme_str() != Some("redis") || uri.query().is_some() {
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
        let password = section.password.as_ref();
        Ok(RedisSpec {
            host: host.trim_matches(['[', ']']).into(),
            port: uri.port_u16().unwrap_or(6379),
            database,
            user: section.user.as_ref().map(|user| user.get_ref().clone()),
            password: password.map(|from| self.secret("password", from, reads)).transpose()?,
            prefix: section.prefix.as_ref().map_or_else(String::new, |prefix| prefix.get_ref().clone()),
        })
    }

    /// What a function reaches.
    pub(super) fn services(
        &self,
        function: &FunctionSection,
        specs: &BindingSpecs,
        reads: &mut Vec<PathBuf>,
    ) -> Result<Spec, ConfigError> {
        let mut secrets = BTreeMap::new();
        for (key, from) in &function.secrets {
            self.check_name("secrets", key)?;
            if secrets.len() == SECRETS_MAX {
                let why = format!("a function has at most {SECRETS_MAX}");
                return Err(self.fail(key, value("secrets", format!("\"{}\"", key.get_ref()), why)));
            }
            secrets.insert(key.get_ref().clone(), self.secret("secrets", from, reads)?);
        }
        Ok(Spec {
            stores: self.named("store", &function.store, &specs.stores)?,
            blobs: self.named("blob", &function.blob, &specs.blobs)?,
            secrets,
            net: self.net(function)?,
        })
    }

    /// Where a function may connect to.
    fn net(&self, function: &FunctionSection) -> Result<NetSpec, ConfigError> {
        let limits = NetLimits {
            connections: self.count("net_connections", &function.net_connections)?.map(|count| count as u32),
            bytes: self.size("net_bytes", &function.net_bytes)?,
            rate: self.size("net_rate", &function.net_rate)?,
        };
        let Some(list) = &function.net else {
            let limit = [
                ("net_connections", function.net_connections.as_ref().map(Spanned::span)),
                ("net_bytes", function.net_bytes.as_ref().map(Spanned::span)),
                ("net_rate", function.net_rate.as_ref().map(Spanned::span)),
            ];
            if let Some((key, span)) = limit.into_iter().find_map(|(key, span)| Some((key, span?))) {
                let remedy = "remove it, or say what may be connected to: net = \"tcp:example.org:443\"";
                let problem = Problem::Conflict { key, with: "a function without `net`", remedy };
                return Err(ConfigError { location: self.location(span.start), problem });
            }
            return Ok(NetSpec::default());
        };
        let rule = |text: &String| {
            let rule = text.parse::<Rule>();
            rule.map_err(|error| self.fail(list, value("net", format!("\"{text}\""), error.to_string())))
        };
        Ok(NetSpec { rules: list.get_ref().0.iter().map(rule).collect::<Result<_, _>>()?, limits })
    }

    /// The bindings that a function names.
    fn named<S>(
        &self,
        key: &'static str,
        names: &Option<Spanned<super::file::Strings>>,
        all: &BTreeMap<String, Arc<S>>,
    ) -> Result<Vec<Arc<S>>, ConfigError> {
        let Some(names) = names else { return Ok(Vec::new()) };
        let mut found: BTreeMap<&String, Arc<S>> = BTreeMap::new();
        for name in &names.get_ref().0 {
            let Some(spec) = all.get(name) else {
                let known: Vec<String> = all.keys().cloned().collect();
                let why = match nearest(name, &known) {
                    Some(nearest) => format!("there is no table [{key}.{name}]; did you mean \"{nearest}\"?"),
                    None => format!("there is no table [{key}.{name}]; add one"),
                };
                return Err(self.fail(names, value(key, format!("\"{name}\""), why)));
            };
            found.insert(name, spec.clone());
        }
        Ok(found.into_values().collect())
    }

    /// Reads a secret. What stands there is never shown: somebody may have written the secret itself.
    fn secret(
        &self,
        key: &'static str,
        from: &Spanned<String>,
        reads: &mut Vec<PathBuf>,
    ) -> Result<SecretBytes, ConfigError> {
        let wrong = |shown: String, why: String| self.fail(from, value(key, shown, why));
        let path = match from.get_ref().split_once(':') {
            Some(("file", path)) if !path.is_empty() => self.beside(path),
            Some(("credential", name)) => {
                let shown = || format!("\"credential:{}\"", escape(name));
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(wrong(shown(), "a credential has a name without slashes".into()));
                }
                let Some(folder) = std::env::var_os(CREDENTIALS) else {
                    let why = format!(
                        "{CREDENTIALS} is not set: systemd sets it for services with LoadCredential="
                    );
                    return Err(wrong(shown(), why));
                };
                PathBuf::from(folder).join(name)
            }
            _ => {
                return Err(wrong(
                    "…".into(),
                    "write \"file:PATH\" or \"credential:NAME\", not the secret itself".into(),
                ));
            }
        };
        let shown = format!("\"{}\"", escape(&path));
        let mut bytes = Vec::new();
        let read =
            std::fs::File::open(&path).and_then(|file| file.take(SECRET_MAX + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(wrong(shown, format!("{error}; let hv's user read it")));
        }
        // The line end that editors put there is not meant.
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if bytes.len() as u64 > SECRET_MAX {
            return Err(wrong(shown, "a secret has at most 64K".into()));
        }
        reads.push(path);
        Ok(SecretBytes::new(bytes))
    }
}

enum Place<'s> {
    Folder(PathBuf),
    Url(&'s Spanned<String>),
}
