//! What changes in a folder of the host.
#![forbid(unsafe_code)]

use super::Error;
use super::shared::error;
use crate::share::{self, Event};
use alloc::string::String;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// There is something of this name: it was made, or was renamed to it.
    Made,
    /// It is gone: it was removed, or has another name now.
    Removed,
    /// Its bytes or its size have changed.
    Written,
    /// Somebody who could write has closed it: what was to be written is there.
    Closed,
    /// Its permissions, owner, times or number of names have changed.
    Attributes,
    /// More has changed than was kept. Look at all that is there.
    Lost,
    /// Its file system is gone, and nothing more comes.
    Ended,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What has happened.
    pub kind: ChangeKind,
    /// The name in the folder; empty for the folder or file that is watched. What is not UTF-8 in it is replaced.
    pub name: String,
    /// Whether that is a folder.
    pub is_dir: bool,
    /// Of a name that was renamed within the folder: the same number in both changes, [`ChangeKind::Removed`] and [`ChangeKind::Made`].
    pub pair: Option<u32>,
}

/// A folder or file that is [watched](super::FileSystem::watch), until this is dropped.
#[derive(Debug)]
pub struct Watch(share::Watch);

impl Watch {
    pub(super) fn new(watch: share::Watch) -> Self {
        Watch(watch)
    }

    /// The next change, when there is one. Dropping the future loses nothing. Changes of a guest's own come as well.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] with `BadHandle` in a guest that was saved and goes on: the folder is to be watched anew. Otherwise what the host says.
    pub async fn next(&mut self) -> Result<Change, Error> {
        loop {
            let event = self.0.next().await.map_err(error)?;
            if let Some(kind) = kind(&event) {
                let name = String::from_utf8_lossy(&event.name).into_owned();
                return Ok(Change { kind, name, is_dir: event.is_dir(), pair: event.pair });
            }
        }
    }
}

/// The first that it can be called; `None` for what a later host may add.
fn kind(event: &Event) -> Option<ChangeKind> {
    let kinds = [
        (event.is_made(), ChangeKind::Made),
        (event.is_removed(), ChangeKind::Removed),
        (event.is_written(), ChangeKind::Written),
        (event.is_closed(), ChangeKind::Closed),
        (event.is_of_attributes(), ChangeKind::Attributes),
        (event.is_lost(), ChangeKind::Lost),
        (event.is_end(), ChangeKind::Ended),
    ];
    kinds.into_iter().find_map(|(is, kind)| is.then_some(kind))
}
