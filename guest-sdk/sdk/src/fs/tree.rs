//! What each file system has to offer.
#![forbid(unsafe_code)]

use super::file::Source;
use super::{Entry, Error, Metadata, OpenOptions, Watch};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::{Future, ready};
use core::pin::Pin;

/// An operation that lets other tasks run while it waits.
pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + 'a>>;

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

    // The same, without keeping other tasks from running. What has no way to do that blocks.

    fn metadata_async<'a>(&'a self, path: &'a str) -> Answer<'a, Metadata> {
        Box::pin(ready(self.metadata(path)))
    }

    fn read_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Entry>> {
        Box::pin(ready(self.read_dir(path)))
    }

    fn open_async<'a>(&'a self, path: &'a str, options: OpenOptions) -> Answer<'a, Source> {
        Box::pin(ready(self.open(path, options)))
    }

    fn create_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(ready(self.create_dir(path)))
    }

    fn remove_file_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(ready(self.remove_file(path)))
    }

    fn remove_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(ready(self.remove_dir(path)))
    }

    fn rename_async<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        Box::pin(ready(self.rename(from, to)))
    }

    fn watch(&self, _path: &str) -> Result<Watch, Error> {
        Err(Error::Unsupported)
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

/// The folders on the way to a [relative](self::relative) path, and that path itself.
pub(super) fn above(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(move |end| &path[..end]).filter(|folder| !folder.is_empty())
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
