//! What a function was given, as the configuration says.

use crate::net::NetSpec;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
}

impl Spec {
    /// The folders that it uses.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let stores = self.stores.iter().filter_map(|store| match &store.place {
            StorePlace::Folder(folder) => Some(folder.as_path()),
            StorePlace::Redis(_) => None,
        });
        let blobs = self.blobs.iter().map(|blob| match &blob.place {
            BlobPlace::Folder(folder) => folder.as_path(),
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
    fn secrets_are_not_shown() {
        let secrets = BTreeMap::from([("KEY".to_owned(), SecretBytes::new(b"sesame"))]);
        let spec = Spec { secrets, ..Spec::default() };
        assert!(!format!("{spec:?} {spec:#?}").contains("sesame"));
        assert!(!spec.is_empty() && Spec::default().is_empty());
    }
}
