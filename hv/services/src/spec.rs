//! What a function was given, as the configuration says.

use crate::net::NetSpec;
use crate::tls::TlsSpec;
use rusty_s3::{Bucket, UrlStyle};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// All that a function reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// Its stores.
    pub stores: Vec<Arc<StoreSpec>>,
    /// Its blobs.
    pub blobs: Vec<Arc<BlobSpec>>,
    /// Its secrets.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// Where it may connect to.
    pub net: NetSpec,
    /// What it and the others of its tenant may do together.
    pub tenant: Option<Arc<TenantSpec>>,
}

/// What all functions of a tenant may do together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSpec {
    /// The tenant.
    pub name: String,
    /// Most operations a second on stores and blobs.
    pub operations: Option<u32>,
    /// Most connections at a time.
    pub net_connections: Option<u32>,
    /// Most bytes a second of all connections, both ways.
    pub net_rate: Option<u64>,
}

impl Spec {
    /// The folders that it uses.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let stores = self.stores.iter().filter_map(|store| match &store.place {
            StorePlace::Folder(folder) => Some(folder.as_path()),
            StorePlace::Redis(_) => None,
        });
        let blobs = self.blobs.iter().filter_map(|blob| match &blob.place {
            BlobPlace::Folder(folder) => Some(folder.as_path()),
            BlobPlace::S3(_) => None,
        });
        stores.chain(blobs)
    }

    /// Whether it reaches nothing.
    pub fn is_empty(&self) -> bool {
        *self == Spec::default()
    }
}

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// What functions call it.
    pub name: String,
    /// Where the values are.
    pub place: StorePlace,
    /// What may be done with it.
    pub limits: Limits,
}

/// Where the values of a store are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// In files of a folder.
    Folder(PathBuf),
    /// In a service that speaks the protocol of Redis.
    Redis(RedisSpec),
}

/// A service that speaks the protocol of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSpec {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The number of the database.
    pub database: i64,
    /// Who hv is there.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretBytes>,
    /// What stands before all keys.
    pub prefix: String,
    /// `None`: without TLS.
    pub tls: Option<TlsSpec>,
}

/// Blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobSpec {
    /// What functions call them.
    pub name: String,
    /// Where they are.
    pub place: BlobPlace,
    /// What may be done with them.
    pub limits: Limits,
}

/// Where blobs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobPlace {
    /// In files of a folder.
    Folder(PathBuf),
    /// In a bucket of a service that speaks the protocol of Amazon S3.
    S3(Box<S3Spec>),
}

/// A bucket of a service that speaks the protocol of Amazon S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Spec {
    /// Where it is: of [`S3Spec::bucket`].
    pub bucket: Bucket,
    /// Who hv is there.
    pub access_key: SecretBytes,
    /// What it signs with.
    pub secret_key: SecretBytes,
    /// What belongs to keys that hold for a while only.
    pub session_token: Option<SecretBytes>,
    /// What stands before all keys.
    pub prefix: String,
    /// `None`: without TLS.
    pub tls: Option<TlsSpec>,
}

/// How requests name their bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// By the first part of the path.
    Path,
    /// By the first part of the host's name.
    VirtualHost,
}

/// Why there can be no such bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum S3Problem {
    /// No URL of a service.
    #[error("write http://HOST:PORT or https://HOST:PORT, as in https://s3.eu-central-1.amazonaws.com")]
    Url,
    /// No name of a bucket.
    #[error("the name of a bucket has 3 to 63 letters, digits, dots, dashes and underscores")]
    Bucket,
    /// A bucket that can be no part of a host's name.
    #[error("this bucket cannot be a part of this host's name; remove `addressing`, or write \"path\"")]
    Host,
    /// No region.
    #[error("write the region that the service calls its own, as in eu-central-1")]
    Region,
}

impl S3Spec {
    /// A bucket at an endpoint.
    ///
    /// # Errors
    ///
    /// If there can be none.
    pub fn bucket(
        url: &str,
        bucket: &str,
        addressing: Addressing,
        region: &str,
    ) -> Result<Bucket, S3Problem> {
        let url: Url = url.parse().map_err(|_| S3Problem::Url)?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !is_plain || url.host_str().is_none_or(str::is_empty)
        {
            return Err(S3Problem::Url);
        }
        let plain = |byte: u8, others: &[u8]| byte.is_ascii_alphanumeric() || others.contains(&byte);
        let is_dots = bucket.bytes().all(|byte| byte == b'.');
        if !(3..=63).contains(&bucket.len()) || is_dots || !bucket.bytes().all(|byte| plain(byte, b".-_")) {
            return Err(S3Problem::Bucket);
        }
        if !(1..=64).contains(&region.len()) || !region.bytes().all(|byte| plain(byte, b"-_")) {
            return Err(S3Problem::Region);
        }
        let style = match addressing {
            Addressing::Path => UrlStyle::Path,
            Addressing::VirtualHost => UrlStyle::VirtualHost,
        };
        Bucket::new(url, style, bucket.to_owned(), region.to_owned()).map_err(|_| S3Problem::Host)
    }
}

/// What may be done with a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a value or a blob.
    pub value: u64,
    /// Most operations a second, over all functions. `None`: any number.
    pub operations: Option<u32>,
    /// Most bytes of all values, in a folder. `None`: any number.
    pub bytes: Option<u64>,
}

/// Bytes that are shown to nobody but guests.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Arc<[u8]>);

impl SecretBytes {
    /// Takes the bytes.
    pub fn new(bytes: &[u8]) -> Self {
        SecretBytes(bytes.into())
    }

    /// The bytes.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bucket() {
        let bucket = |url: &str, name: &str, style| S3Spec::bucket(url, name, style, "eu-test-1");
        let url = |text: &str| {
            bucket(text, "pictures", Addressing::Path).map(|bucket| bucket.base_url().to_string())
        };
        assert_eq!(url("https://s3.test").unwrap(), "https://s3.test/pictures/");
        assert_eq!(url("http://[::1]:9000/base").unwrap(), "http://[::1]:9000/base/pictures/");
        for wrong in [
            "s3://b",
            "s3.test",
            "https://",
            "https://u:sesame@s3.test",
            "https://s3.test?a",
            "https://s3.test#a",
        ] {
            assert_eq!(url(wrong), Err(S3Problem::Url), "{wrong}");
        }
        for wrong in ["", "ab", "...", "a/b/c", "a b c", "a%2e"] {
            assert_eq!(bucket("https://s3.test", wrong, Addressing::Path), Err(S3Problem::Bucket), "{wrong}");
        }
        let by_host = |url: &str, name: &str| bucket(url, name, Addressing::VirtualHost);
        let found = by_host("https://s3.test", "pictures").unwrap();
        assert_eq!(found.base_url().as_str(), "https://pictures.s3.test/");
        for (at, name) in [
            ("https://s3.test", "Pictures"),
            ("http://127.0.0.1:9000", "pictures"),
            ("http://[::1]", "pictures"),
        ] {
            assert_eq!(by_host(at, name), Err(S3Problem::Host), "{at} {name}");
        }
        assert_eq!(
            S3Spec::bucket("https://s3.test", "pictures", Addressing::Path, "a/b"),
            Err(S3Problem::Region)
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets = BTreeMap::from([("KEY".to_owned(), SecretBytes::new(b"sesame"))]);
        let spec = Spec { secrets, ..Spec::default() };
        assert!(!format!("{spec:?} {spec:#?}").contains("sesame"));
        assert!(!spec.is_empty() && Spec::default().is_empty());
    }
}
