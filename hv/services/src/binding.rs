//! The bindings that functions share: each is opened once.

use crate::blob::Blobs;
use crate::files::Files;
use crate::folder::{Folder, FolderError};
use crate::names::Names;
use crate::spec::{BlobSpec, StoreSpec};
use crate::store::Store;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

/// Bindings by what they were specified as.
type Open<S, B> = Mutex<Vec<(Arc<S>, Weak<B>)>>;

/// All that are open.
pub(crate) struct Bindings {
    files: Files,
    pub(crate) names: Names,
    stores: Open<StoreSpec, Store>,
    blobs: Open<BlobSpec, Blobs>,
}

impl Bindings {
    pub(crate) fn new(files: Files, names: Names) -> Bindings {
        Bindings { files, names, stores: Mutex::default(), blobs: Mutex::default() }
    }

    pub(crate) fn store(&self, spec: &Arc<StoreSpec>) -> Result<Arc<Store>, FolderError> {
        open(&self.stores, spec, || Store::open(spec, &self.files, &self.names))
    }

    pub(crate) fn blobs(&self, spec: &Arc<BlobSpec>) -> Result<Arc<Blobs>, FolderError> {
        open(&self.blobs, spec, || Blobs::open(spec, &self.files))
    }
}

/// The one that is open, or a new one.
fn open<S: PartialEq, B>(
    all: &Open<S, B>,
    spec: &Arc<S>,
    new: impl FnOnce() -> Result<B, FolderError>,
) -> Result<Arc<B>, FolderError> {
    let all = &mut *all.lock().expect("no panic while held");
    all.retain(|(_, open)| open.strong_count() > 0);
    let same = all.iter().find(|(other, _)| other == spec).and_then(|(_, open)| open.upgrade());
    if let Some(same) = same {
        return Ok(same);
    }
    let new = Arc::new(new()?);
    all.push((spec.clone(), Arc::downgrade(&new)));
    Ok(new)
}

/// Opens a folder, on a thread that may.
pub(crate) fn folder(files: &Files, path: &Path, most: Option<u64>) -> Result<Arc<Folder>, FolderError> {
    let path = path.to_owned();
    files.run_blocking(move || Folder::open(&path, most))
}
