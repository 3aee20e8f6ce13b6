//! The mount table: several file systems as one tree.
#![forbid(unsafe_code)]

use super::file::Source;
use super::tree::{Answer, Tree, components};
use super::{Entry, Error, FileSystem, Metadata, OpenOptions, Watch};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// File systems at places in one tree, as Unix has them. Made a [`FileSystem`] by `into`.
///
/// ```ignore
/// let root = fs::memory(1 << 20);
/// root.create_dir("data")?;
/// let files: FileSystem = Mounts::new(root).mount("/data", fs::open_labelled("DATA")?)?.into();
/// ```
pub struct Mounts {
    root: FileSystem,
    /// The last one covers those before.
    mounts: Vec<Mount>,
}

struct Mount {
    at: Vec<String>,
    files: FileSystem,
}

/// Which file system a path is in, and where.
struct Place<'a> {
    files: &'a FileSystem,
    /// Counted from 1; the root is 0.
    number: usize,
    path: String,
}

impl Mounts {
    /// A table with this root.
    pub fn new(root: FileSystem) -> Self {
        Mounts { root, mounts: Vec::new() }
    }

    /// Puts the root of a file system in the place of a folder, which is there.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] or [`Error::NotAFolder`] if there is no such folder, and what reading it gives.
    pub fn mount(mut self, path: &str, files: FileSystem) -> Result<Self, Error> {
        if !self.metadata(path)?.is_dir {
            return Err(Error::NotAFolder);
        }
        let at = components(path)?.map(ToString::to_string).collect();
        self.mounts.push(Mount { at, files });
        Ok(self)
    }

    fn place(&self, path: &str) -> Result<Place<'_>, Error> {
        let parts: Vec<&str> = components(path)?.collect();
        let mounts = self.mounts.iter().enumerate().rev();
        let covers = |mount: &Mount| {
            mount.at.len() <= parts.len() && mount.at.iter().zip(&parts).all(|(at, part)| at == part)
        };
        // The deepest one; of two at one place the last one.
        let found =
            mounts.filter(|(_, mount)| covers(mount)).fold(None, |best: Option<(usize, &Mount)>, mount| {
                match best {
                    Some(best) if best.1.at.len() >= mount.1.at.len() => Some(best),
                    _ => Some(mount),
                }
            });
        let (files, number, skip) = match found {
            Some((index, mount)) => (&mount.files, index + 1, mount.at.len()),
            None => (&self.root, 0, 0),
        };
        Ok(Place { files, number, path: parts[skip..].join("/") })
    }

    /// What is mounted in a folder has its own metadata.
    fn describe_mounts(&self, path: &str, entries: &mut [Entry]) -> Result<(), Error> {
        let parts: Vec<&str> = components(path)?.collect();
        for entry in entries {
            let is_here = |mount: &Mount| {
                mount.at.split_last().is_some_and(|(name, folder)| *name == entry.name && *folder == *parts)
            };
            if let Some(mount) = self.mounts.iter().rev().find(|mount| is_here(mount)) {
                entry.metadata = mount.files.metadata("")?;
            }
        }
        Ok(())
    }

    /// As `place`, for what is to be removed or renamed: [`Error::Busy`] for a place of a mount and what is above one.
    fn changeable(&self, path: &str) -> Result<Place<'_>, Error> {
        let parts: Vec<&str> = components(path)?.collect();
        let is_above = |mount: &Mount| {
            mount.at.len() >= parts.len() && parts.iter().zip(&mount.at).all(|(part, at)| part == at)
        };
        if self.mounts.iter().any(is_above) {
            return Err(Error::Busy);
        }
        self.place(path)
    }
}

impl From<Mounts> for FileSystem {
    fn from(mounts: Mounts) -> Self {
        FileSystem(Rc::new(mounts))
    }
}

impl Tree for Mounts {
    fn kind(&self) -> &'static str {
        "mounts"
    }

    fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        let place = self.place(path)?;
        place.files.metadata(&place.path)
    }

    fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        let place = self.place(path)?;
        let mut entries = place.files.read_dir(&place.path)?;
        self.describe_mounts(path, &mut entries)?;
        Ok(entries)
    }

    fn open(&self, path: &str, options: OpenOptions) -> Result<Source, Error> {
        let place = self.place(path)?;
        place.files.0.open(&place.path, options)
    }

    fn create_dir(&self, path: &str) -> Result<(), Error> {
        let place = self.place(path)?;
        match place.path.is_empty() {
            true => Err(Error::Exists),
            false => place.files.create_dir(&place.path),
        }
    }

    fn remove_file(&self, path: &str) -> Result<(), Error> {
        let place = self.changeable(path)?;
        place.files.remove_file(&place.path)
    }

    fn remove_dir(&self, path: &str) -> Result<(), Error> {
        let place = self.changeable(path)?;
        place.files.remove_dir(&place.path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (old, new) = (self.changeable(from)?, self.changeable(to)?);
        match old.number == new.number {
            true => old.files.rename(&old.path, &new.path),
            false => Err(Error::CrossesFileSystems),
        }
    }

    fn metadata_async<'a>(&'a self, path: &'a str) -> Answer<'a, Metadata> {
        Box::pin(async {
            let place = self.place(path)?;
            place.files.0.metadata_async(&place.path).await
        })
    }

    fn open_async<'a>(&'a self, path: &'a str, options: OpenOptions) -> Answer<'a, Source> {
        Box::pin(async move {
            let place = self.place(path)?;
            place.files.0.open_async(&place.path, options).await
        })
    }

    fn read_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, Vec<Entry>> {
        Box::pin(async {
            let place = self.place(path)?;
            let mut entries = place.files.0.read_dir_async(&place.path).await?;
            self.describe_mounts(path, &mut entries)?;
            Ok(entries)
        })
    }

    fn create_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(async {
            let place = self.place(path)?;
            match place.path.is_empty() {
                true => Err(Error::Exists),
                false => place.files.0.create_dir_async(&place.path).await,
            }
        })
    }

    fn remove_file_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(async {
            let place = self.changeable(path)?;
            place.files.0.remove_file_async(&place.path).await
        })
    }

    fn remove_dir_async<'a>(&'a self, path: &'a str) -> Answer<'a, ()> {
        Box::pin(async {
            let place = self.changeable(path)?;
            place.files.0.remove_dir_async(&place.path).await
        })
    }

    fn rename_async<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()> {
        Box::pin(async {
            let (old, new) = (self.changeable(from)?, self.changeable(to)?);
            match old.number == new.number {
                true => old.files.0.rename_async(&old.path, &new.path).await,
                false => Err(Error::CrossesFileSystems),
            }
        })
    }

    fn watch(&self, path: &str) -> Result<Watch, Error> {
        let place = self.place(path)?;
        place.files.watch(&place.path)
    }

    fn sync(&self) -> Result<(), Error> {
        self.root.sync()?;
        self.mounts.iter().try_for_each(|mount| mount.files.sync())
    }
}
