//! Opens what a function is made of: files whose storage may not answer.
#![forbid(unsafe_code)]

use super::config::Source;
use super::deploy::DeployError;
use super::time_limit::within;
use hv_core::device::block::{Disk, DiskError, DiskSpec};
use hv_core::engine::Engine;
use hv_core::loader::Image;
use hv_core::snapshot::Snapshot;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a function's guests begin with.
pub(super) enum Origin {
    /// To be booted.
    Image(Arc<Image>),
    /// Of a guest that was saved.
    Snapshot(Snapshot),
}

/// The files of a function, open.
type Files = (Origin, Arc<[Disk]>);

/// Opens all of them, unless that takes longer than `time`.
pub(super) fn open(engine: &Engine, source: &Source, time: Duration) -> Result<Files, DeployError> {
    let (engine, source) = (engine.clone(), source.clone());
    let begun = Arc::new(Mutex::new(source.path().to_owned()));
    let current = Current(begun.clone());
    match within(time, move || open_all(&engine, &source, &current)) {
        Ok(Some(files)) => files,
        Ok(None) => {
            let path = begun.lock().expect("no panic while held").clone();
            Err(DeployError::Silent { path, time })
        }
        Err(error) => Err(DeployError::Thread(error)),
    }
}

/// The file that is being opened.
struct Current(Arc<Mutex<PathBuf>>);

impl Current {
    fn is(&self, path: &Path) {
        path.clone_into(&mut self.0.lock().expect("no panic while held"));
    }
}

fn open_all(engine: &Engine, source: &Source, current: &Current) -> Result<Files, DeployError> {
    let open_disks = |disks: &[DiskSpec]| {
        let open = |disk: &DiskSpec| {
            current.is(&disk.path);
            Disk::open(disk)
        };
        disks.iter().map(open).collect::<Result<Arc<[Disk]>, DiskError>>()
    };
    match source {
        Source::Image { path, disks, .. } => {
            let image = Image::open(path)?;
            Ok((Origin::Image(Arc::new(image)), open_disks(disks)?))
        }
        Source::Snapshot { path, disks } => {
            let snapshot = Snapshot::open(path, engine)?;
            snapshot.check_disk_count(disks.len()).map_err(DeployError::DiskCount)?;
            let disks = open_disks(disks)?;
            snapshot.check_disks(&disks).map_err(DeployError::Disks)?;
            Ok((Origin::Snapshot(snapshot), disks))
        }
    }
}
