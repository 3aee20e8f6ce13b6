//! The operations of a file system that let other tasks run.
#![forbid(unsafe_code)]

use super::{Entry, Error, File, FileSystem, Metadata, OpenOptions, Watch, tree};
use alloc::vec;
use alloc::vec::Vec;

/// A [`FileSystem`] whose operations are async. Those of shares let other tasks run while the host works. Disks have their data alone so; what
/// is looked up or changed there blocks, as with [`FileSystem`].
///
/// ```ignore
/// let files = fs::open_share(share).into_async();
/// let mut file = files.open("/docs/index.html").await?;
/// ```
#[derive(Clone)]
pub struct AsyncFileSystem(FileSystem);

impl AsyncFileSystem {
    pub(super) fn new(files: FileSystem) -> Self {
        AsyncFileSystem(files)
    }

    /// The same file system, with operations that block.
    pub fn blocking(&self) -> &FileSystem {
        &self.0
    }

    /// See [`FileSystem::metadata`].
    ///
    /// # Errors
    ///
    /// Those of the other one, as for all methods here.
    pub async fn metadata(&self, path: &str) -> Result<Metadata, Error> {
        self.0.0.metadata_async(path).await
    }

    /// See [`FileSystem::read_dir`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn read_dir(&self, path: &str) -> Result<Vec<Entry>, Error> {
        self.0.0.read_dir_async(path).await
    }

    /// See [`FileSystem::open`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn open(&self, path: &str) -> Result<File, Error> {
        self.open_with(path, OpenOptions::new().read(true)).await
    }

    /// See [`FileSystem::create`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn create(&self, path: &str) -> Result<File, Error> {
        self.open_with(path, OpenOptions::new().write(true).create(true).truncate(true)).await
    }

    /// See [`FileSystem::open_with`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn open_with(&self, path: &str, options: OpenOptions) -> Result<File, Error> {
        Ok(File::new(self.0.0.open_async(path, options.check()?).await?, options))
    }

    /// See [`FileSystem::read`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut file = self.open(path).await?;
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes).await?;
        Ok(bytes)
    }

    /// See [`FileSystem::write`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        self.create(path).await?.write_all(bytes).await
    }

    /// See [`FileSystem::create_dir`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn create_dir(&self, path: &str) -> Result<(), Error> {
        self.0.0.create_dir_async(path).await
    }

    /// See [`FileSystem::create_dir_all`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn create_dir_all(&self, path: &str) -> Result<(), Error> {
        let path = tree::relative(path)?;
        for folder in tree::above(&path) {
            match self.create_dir(folder).await {
                Err(_) if self.metadata(folder).await.is_ok_and(|found| found.is_dir) => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// See [`FileSystem::remove_file`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn remove_file(&self, path: &str) -> Result<(), Error> {
        self.0.0.remove_file_async(path).await
    }

    /// See [`FileSystem::remove_dir`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn remove_dir(&self, path: &str) -> Result<(), Error> {
        self.0.0.remove_dir_async(path).await
    }

    /// See [`FileSystem::rename`].
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.0.0.rename_async(from, to).await
    }

    /// See [`FileSystem::watch`]. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// Those of the other one.
    pub fn watch(&self, path: &str) -> Result<Watch, Error> {
        self.0.watch(path)
    }
}
