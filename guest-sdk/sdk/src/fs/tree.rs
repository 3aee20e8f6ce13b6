//! What each file system has to offer.
#![forbid(unsafe_code)]

use super::file::Source;
use super::{Entry, Error, Metadata, OpenOptions};
use alloc::string::String;
use alloc::vec::Vec;

/// A file system, by paths from its root. What changes something has a body that refuses it, for those that are read-only.
pub(super) trait Tree {
    /// See [`FileSystem::kind`](super::FileSystem::kind).
    fn kind(&self) -> &'static str;

    /// See [`FileSystem::label`](super::FileSystem::label).
    fn label(&self) -> Option<String> {
        None
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error>;

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error>;

    /// Opens a file with valid options.
    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error>;

    fn create_dir(&self, _path: &str) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    fn remove_file(&self, _path: &str) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    fn remove_dir(&self, _path: &str) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    fn rename(&self, _from: &str, _to: &str) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The components of a path; [`Error::NotFound`] for one with `..`.
pub(super) fn components(path: &str) -> Result<impl Iterator<Item = &str>, Error> {
    let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
    if parts.clone().any(|part| part == "..") {
        return Err(Error::NotFound);
    }
    Ok(parts)
}

/// The path with single separators and without a leading one: empty for the root.
pub(super) fn relative(path: &str) -> Result<String, Error> {
    let mut relative = String::new();
    for part in components(path)? {
        if !relative.is_empty() {
            relative.push('/');
        }
        relative.push_str(part);
    }
    Ok(relative)
}

/// The folder of a path, and the name in it; [`Error::Invalid`] for the root.
pub(super) fn split(path: &str) -> Result<(String, String), Error> {
    let path = relative(path)?;
    match path.rsplit_once('/') {
        Some((folder, name)) => Ok((folder.into(), name.into())),
        None if path.is_empty() => Err(Error::Invalid),
        None => Ok((String::new(), path)),
    }
}
