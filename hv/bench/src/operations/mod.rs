//! The operations of hv itself: floors, ring code and starts.
//!
//! A file here is an operation that needs something else of the host than a
//! guest and its devices; what a guest can measure by itself stands in
//! `guest-sdk/bench/src/operations`.

mod boot;
mod clone;
mod files;
mod floor;
mod host;
mod process;
pub mod ring;
mod vcpu;

use super::clones::Clones;
use super::guest::Guests;
use super::operation::{Operation, OperationError};
use std::path::Path;
use std::rc::Rc;

/// Every operation of hv itself, in the order in which they are shown.
///
/// # Errors
///
/// When the host refuses what they need.
pub fn all(
    guests: &Rc<Guests>,
    clones: &Rc<Clones>,
    bench: &Path,
    null: &Path,
) -> Result<Vec<Box<dyn Operation>>, OperationError> {
    // A new file is named above and here.
    let mut operations = floor::operations()?;
    operations.extend(host::operations());
    operations.extend(files::operations(guests.files()));
    operations.extend(ring::operations()?);
    operations.extend(vcpu::operations(guests)?);
    operations.extend(boot::operations(guests)?);
    operations.extend(clone::operations(clones));
    operations.extend(process::operations(bench, null)?);
    Ok(operations)
}
