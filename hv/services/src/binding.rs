//! The bindings that functions share: each is opened once.

use crate::blob::Blobs;
use crate::files::Files;
use crate::folder::{Folder, FolderError};
use crate::names::Names;
use crate::spec::{BlobSpec, StoreSpec, TenantSpec};
use crate::store::Store;
use crate::tenant::Tenant;
use crate::tls::TlsError;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

/// Why a binding cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Bindings by what they were specified as.
type Open<S, B> = Mutex<Vec<(Arc<S>, Weak<B>)>>;

/// All that are open.
pub(crate) struct Bindings {
    files: Files,
    pub(crate) names: Names,
    stores: Open<StoreSpec, Store>,
    blobs: Open<BlobSpec, Blobs>,
    tenants: Open<TenantSpec, Tenant>,
}

impl Bindings {
    pub(crate) fn new(files: Files, names: Names) -> Bindings {
        Bindings {
            files,
            names,
            stores: Mutex::default(),
            blobs: Mutex::default(),
            tenants: Mutex::default(),
        }
    }

    pub(crate) fn store(&self, spec: &Arc<StoreSpec>) -> Result<Arc<Store>, OpenError> {
        open(&self.stores, spec, || Store::open(spec, &self.files, &self.names))
    }

    pub(crate) fn blobs(&self, spec: &Arc<BlobSpec>) -> Result<Arc<Blobs>, OpenError> {
        open(&self.blobs, spec, || Blobs::open(spec, &self.files, &self.names))
    }

    pub(crate) fn tenant(&self, spec: &Arc<TenantSpec>) -> Result<Arc<Tenant>, OpenError> {
        open(&self.tenants, spec, || Ok(Tenant::new(spec)))
    }
}

/// The one that is open, or a new one.
fn open<S: PartialEq, B>(
    all: &Open<S, B>,
    spec: &Arc<S>,
    new: impl FnOnce() -> Result<B, OpenError>,
) -> Result<Arc<B>, OpenError> {
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
