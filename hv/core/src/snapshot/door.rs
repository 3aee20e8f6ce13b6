//! The file `state` and the folder around it, for the fuzz targets.

use super::header::{self, PARTS};
use super::{Features, OpenError, Snapshot};
use crate::platform::Platform;
use std::path::Path;
use zerocopy::{FromBytes, IntoBytes};

/// The facts and parts of a file `state`, if it is a whole one.
pub fn take_apart(state: &[u8]) -> Option<(Vec<u8>, [Vec<u8>; PARTS.len()])> {
    let parsed = header::parse(state).ok()?;
    let parts = PARTS.map(|(part, _)| parsed.part(part).to_vec());
    Some((parsed.facts.as_bytes().to_vec(), parts))
}

/// A file `state` of these facts and parts, with the checksums that they have. `None` if there are
/// not as many bytes of facts as there have to be.
pub fn put_together(facts: &[u8], parts: [Vec<u8>; PARTS.len()]) -> Option<Vec<u8>> {
    let facts = header::Facts::read_from_bytes(facts).ok()?;
    let mut parts = parts.into_iter();
    let parts = PARTS.map(|(part, _)| (part, parts.next().unwrap_or_default()));
    Some(header::compose(facts, &parts))
}

/// Reads the snapshot in a folder for guests of this platform.
pub fn open(dir: &Path, platform: &dyn Platform) -> Result<Snapshot, OpenError> {
    super::open::open(dir, platform, Features::of_host())
}
